"""The memory of this machine that this process may use."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MEMORY = Path("/proc/meminfo")
GROUPS = Path("/proc/self/cgroup")  # of this process: a line for each hierarchy
LIMITS = Path("/sys/fs/cgroup")


def free_memory_mb() -> int:
    """Return the memory that is free for new processes, MB: of the machine, or the limit here.

    A container or a batch system such as Slurm sets a limit by control groups.
    """
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_group_limits()]
    with suppress(OSError, ValueError, IndexError, StopIteration):  # no Linux
        lines = MEMORY.read_text(encoding="ascii").splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        sizes.append(int(available.split()[1]) * 1024)
    return min(sizes) // 2**20


def _group_limits() -> Iterator[int]:
    """Yield the limits of this process's control group and of those above it, bytes."""
    with suppress(OSError):  # no Linux
        for line in GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers == "":  # version 2
                folder, name = LIMITS, "memory.max"
            elif "memory" in controllers.split(","):  # version 1
                folder, name = LIMITS / "memory", "memory.limit_in_bytes"
            else:
                continue
            path = Path(group.lstrip("/"))
            for each in (path, *path.parents):  # a container may see its own group as the root
                with suppress(OSError, ValueError):  # not there, or no limit ("max")
                    yield int((folder / each / name).read_text(encoding="ascii"))
