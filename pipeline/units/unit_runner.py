"""Run one unit in any process: under its lock, unless it is done."""

import contextlib
from typing import NamedTuple

from ct.system.blas_threads import one_blas_thread
from pipeline.units.portable_errors import portable
from pipeline.units.progress_files import SUFFIX, file_bars
from pipeline.units.unit import Log, MakeBar, Unit
from pipeline.units.unit_lock import lock_path, unit_lock


class Outcome(NamedTuple):
    """What a call of `run_unit` did."""

    busy: bool  # another process holds the unit's lock
    lines: list[str]  # for the log, of a worker process
    error: Exception | None = None  # of a worker process


def run_unit(
    unit: Unit, wait: bool = True, log: Log | None = None, bar: MakeBar | None = None
) -> Outcome:
    """Run a unit, unless it is done.

    wait: for its lock, where another process holds it; log, bar: of this process. In a worker
    process they are None: lines are returned, and progress is written to a file beside the lock.
    """
    lines: list[str] = []
    log = log or lines.append
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(unit_lock(unit, wait)):
            return Outcome(True, lines)
        kept = not unit.why_not_done(verify=True)
        if not kept:
            if not unit.takes().gpus:  # a CNN has the threads of its recipe
                stack.enter_context(one_blas_thread())
            progress_file = lock_path(unit).with_suffix(SUFFIX)
            unit.run(log, bar or stack.enter_context(file_bars(progress_file)))
    log_done(unit, log, kept)
    return Outcome(False, lines)


def run_in_worker(unit: Unit, wait: bool) -> Outcome:
    """Run a unit in a worker process; an error is returned, in a form that can be sent."""
    try:
        return run_unit(unit, wait)
    except Exception as error:
        return Outcome(False, [], portable(error))


def log_done(unit: Unit, log: Log, kept: bool) -> None:
    """Log the summary of a unit that is done. kept: by an earlier call"""
    if summary := unit.summary():
        log(f"  {summary}{', kept' if kept else ''}")
