"""The memory of this machine that this process may use."""

import os
from contextlib import suppress
from pathlib import Path

CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of a container; versions 2 and 1


def free_memory_mb() -> int:
    """Return the memory that is free for new processes, MB: of the machine or of its container."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError, ValueError, IndexError):  # no Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        sizes.append(int(available.split()[1]) * 1024)
    for name in CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no container, or no limit ("max")
            sizes.append(int((Path("/sys/fs/cgroup") / name).read_text(encoding="ascii")))
    return min(sizes) // 2**20
