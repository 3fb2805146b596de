"""The units of a run for `status --units`: which are done, which run now, what each takes."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ct.errors import InputError, number_of
from ct.storage.file_lock import file_lock
from pipeline.input_digests import input_digests
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.stage_runner import units_of
from pipeline.units.progress_files import SUFFIX
from pipeline.units.unit import Resources, Unit
from pipeline.units.unit_lock import lock_path

UnitRow = dict[str, Any]


def unit_rows(run: Run) -> dict[str, list[UnitRow]]:
    """Return {stage: its units that are known so far}, for the stages with units.

    A unit is {"name", "state", "why", "needs", "extends_plan", "progress"} and its Resources. Its
    state is "done", "running" or "missing"; extends_plan: whether more units are known once it is
    done; progress: the line that it wrote last, while it runs.
    """
    rows = {}
    for name, stage in STAGES.items():
        if stage.units:
            units = units_of(run, stage, input_digests(run, stage))
            rows[name] = [_row(unit) for unit in units]
    return rows


def _row(unit: Unit) -> UnitRow:
    why, takes = unit.why_not_done(), unit.takes()
    state, progress = "missing" if why else "done", ""
    if why and _is_locked(unit):
        state, why = "running", ""
        with suppress(OSError):  # it has not written a line, or has just ended
            progress = lock_path(unit).with_suffix(SUFFIX).read_text(encoding="utf-8")
    return {
        "name": unit.name,
        "state": state,
        "why": why,
        "needs": list(unit.needs),
        "extends_plan": unit.extends_plan,
        **takes._asdict(),
        "progress": progress,
    }


def _is_locked(unit: Unit) -> bool:
    """Return whether a process does the unit now, here or on another machine."""
    if not lock_path(unit).exists():
        return False
    with suppress(InputError, PermissionError), file_lock(lock_path(unit)) as held:
        return not held
    return False


def unit_lines(rows: dict[str, list[UnitRow]]) -> Iterator[str]:
    """Yield what `status --units` prints. rows: as returned by `unit_rows`"""
    for stage, units in rows.items():
        if not units:
            continue
        counts = []
        for state in ("done", "running", "missing"):
            if number := sum(row["state"] == state for row in units):
                counts.append(f"{number} {state}")
        more = any(row["extends_plan"] and row["state"] != "done" for row in units)
        yield (
            f"{stage}: {number_of(len(units), 'unit')}: {', '.join(counts)}"
            f"{'; more are known later' * more}"
        )
        width = max(len(row["name"]) for row in units)
        for row in units:
            takes = _takes_text(Resources(row["cores"], row["gpus"], row["memory_mb"]))
            about = row["progress"] or row["why"]
            yield f"  {row['name']:{width}}  {row['state']:8} {takes:26} {about}".rstrip()


def _takes_text(takes: Resources) -> str:
    """Return "1 GPU, 2 cores, 1.5 GB"."""
    words = [f"{takes.gpus} GPU"] if takes.gpus else []
    words.append(number_of(takes.cores, "core"))
    if takes.memory_mb:
        words.append(f"{takes.memory_mb / 1000:.1f} GB")
    return ", ".join(words)
