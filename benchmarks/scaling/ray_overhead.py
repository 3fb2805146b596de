"""What Ray adds to a stage of ten tasks of ten seconds: tasks that only wait."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ct.system.parallel_jobs import cores
from pipeline.engines.ray_engine import RayEngine
from pipeline.progress import Bar
from pipeline.units.unit import Log, MakeBar, Resources, Unit

MOST = 0.1  # bar: share of the tasks' own time
TASKS, TASK_SECONDS = 10, 10.0


@dataclass(frozen=True)
class WaitingUnit(Unit):
    """A unit that waits, and leaves a file."""

    number: int
    seconds: float

    @property
    def name(self) -> str:
        """Return its name."""
        return f"wait/{self.number}"

    def takes(self) -> Resources:
        """Return what it takes: one core."""
        return Resources(1)

    def why_not_done(self, verify: bool = False) -> str:
        """Return why it must run, or "" where its file is there."""
        return "" if self._file().is_file() else "not made yet"

    def run(self, log: Log, bar: MakeBar) -> None:
        """Wait, and write the file."""
        time.sleep(self.seconds)
        self._file().touch()

    def _file(self) -> Path:
        return Path(self.root) / f"waited-{self.number}"


def measure(folder: Path) -> tuple[float, float, float]:
    """Return seconds: of Ray's start and end, of ten tasks on it, and of the tasks by themselves.

    Raises RuntimeError where a task left no file.
    """
    root = folder / "waiting"
    root.mkdir()
    units = [WaitingUnit(str(root), number, TASK_SECONDS) for number in range(TASKS)]
    start = time.perf_counter()
    with RayEngine(None, None, []) as engine:
        _run(engine, [WaitingUnit(str(root), TASKS, 0.0)])  # starts Ray and its first process
        started = time.perf_counter()
        _run(engine, units)
        ended = time.perf_counter()
    stopped = time.perf_counter()
    if missing := [unit.name for unit in units if unit.why_not_done()]:
        raise RuntimeError(f"Ray left {', '.join(missing)} undone")
    by_themselves = math.ceil(TASKS / cores()) * TASK_SECONDS
    return started - start + stopped - ended, ended - started, by_themselves


def _run(engine: RayEngine, units: Sequence[Unit]) -> None:
    """Run units without a line."""

    def make_bar(total: int | None, text: str, unit: str) -> Bar:
        return Bar(total=total, disable=True)

    engine.run(units, lambda line: None, make_bar)
