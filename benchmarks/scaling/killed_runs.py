"""Runs whose workers, shards or nodes are killed: nothing is lost but the time of a unit.

A process that does a unit holds the unit's lock file open: so the system names the process that a
kill must hit, whichever engine started it.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.scaling.same_bytes import finish, start

POLL = 0.05  # seconds

Hits = dict[str, str]  # stage -> the unit whose process was killed


def unit_holders(run: Path) -> list[tuple[str, str, int]]:
    """Return (stage, unit, process) of the units that processes of this machine do."""
    holders = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            for file in (process / "fd").iterdir():
                path = Path(os.readlink(file))
                if path.parent == run / "locks" and path.suffix == ".lock":
                    stage = path.stem.partition("-")[0]
                    holders.append((stage, path.stem, int(process.name)))
    return holders


@contextlib.contextmanager
def kills(run: Path, hit: Callable[[str, int], bool], delay: float) -> Iterator[Hits]:
    """Kill processes that do units, one in each stage, until the block ends.

    hit: called with the stage and a process that does a unit of it for `delay` seconds, until it
    returns True. Yields the units that were hit.
    """
    hits: Hits = {}
    over = threading.Event()

    def watch() -> None:
        since: dict[tuple[str, int], float] = {}
        while not over.wait(POLL):
            now, holders = time.monotonic(), unit_holders(run)
            since = {(unit, pid): since.get((unit, pid), now) for _, unit, pid in holders}
            for stage, unit, pid in holders:
                if stage not in hits and now - since[unit, pid] >= delay and hit(stage, pid):
                    hits[stage] = unit

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield hits
    finally:
        over.set()
        thread.join()


def kill(process: int) -> bool:
    """Kill a process. Returns whether it was still there."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def with_workers_killed(run: Path, delay: float) -> Hits:
    """Run all stages on two places; a worker is killed in each stage that has several units."""
    process = start("all", f"--run={run}", "--workers=2", "--gpus=cpu,cpu")

    def hit(_: str, pid: int) -> bool:
        return pid != process.pid and kill(pid)

    with kills(run, hit, delay) as hits:
        finish(process)
    return hits
