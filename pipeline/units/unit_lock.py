"""The lock of a unit: two processes, also on two machines, never do one unit at the same time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ct.storage.file_lock import file_lock
from pipeline.units.unit import Unit

LOCKS = "locks"  # folder of the run: locks of units and joins, progress of units


def lock_path(unit: Unit) -> Path:
    """Return the path of a unit's lock file."""
    return Path(unit.root) / LOCKS / f"{unit.name.replace('/', '-')}.lock"


@contextlib.contextmanager
def unit_lock(unit: Unit, wait: bool) -> Iterator[bool]:
    """Hold a unit's lock; yield False where another process holds it and `wait` is False."""
    path = lock_path(unit)
    path.parent.mkdir(exist_ok=True)
    with file_lock(path, wait=wait) as held:
        yield held
