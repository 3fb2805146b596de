"""The memory that a process may use: what is free, within the limits of its control groups."""

import pytest

from ct.system import machine_memory
from ct.system.machine_memory import free_memory_mb

FREE_MB = 900


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Write the files of a machine: the groups of the process, and {file: limit}."""

    def write(groups, limits):
        memory, lines = tmp_path / "meminfo", tmp_path / "cgroup"
        memory.write_text(f"MemTotal: 99 kB\nMemAvailable:  {FREE_MB * 1024} kB\n")
        lines.write_text(groups)
        for name, limit in limits.items():
            path = tmp_path / "limits" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{limit}\n")
        monkeypatch.setattr(machine_memory, "MEMORY", memory)
        monkeypatch.setattr(machine_memory, "GROUPS", lines)
        monkeypatch.setattr(machine_memory, "LIMITS", tmp_path / "limits")
        monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 10**6))

    return write


SLURM = "0::/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0\n"


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("", {}, FREE_MB),
        (SLURM, {}, FREE_MB),
        (SLURM, {"system.slice/slurmstepd.scope/job_7/memory.max": 300 * 2**20}, 300),
        (
            SLURM,
            {
                "system.slice/slurmstepd.scope/job_7/memory.max": 300 * 2**20,
                "system.slice/slurmstepd.scope/job_7/step_batch/memory.max": 200 * 2**20,
                "system.slice/memory.max": "max",
            },
            200,
        ),
        (SLURM, {"system.slice/slurmstepd.scope/job_8/memory.max": 300 * 2**20}, FREE_MB),
        (SLURM, {"memory.max": 5000 * 2**20}, FREE_MB),
        ("0::/\n", {"memory.max": 400 * 2**20}, 400),  # a container
        (
            "5:cpu,cpuacct:/a\n4:memory:/slurm/job_7\n",
            {"memory/slurm/job_7/memory.limit_in_bytes": 250 * 2**20, "a/memory.max": 2**20},
            250,
        ),
        ("4:memory:/docker/0f\n", {"memory/memory.limit_in_bytes": 350 * 2**20}, 350),
    ],
)
def test_the_smallest_limit_counts(machine, groups, limits, expected):
    machine(groups, limits)
    assert free_memory_mb() == expected


def test_this_machine_has_memory():
    assert free_memory_mb() > 100
