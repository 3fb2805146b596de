"""Scaling out: the same bytes on every engine, kills, overheads, and a simulated schedule.

    python -m benchmarks.scale_out [--quick] [--only=PART] [--folder=DIR]

Prints one table; exits with 1 where a bar is missed. --quick: five minutes at most, on micro data
and without the parts of LONG; --only: one of the parts below; --folder: where the runs are written;
the system's temporary folder if not given.

    bytes     the same files by one unit after the other, in two places, by four shards, on Ray
    kills     the same files on each of them where workers, shards and a node are killed
    ray       what Ray adds to ten tasks
    gold      the schedule of gold, simulated on 1, 4, 10 and 20 machines
    memory    stage two's units with 945 columns: measured, and what the scheduler plans
    growth    memory, disk and processor seconds a slice of what holds all slices at once
    tune      30 searches by one process and two, and simulated for sixteen (needs a quiet machine)
    threads   one LightGBM fit with one thread and with two (needs a quiet machine)
"""

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import growth
from benchmarks.command_line import flag_parser
from benchmarks.scaling import (
    fit_threads,
    gold_schedule,
    gold_units,
    killed_runs,
    ray_overhead,
    same_bytes,
    tune_processes,
)
from benchmarks.scaling.ray_nodes import two_nodes
from benchmarks.stacking import stack_memory
from ct.system.parallel_jobs import Worker
from pipeline.engines.local_engine import device_environment
from pipeline.engines.placement import Machine, at_once
from pipeline.units.unit import Resources

LEAST_SPEEDUP = 1.75  # of a fit with two threads; the simulation states 1.85
# left out by --quick: `kills` runs the engines of `bytes`; the others take minutes each
LONG = ("bytes", "memory", "growth", "tune", "threads")


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
    parts = [name for name in PARTS if not options.quick or name not in LONG]
    for name in [options.only] if options.only else parts:
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
        expected, name = whole_run(competition, folder), competition.name
        with ray_folder() as short, two_nodes(short, 2) as nodes:
            engines: dict[str, Callable[[Path], None]] = {
                "two places on the CPU": same_bytes.two_slots,
                "four shards at once": same_bytes.shards_at_once,
                "Ray, two nodes": same_bytes.on_ray(nodes),
            }
            for engine, run_all in engines.items():
                run = same_bytes.new_run(competition, folder / "run")
                yield compared(f"{name}, {engine}", run_all, run, expected)


def kills_of_engines(folder: Path, quick: bool) -> Iterator[Row]:
    """Kill workers, shards and a node while they do units; compare the files afterwards."""
    delay = 0.0 if quick else 1.0
    for competition in same_bytes.competitions(folder, quick):
        expected, name = whole_run(competition, folder), competition.name
        with ray_folder() as short, two_nodes(short, 2) as nodes:
            engines: dict[str, Callable[[Path], killed_runs.Hits]] = {
                "two places, workers killed": killed_runs.with_workers_killed(delay),
                "four shards, some killed": killed_runs.with_shards_killed(delay),
                "Ray, workers killed, a node removed": killed_runs.with_ray_killed(nodes, delay),
            }
            for engine, run_all in engines.items():
                run = same_bytes.new_run(competition, folder / "run")
                yield compared(f"{name}, {engine}", run_all, run, expected)


def whole_run(competition: same_bytes.Competition, folder: Path) -> Path:
    """Return the run of one unit after the other, made once."""
    run = folder / f"{competition.name}-whole"
    if not (run / "submission.csv").is_file():
        same_bytes.one_at_a_time(same_bytes.new_run(competition, run))
    return run


def compared(
    what: str, run_all: Callable[[Path], killed_runs.Hits | None], run: Path, expected: Path
) -> Row:
    """Run all stages, and return the row of a run that must have the files of another.

    run_all: returns the units whose processes it killed, one of `train` at least; None: kills none
    """
    try:
        hits = run_all(run)
    except RuntimeError as error:
        return Row(what, str(error), "the same bytes", False)
    different = same_bytes.different_files(run, expected)
    figure = f"different: {', '.join(different)}" if different else "the same bytes"
    if hits is not None:
        figure += f"; killed in {', '.join(hits) or 'no stage'}"
    return Row(what, figure, "the same bytes", not different and (hits is None or "train" in hits))


def overhead_of_ray(folder: Path, quick: bool) -> Iterator[Row]:
    """Compare the time of ten tasks on Ray with the time that they take by themselves."""
    start, seconds, by_themselves = ray_overhead.measure(folder)
    share = seconds / by_themselves - 1
    what = f"Ray, {ray_overhead.TASKS} tasks of {ray_overhead.TASK_SECONDS:.0f} s: more time"
    figure = f"{100 * share:.1f} % ({by_themselves:.0f} -> {seconds:.1f} s)"
    yield Row(what, figure, f"<= {100 * ray_overhead.MOST:.0f} %", share <= ray_overhead.MOST)
    yield Row("Ray, its start and end, once a command", f"{start:.1f} s", "")


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


def memory_of_stage_two(folder: Path, quick: bool) -> Iterator[Row]:
    """Compare the memory of stage two's units with what the scheduler plans for them."""
    for unit in stack_memory.measure_growth(quick):
        sizes = list(zip(unit.rows, unit.measured, strict=True))
        if not quick:  # so few slices do not lie on the line
            sizes.append((stack_memory.GOLD, unit.at(stack_memory.GOLD)))
        for slices, measured in sizes:
            planned = stack_memory.planned_mb(unit.kind, slices)
            what = f"{unit.kind}, {len(stack_memory.names_of())} columns, {slices:,} slices"
            figure = f"{measured.mb / 1e3:.1f} GB"
            yield Row(what, figure, f"<= {planned / 1e3:.1f} GB", measured.mb <= planned)
    takes = Resources(1, 0, stack_memory.planned_mb("search", stack_memory.GOLD))
    for memory_mb in (64_000, 128_000):
        count = at_once(Machine(gold_schedule.CORES, memory_mb), [takes] * 30)
        figure = f"{count}, {count * takes.memory_mb / 1e3:.0f} GB"
        what = f"searches at once on {gold_schedule.CORES} cores, {memory_mb // 1000} GB"
        yield Row(what, figure, f"<= {memory_mb // 1000} GB", count * takes.memory_mb <= memory_mb)


def threads_of_a_fit(folder: Path, quick: bool) -> Iterator[Row]:
    """Compare one LightGBM fit with two threads and with one."""
    worker = Worker(device_environment(""))
    speedup = worker.submit(fit_threads.speedup_of_two).result()
    worker.close()
    what = f"two threads of one fit, stated {gold_units.SPEEDUP_OF_TWO:g} times as fast"
    yield Row(what, f"{speedup:.2f}", f">= {LEAST_SPEEDUP:g}", speedup >= LEAST_SPEEDUP)


def growth_a_slice(folder: Path, quick: bool) -> Iterator[Row]:
    """Compare what a slice costs at several sizes; show 1, 10 and 100 competitions."""
    found = growth.measure_sizes(folder / "growth", quick)
    print("\n".join([*growth.size_table(found), *growth.times_table(found)]))
    for stage, sizes in found.items():
        for name, times in growth.grown(sizes).items():
            what = f"{stage}, {name} a slice: in times of a smaller size"
            yield Row(what, f"{times:.2f}", f"<= {growth.GROWTH:g}", times <= growth.GROWTH)


def processes_of_tune(folder: Path, quick: bool) -> Iterator[Row]:
    """Compare `tune` by several processes with one."""
    seconds, shares = tune_processes.measure(folder, quick)
    for processes, share in shares.items():
        kind = "simulated" if processes > 2 else "measured"
        figure = f"{share:.2f} ({seconds[1]:.0f} -> {seconds[processes]:.1f} s)"
        least = tune_processes.LEAST[processes]
        what = f"tune, 30 searches, {processes} processes, {kind}: of linear"
        yield Row(what, figure, f">= {least:g}", share >= least)


@contextlib.contextmanager
def ray_folder() -> Iterator[Path]:
    """Yield a folder with a short path: that of a socket has 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


PARTS: dict[str, Callable[[Path, bool], Iterator[Row]]] = {
    "gold": schedule_of_gold,
    "bytes": bytes_of_engines,
    "kills": kills_of_engines,
    "ray": overhead_of_ray,
    "memory": memory_of_stage_two,
    "growth": growth_a_slice,
    "tune": processes_of_tune,
    "threads": threads_of_a_fit,
}

if __name__ == "__main__":
    sys.exit(main())
