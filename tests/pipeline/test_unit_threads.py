"""Units on the CPU and joins use one BLAS thread: bytes must not depend on a process's cores."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import run
from pipeline.stages import submit as module
from pipeline.units.unit import Resources, Unit
from pipeline.units.unit_runner import run_unit


def blas_threads():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@dataclass(frozen=True)
class ThreadsUnit(Unit):
    """Notes the number of BLAS threads while it runs."""

    gpus: int

    @property
    def name(self):
        return f"threads/{self.gpus}"

    def takes(self):
        return Resources(4, self.gpus)

    def why_not_done(self, verify=False):
        return "" if self.path.exists() else "not made yet"

    def run(self, log, bar):
        self.path.write_text(str(blas_threads()))

    @property
    def path(self):
        return Path(self.root) / f"{self.gpus}.txt"


@pytest.mark.parametrize(("gpus", "threads"), [(0, {1}), (1, {2})])
def test_a_unit_without_a_gpu_runs_with_one(tmp_path, gpus, threads):
    unit = ThreadsUnit(str(tmp_path), gpus)
    with threadpool_limits(2, "blas"):
        run_unit(unit)
        assert blas_threads() == {2}
    assert unit.path.read_text() == str(threads)


def test_the_join_of_a_stage_runs_with_one(finished, tmp_path, monkeypatch):
    folder, seen = shutil.copytree(finished, tmp_path / "r"), []
    (folder / "receipts" / "submit.json").unlink()
    before = module.submit

    def submit(*arguments):
        seen.append(blas_threads())
        before(*arguments)

    monkeypatch.setattr(module, "submit", submit)
    with threadpool_limits(2, "blas"):
        assert run.main(["submit", f"--run={folder}"]) == 0
    assert seen == [{1}]
