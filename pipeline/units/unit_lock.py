"""The lock of a unit: two processes, also on two machines, never do one unit at the same time.

The operating system releases the lock of a process that ends, however it ends. On a network disk
this needs locks between machines; docs/scaling.md says which disks have them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.units.unit import Unit

LOCKS = "locks"  # folder of the run


def lock_path(unit: Unit) -> Path:
    """Return the path of a unit's lock file."""
    return Path(unit.root) / LOCKS / f"{unit.name.replace('/', '-')}.lock"


@contextlib.contextmanager
def unit_lock(unit: Unit, wait: bool) -> Iterator[bool]:
    """Hold a unit's lock; yield False where another process holds it and `wait` is False."""
    path = lock_path(unit)
    path.parent.mkdir(exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
