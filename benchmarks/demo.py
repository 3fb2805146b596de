"""The demo over five seeds: gain of stage two, minutes and memory.

    python -m benchmarks.demo [--quick] [--keep=DIR]

Prints one table; exits with 1 where a bar is missed. Beside the gain over the calibrated stage one
is the gain with the slices permuted inside their studies. --quick: one seed; --keep: the runs stay
in DIR and are continued.
"""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.command_line import RUN, flag_parser
from ct.slices import GEOMETRY_COLUMNS
from ct.storage.file_formats import read_table, write_table
from pipeline.receipt import Receipt
from pipeline.registry import STAGES
from pipeline.run_context import Run

MINUTES, MEMORY_GB = 5.0, 4.0


def main():
    options = flag_parser(__doc__)
    options.add_argument("--keep", type=Path)
    options = options.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="ich-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(
        "seed  minutes  memory  stage one  stage two  gain [95 % interval]         permuted gain "
        "[95 % interval]"
    )
    missed = []
    for seed in range(1 if options.quick else 5):
        minutes, memory, status = demo(folder / str(seed), seed)
        if status:
            missed.append(f"seed {seed}: exit status {status}, see {folder / str(seed)}.log")
            continue
        scores = json.loads((folder / str(seed) / "stage2/scores.json").read_text())
        one, two, gain = (scores[name]["weighted"] for name in ("calibrated", "stage_two", "gain"))
        control = permuted_gain(folder / str(seed), folder / f"{seed}-permuted", seed)
        print(
            f"{seed:4}  {minutes:7.1f}  {memory:3.1f} GB  {one['loss']:9.4f}  {two['loss']:9.4f}  "
            f"{interval(gain)}   {interval(control)}",
            flush=True,
        )
        missed += [
            f"seed {seed}: {text}"
            for bad, text in (
                (minutes > MINUTES, f"{minutes:.1f} minutes, the bar is {MINUTES:g}"),
                (memory > MEMORY_GB, f"{memory:.1f} GB, the bar is {MEMORY_GB:g}"),
                (two["loss"] >= one["loss"], "stage two does not beat calibrated stage one"),
                (
                    not control["low"] <= 0 <= control["high"],
                    "the permuted gain's interval excludes zero",
                ),
            )
            if bad
        ]
    if not options.keep:
        shutil.rmtree(folder)
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


def demo(run, seed):
    """Run the demo in a process of its own.

    Returns (minutes, peak GB of all its processes together, exit status).
    """
    start, peak = time.perf_counter(), 0
    words = [*RUN, "demo", f"--run={run}", f"--seed={seed}"]
    with (
        open(f"{run}.log", "w", encoding="utf-8") as log,
        subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            time.sleep(0.3)
    return (time.perf_counter() - start) / 60, peak / 1e9, process.returncode


def tree_memory(pid):
    """Return the bytes that a process and its children hold, shared ones counted once."""
    total = 0
    for child in [pid, *children(pid)]:
        with contextlib.suppress(OSError):  # it has just ended
            text = Path(f"/proc/{child}/smaps_rollup").read_text(encoding="utf-8")
            total += 1024 * int(
                next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1]
            )
    return total


def children(pid):
    """Return the process ids below `pid`."""
    with contextlib.suppress(OSError):
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
        return [int(child) for child in below] + [
            grand for child in below for grand in children(child)
        ]
    return []


def permuted_gain(run, copy, seed):
    """Return stage two's weighted gain when the slices of each series are permuted at random.

    Predictions and labels move together.
    """
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(
        run,
        copy,
        ignore=shutil.ignore_patterns("pixels", "stage2", "receipts", "*.npy", "weights*"),
    )
    slices = read_table(copy / "slices.parquet")
    write_table(copy / "slices.parquet", permute(slices, np.random.default_rng(seed)))
    opened = Run(copy, log=lambda text: None)
    with contextlib.redirect_stderr(io.StringIO()):
        for name in ("features", "tune", "stack"):
            module, function = STAGES[name].function.split(":")
            with Receipt(copy, copy / "receipts" / f"{name}.json", name, {}, {}) as receipt:
                getattr(__import__(f"pipeline.{module}", fromlist=[function]), function)(
                    opened, receipt
                )
    return json.loads((copy / "stage2/scores.json").read_text())["gain"]["weighted"]


def permute(slices, rng):
    """Return the slice table with GEOMETRY_COLUMNS permuted inside each series, sorted again."""
    slices = slices.copy()
    series = (
        slices.groupby(["split", "study_id", "series_id"], sort=False, observed=True)
        .ngroup()
        .to_numpy()
    )
    order = np.lexsort([rng.random(len(slices)), series])  # within each series, in random order
    columns = list(GEOMETRY_COLUMNS)
    slices[columns] = slices[columns].iloc[order].to_numpy()
    slices = slices.astype(
        {"place": np.int32, "series_slices": np.int32, "mixed_orientation": bool}
    )
    slices = slices.astype(
        {name: np.float64 for name in ("position_mm", "gap_below_mm", "gap_above_mm", "tilt_deg")}
    )
    return slices.iloc[np.lexsort([slices["place"], series])]


def interval(gain):
    return f"{gain['gain']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"


if __name__ == "__main__":
    sys.exit(main())
