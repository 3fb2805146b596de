"""Scaling out: the same bytes on every engine, kills, and a simulated schedule.

    python -m benchmarks.scale_out [--quick] [--only=PART] [--folder=DIR]

Prints one table; exits with 1 where a bar is missed. --quick: five minutes at most, on micro data;
--only: one of the parts below; --folder: where the runs are written; the system's temporary folder
if not given.

    bytes     the same files by one unit after the other and in two places at once
    kills     the same files where workers are killed
    gold      the schedule of gold, simulated on 1, 4, 10 and 20 machines
    tune      30 searches by one process and two, and simulated for sixteen (needs a quiet machine)
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.command_line import flag_parser
from benchmarks.scaling import gold_schedule, killed_runs, same_bytes, tune_processes


class Row(NamedTuple):
    """A line of the table."""

    what: str
    figure: str
    bar: str
    met: bool = True


def main() -> int:
    options = flag_parser(__doc__, "five minutes at most, on micro data")
    options.add_argument("--only", choices=list(PARTS))
    options.add_argument("--folder", type=Path)
    options = options.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="ich-scale-"))
    folder.mkdir(parents=True, exist_ok=True)
    missed = 0
    print(f"{'what':58}  {'figure':34}  bar")
    for name in [options.only] if options.only else PARTS:
        start = time.perf_counter()
        for row in PARTS[name](folder, options.quick):
            missed += not row.met
            verdict = "" if row.met else "  MISSED"
            print(f"{row.what:58}  {row.figure:34}  {row.bar}{verdict}", flush=True)
        print(f"  ({name}: {time.perf_counter() - start:.0f} s)", flush=True)
    if not options.folder:
        shutil.rmtree(folder)
    print(f"{missed} bars are missed" if missed else "every bar is met")
    return 1 if missed else 0


def bytes_of_engines(folder: Path, quick: bool) -> Iterator[Row]:
    """Compare the files of a run on each engine with those of one unit after the other."""
    for competition in same_bytes.competitions(folder, quick):
        expected = same_bytes.new_run(competition, folder / f"{competition.name}-whole")
        same_bytes.one_at_a_time(expected)
        run = same_bytes.new_run(competition, folder / "run")
        same_bytes.two_slots(run)
        yield compared(f"{competition.name}, two places on the CPU", run, expected)


def kills_of_engines(folder: Path, quick: bool) -> Iterator[Row]:
    """Kill workers while they do units; compare the files afterwards."""
    delay = 0.0 if quick else 1.0
    for competition in same_bytes.competitions(folder, quick):
        expected = folder / f"{competition.name}-whole"
        if not (expected / "submission.csv").is_file():
            same_bytes.one_at_a_time(same_bytes.new_run(competition, expected))
        run = same_bytes.new_run(competition, folder / "run")
        hits = killed_runs.with_workers_killed(run, delay)
        yield compared(f"{competition.name}, workers killed", run, expected, hits)


def compared(what: str, run: Path, expected: Path, hits: killed_runs.Hits | None = None) -> Row:
    """Return the row of a run that must have the files of another.

    hits: where they are given, at least a unit of `train` must have been hit.
    """
    different = same_bytes.different_files(run, expected)
    figure = f"different: {', '.join(different)}" if different else "the same bytes"
    if hits is None:
        return Row(what, figure, "the same bytes", not different)
    what = f"{what} ({', '.join(hits) or 'no unit was hit'})"
    return Row(what, figure, "the same bytes", not different and "train" in hits)


def schedule_of_gold(folder: Path, quick: bool) -> Iterator[Row]:
    """Simulate `gold` from stated times of units."""
    schedules = gold_schedule.gold_schedules()
    print("\n".join(gold_schedule.schedule_table(schedules)))
    missed = gold_schedule.missed_bars(schedules)
    for schedule in schedules[1:]:
        training, whole = schedule.linear_fits / schedule.fits, schedule.linear / schedule.hours
        bars = [
            f">= {least:g}" if bound else ""
            for least, bound in (
                (gold_schedule.LEAST_TRAINING, schedule.machines >= 10),
                (gold_schedule.LEAST_WHOLE, schedule.machines == 10),
            )
        ]
        what = f"gold on {schedule.machines} machines, of linear"
        yield Row(f"{what}: training", f"{training:.3f}", bars[0])
        yield Row(f"{what}: the whole run", f"{whole:.3f}", bars[1])
    for line in missed:
        yield Row("gold", line, "", False)


def processes_of_tune(folder: Path, quick: bool) -> Iterator[Row]:
    """Compare `tune` by several processes with one."""
    seconds, shares = tune_processes.measure(folder, quick)
    for processes, share in shares.items():
        kind = "simulated" if processes > 2 else "measured"
        figure = f"{share:.2f} ({seconds[1]:.0f} -> {seconds[processes]:.1f} s)"
        least = tune_processes.LEAST[processes]
        what = f"tune, 30 searches, {processes} processes, {kind}: of linear"
        yield Row(what, figure, f">= {least:g}", share >= least)


PARTS: dict[str, Callable[[Path, bool], Iterator[Row]]] = {
    "gold": schedule_of_gold,
    "bytes": bytes_of_engines,
    "kills": kills_of_engines,
    "tune": processes_of_tune,
}

if __name__ == "__main__":
    sys.exit(main())
