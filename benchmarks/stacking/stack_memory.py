"""Memory of one process of `tune` and of `stack` on features of the recipe `gold`.

    python -m benchmarks.stacking.stack_memory [--quick]      --quick: a third of the slices

Prints one table, with an estimate for 752,803 train and 121,232 test slices: a straight line
through two sizes. The features are noise around the labels, under the names that the recipe gives
them. Each measurement is a process of its own; its peak counts only memory of its own (RssAnon),
since the features are a memory map that all processes share. `tune` is every label on one fold, the
three scopes one after the other; `stack` is the components of the recipe, one fit at a time, then
three.

Both make the bin edges from few rows here. LightGBM makes them from 200,000 at most, with twelve
bytes per value while it bins. That is measured alone: a process needs it only before it fits.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.command_line import flag_parser, module_command
from ct.labels import LABELS
from features.build import feature_names
from features.columns import SCOPES, scope_columns
from pipeline.recipe import find_recipe, load_recipe
from stage2_stack.config import StackConfig
from stage2_stack.learners import binned_features, nested_fit
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.stack_context import StackData
from stage2_stack.stacker import fit_stack
from stage2_stack.tuning import inner_cv
from stage2_stack.tuning.inner_cv import InnerFolds
from stage2_stack.tuning.search_space import FIRST

SIZES = 12_000, 24_000  # train slices; a sixth as many test slices, as in the competition
GOLD, SAMPLE = 752_803, 200_000  # rows that bins are drawn from at most
FOLDS, ROUNDS, SERIES = 5, 3, 32
MEASURED = (  # title, function, fits at once, rows that the line is drawn to
    ("tune, a worker", "tune", 1, GOLD),
    ("stack, 1 fit at once", "stack", 1, GOLD),
    ("stack, 3 at once", "stack", 3, GOLD),
    ("edges of the bins", "edges", 1, SAMPLE),
)
STEP = 0.005  # seconds between two samples


def main():
    options = flag_parser(__doc__)
    options.add_argument(
        "--measure", nargs=3, help=argparse.SUPPRESS, metavar=("WHAT", "FOLDER", "AT_ONCE")
    )
    options = options.parse_args()
    if options.measure:
        return measure(*options.measure)
    sizes = [size // 3 for size in SIZES] if options.quick else SIZES
    names = gold_names()
    print(
        f"{len(names)} columns          {sizes[0]:,} slices  {sizes[1]:,} slices   {GOLD:,} "
        "slices   seconds"
    )
    for title, what, at_once, target in MEASURED:
        start, peaks = time.perf_counter(), [peak_of(what, rows, names, at_once) for rows in sizes]
        slope = (peaks[1] - peaks[0]) / (sizes[1] - sizes[0])
        print(
            f"{title:22} {peaks[0] / 1e6:10.0f} MB {peaks[1] / 1e6:11.0f} MB "
            f"{(peaks[1] + slope * (target - sizes[1])) / 1e9:12.1f} GB "
            f"{time.perf_counter() - start:9.0f}"
        )
    return 0


def gold_names():
    """Return the names of the features of the recipe `gold`."""
    recipe = load_recipe(find_recipe("gold"))
    return feature_names([model.name for model in recipe.stage1.models], recipe.features)


def peak_of(what, rows, names, at_once):
    """Return the peak memory in bytes of one measurement, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="ich-stack-memory-") as folder:
        make_features(Path(folder), rows, names)
        words = module_command(__spec__.name, "--measure", what, folder, str(at_once))
        return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def make_features(folder, rows, names):
    """Write X of train and test, the labels and the names."""
    rng, k = np.random.default_rng(0), FOLDS
    y = np.repeat((rng.random((rows // SERIES + 1, len(LABELS))) < 0.2), SERIES, axis=0)[
        :rows
    ].astype(np.float64)
    X = np.lib.format.open_memmap(
        folder / "train.npy", "w+", np.float32, (rows, len(names)), fortran_order=True
    )
    for column in range(len(names)):
        X[:, column] = rng.normal(size=rows) + y[:, column % len(LABELS)]
    test = np.lib.format.open_memmap(
        folder / "test.npy", "w+", np.float32, (k, rows // 6, len(names))
    )
    test[:] = rng.normal(size=(k, 1, len(names)))
    np.save(folder / "y.npy", y)
    (folder / "names.json").write_text(json.dumps(names))


def measure(what, folder, at_once):
    """Do what a stage does; print the peak of memory in bytes beyond what the imports take."""
    folder = Path(folder)
    X, test_X = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("train", "test"))
    y, names = np.load(folder / "y.npy"), json.loads((folder / "names.json").read_text())
    patients = np.arange(len(X)) // SERIES
    nested_fit.cores = lambda: int(at_once)
    binned_features.FIXED["bin_construct_sample_cnt"] = SAMPLE if what == "edges" else 2000
    inner_cv.MAX_BINNED_BYTES = 0  # one scope at a time, as where there are many rows
    over, peak = threading.Event(), [0]

    def look():
        while not over.wait(STEP):
            peak[0] = max(peak[0], own_memory())

    thread, start = threading.Thread(target=look, daemon=True), own_memory()
    thread.start()
    {"tune": tune, "stack": stack, "edges": edges}[what](X, test_X, y, names, patients)
    over.set()
    thread.join()
    print(peak[0] - start)
    return 0


def own_memory():
    """Return the bytes of memory of this process that no file backs."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith("RssAnon")
    )
    return int(line.split()[1]) * 1024


def tune(X, test_X, y, names, patients):
    """Try every scope for each label on the rows outside fold 0, as a worker of `tune` does.

    Its jobs come label by label.
    """
    features, fold, config = (
        BinnedFeatures(X, names, 1),
        patients % FOLDS,
        StackConfig(threads=1, max_rounds=ROUNDS),
    )
    rows = np.flatnonzero(fold != 0)
    for j, label in enumerate(LABELS):
        features.keep_only(scope_columns(names, label, scope) for scope in SCOPES)
        folds = InnerFolds(features, rows, y[rows, j], fold[rows], label, config, 0)
        for scope in SCOPES:
            folds.evaluate(FIRST | {"scope": scope})


def edges(X, test_X, y, names, patients):
    """Bin all columns."""
    BinnedFeatures(X, names, 1).dataset(np.arange(len(names)), np.arange(2), y[:2, 0], y[:2, 0])


def stack(X, test_X, y, names, patients):
    """Fit all components of the recipe; each label's boosters have columns of their own."""
    tuned = {"stacked": True, "rounds": ROUNDS, "params": FIRST | {"scope": "study"}}
    rows = StackData(X, y, patients % FOLDS, patients, names)
    fit_stack(
        rows,
        test_X,
        dict.fromkeys(LABELS, [tuned] * FOLDS),
        StackConfig(threads=1, max_rounds=ROUNDS),
        0,
    )


if __name__ == "__main__":
    sys.exit(main())
