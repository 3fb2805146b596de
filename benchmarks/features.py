"""Seconds and memory of the features of 752,803 slices and four CNNs, and the same by pandas.

    python -m benchmarks.features [--quick]      --quick: an eighth of the slices, the same ratios

Prints one table; exits with 1 where a bar is missed. The geometry and labels are those of real
studies, repeated under new names (stage_two/labelled_studies.csv.gz in ICH_REAL_DATA or
../shared/data; made-up series where it is missing). Predictions are the labels with noise. Each
figure comes from a process of its own (of two, if it is short), after a small build that loads the
libraries; its memory is that process's peak, with the matrix. Growth and the comparison with pandas
are in processor seconds, which other processes on a shared machine disturb less.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.command_line import flag_parser, module_command
from benchmarks.large_tables.pandas_features import BY_PANDAS, by_pandas
from benchmarks.large_tables.repeated_studies import (
    FOLDS,
    MODELS,
    make_predictions,
    real_studies,
    repeat,
)
from ct.averaging import mean_logits, to_logits
from ct.system.parallel_jobs import cores
from features.build import build_features
from features.config import FeatureConfig
from features.markov_fitting import cross_fit_chains

SLICES = 752_803
SECONDS, MEMORY_GB, COLUMNS, TIMES_PANDAS, GROWTH = 90.0, 8.0, 800, 8.0, 1.3
SIXTEENTH = SLICES // 16  # rows for pandas, quick or not
ALL = FeatureConfig(
    reach=10,
    model_reach=10,
    difference_reach=10,
    smooth_mm=(2.5, 5, 10, 20),
    smooth_best=True,
    rolling=(1, 2, 4),
    cumulative=True,
    chain=True,
    other_studies=True,
    place=True,
    padding=True,
    scanner=True,
)


def main():
    parser = flag_parser(__doc__)
    parser.add_argument(
        "--measure", nargs=3, metavar=("WHAT", "SLICES", "TABLE"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.measure:
        what, count, path = options.measure
        function = {"all": measure_all, "pandas": measure_pandas}[what]
        print(json.dumps(function(repeat(pd.read_parquet(path), int(count)))))
        return 0
    share = 1 / 8 if options.quick else 1
    with tempfile.TemporaryDirectory(prefix="ich-features-") as folder:
        table, origin = real_studies()
        table.to_parquet(path := Path(folder) / "studies.parquet")
        print(f"{cores()} cores; geometry of {origin}; {len(MODELS)} CNNs, reach {ALL.reach}")
        sizes = measure_sizes(int(SLICES * share), path)
        pandas = measure("pandas", SIXTEENTH, path)
    show_pandas(pandas)
    missed = missed_bars(sizes, pandas["pandas"] / pandas["ours"], share)
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


def measure_sizes(whole, path):
    """Measure a quarter, a half and all of `whole` slices, and print a row for each."""
    print("slices   columns  seconds  (chain)  CPU seconds  CPU us a slice  memory")
    sizes = []
    for count in (whole // 4, whole // 2, whole):
        tries = [measure("all", count, path) for _ in range(1 if count == SLICES else 2)]
        best = min(tries, key=lambda each: each["cpu"])
        sizes.append(best)
        print(
            f"{best['slices']:7,}  {best['columns']:7}  {best['seconds']:7.1f}  "
            f"{best['chain']:7.1f}  {best['cpu']:11.1f}  {microseconds(best):14.1f}  "
            f"{best['memory']:3.1f} GB",
            flush=True,
        )
    return sizes


def microseconds(measured):
    """Return the microseconds of the processor per slice."""
    return 1e6 * measured["cpu"] / measured["slices"]


def show_pandas(measured):
    """Print the comparison with pandas."""
    times = measured["pandas"] / measured["ours"]
    print(
        f"{measured['columns']} of these columns for {measured['slices']:,} slices: "
        f"{measured['ours']:.2f} CPU s, pandas {measured['pandas']:.2f}, "
        f"{times:.1f} times as long; the values agree"
    )
    for kind, seconds in measured["kinds"].items():
        print(f"  pandas, {kind}: {seconds:.2f} CPU s")


def missed_bars(sizes, times_pandas, share):
    """Return a line for each bar that is missed; share: fraction of the slices measured."""
    largest, cost, missed = sizes[-1], [microseconds(each) for each in sizes], []
    if largest["seconds"] > SECONDS * share:
        missed.append(f"{largest['seconds']:.1f} s, the bar is {SECONDS * share:g}")
    if largest["memory"] > MEMORY_GB:
        missed.append(f"{largest['memory']:.1f} GB, the bar is {MEMORY_GB:g}")
    if largest["columns"] < COLUMNS:
        missed.append(f"{largest['columns']} columns, the bar is {COLUMNS}")
    if times_pandas < TIMES_PANDAS:
        missed.append(f"pandas takes {times_pandas:.1f} times as long, not {TIMES_PANDAS:g}")
    if max(cost) > GROWTH * min(cost):
        missed.append(
            f"{min(cost):.1f} to {max(cost):.1f} CPU us a slice, the bar is {GROWTH:g} times"
        )
    return missed


def measure(what, count, path):
    """Measure in a process of its own, for a peak of memory of its own."""
    words = module_command(__spec__.name, "--measure", what, str(count), str(path))
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure_all(slices):
    """Build all of ALL; the chain is fitted six times, as it is in a run."""
    few = slices[: np.flatnonzero(slices["place"].to_numpy() == 0)[50]]
    for table in (few, slices):
        predictions, y, fold = make_predictions(table)
        logits = {name: to_logits(p, ALL.clip) for name, p in predictions.items()}
        start, cpu = time.perf_counter(), time.process_time()
        chain, _ = cross_fit_chains(table, mean_logits(logits), y, fold, FOLDS)
        chained = time.perf_counter() - start
        X, names = build_features(table, logits, ALL, chain)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {
        "slices": len(X),
        "columns": len(set(names)),
        "seconds": seconds,
        "chain": chained,
        "cpu": cpu,
        "memory": memory,
    }


def measure_pandas(slices):
    """Build the matrix of BY_PANDAS both ways and compare them.

    Each way runs three times; its shortest time counts.
    """
    predictions, _, _ = make_predictions(slices)
    logits = {name: to_logits(p, BY_PANDAS.clip) for name, p in predictions.items()}
    ours, theirs, kinds = [], [], {}
    for _ in range(3):
        start = time.process_time()
        X, names = build_features(slices, logits, BY_PANDAS)
        ours.append(time.process_time() - start)
        start = time.process_time()
        table = by_pandas(slices, logits, kinds)
        expected = table.to_numpy(np.float32)
        theirs.append(time.process_time() - start)
    if len(names) != table.shape[1]:
        raise AssertionError(f"columns differ: {sorted(set(names) ^ set(table.columns))[:5]}")
    for i, name in enumerate(table.columns):
        np.testing.assert_allclose(
            X[:, names.index(name)], expected[:, i], rtol=1e-3, atol=1e-3, err_msg=name
        )
    return {
        "slices": len(X),
        "columns": len(names),
        "ours": min(ours),
        "pandas": min(theirs),
        "kinds": kinds,
    }


if __name__ == "__main__":
    sys.exit(main())
