"""Locks of a run's units: two processes, also on two machines, never do one unit at the same time.

The join of a stage has such a lock, too. ct/storage/file_lock.py says how the locks work.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ct.storage.file_lock import file_lock
from pipeline.units.unit import Unit

LOCKS = "locks"  # folder of the run: locks of units and joins, progress of units
_SHARDS = ".shards"  # end of the name of the lock that all shards of a stage hold together


def lock_path(unit: Unit) -> Path:
    """Return the path of a unit's lock file."""
    return _path(Path(unit.root), unit.name.replace("/", "."))  # no name of a model has a dot


@contextlib.contextmanager
def unit_lock(unit: Unit, wait: bool) -> Iterator[bool]:
    """Hold a unit's lock; yield False where another process holds it and `wait` is False."""
    path = lock_path(unit)
    _make_folder(path)
    with file_lock(path, wait=wait) as held:
        yield held


def is_busy(unit: Unit) -> bool:
    """Return whether another process does a unit."""
    with unit_lock(unit, wait=False) as held:
        return not held


@contextlib.contextmanager
def join_lock(root: Path, stage: str, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of what a stage makes of its units; `wait` as in `unit_lock`."""
    path = _path(root, f"{stage}.join")
    _make_folder(path)
    with file_lock(path, wait=wait) as held:
        yield held


@contextlib.contextmanager
def stage_of_shards(root: Path, stage: str) -> Iterator[str]:
    """Count as a shard of a stage; yield another stage that has shards at work, or ""."""
    path = _path(root, f"{stage}{_SHARDS}")
    _make_folder(path)
    # a shard of another stage may hold it alone for a moment, as below
    with file_lock(path, shared=True, wait=True):
        others = [other for other in _stages_with_shards(root) if other != stage]
        yield next((other for other in others if _is_held(root, other)), "")


def _stages_with_shards(root: Path) -> list[str]:
    paths = (root / LOCKS).glob(f"*{_SHARDS}.lock")
    return sorted(path.name.partition(".")[0] for path in paths)


def _is_held(root: Path, stage: str) -> bool:
    with file_lock(_path(root, f"{stage}{_SHARDS}")) as free:
        return not free


def _path(root: Path, name: str) -> Path:
    return root / LOCKS / f"{name}.lock"


def _make_folder(path: Path) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
