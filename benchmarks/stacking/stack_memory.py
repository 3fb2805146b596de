"""Memory and time of stage two's units on features of the recipe `gold`: 945 columns.

    python -m benchmarks.stacking.stack_memory [--quick] [--imports=N]

--quick: a 32nd and a 16th. --imports: the features of the recipe `stack_only` with so many imported
models in place of those of `gold`, 2,931 columns with 20.

Prints one table of an eighth, a quarter and a half of the competition's 752,803 train slices, of
which a search and a fit read four fifths, and an estimate for all of them: a straight line through
the two largest. Exits with 1 where more memory is taken than the scheduler plans, or where a slice
costs more than 1.25 times as much at a larger size as at a smaller one. The features are noise
around the labels, under the names that the recipe gives them. Each measurement is a process of its
own with one fit at a time; its peak counts only memory of its own (RssAnon), since the features are
a memory map that all processes share. Boosters have few rounds here: memory does not depend on
them, and the time of a round is that of a longer fit less that of a shorter one.

    bins          all columns are binned, and the bins are written into their file
    label bins    the columns of a label's narrower scopes are
    search        a search reads the bins and tries each scope
    fit           nested and final fits of one label's booster on all columns, one at a time
    pooled bins   the five rows a slice of the booster of all subtypes are binned
    pooled fit    its nested and final fits, one at a time
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.command_line import flag_parser, module_command
from ct.labels import LABELS
from ct.run_dir import RunDir
from ct.storage.file_formats import write_json, write_table
from features.build import feature_names
from features.columns import SCOPES
from pipeline.progress import no_bar
from pipeline.recipe import find_recipe, load_recipe, save_recipe, with_changes
from pipeline.stage_data.binned_files import FEATURES, BinnedFiles
from pipeline.stage_data.run_tables import load_rows
from pipeline.stage_data.stage_two_resources import (
    bins_memory_mb,
    fit_memory_mb,
    search_memory_mb,
)
from pipeline.stages.stack import FitComponent
from pipeline.stages.tune import BinFeatures
from stage2_stack.components.pooled_features import PooledFeatures
from stage2_stack.config import StackConfig
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.tuning import inner_cv
from stage2_stack.tuning.inner_cv import InnerFolds
from stage2_stack.tuning.search_space import FIRST

GOLD = 752_803  # train slices
SHARES = 8, 4, 2  # an eighth, a quarter and a half of them
GROWTH = 1.25  # the most that a slice may cost, in times of a smaller size
FOLDS, SERIES = 5, 32
ROUNDS = 3, 13  # of a shorter and of a longer fit
KINDS = ("bins", "label bins", "search", "fit", "pooled bins", "pooled fit")
LABEL = "subdural"  # like any other, but for `any`, it has 325 columns in the scope "study"
READ = {FEATURES: "benchmark"}  # in place of digests
# the settings that take the most memory
WIDEST = FIRST | {"scope": "all", "num_leaves": 31}
STEP = 0.005  # seconds between two samples of the memory


def names_of(imports=0):
    """Return the names of the features of `gold`, or of `stack_only` with so many imports."""
    recipe = load_recipe(find_recipe("stack_only" if imports else "gold"))
    models = [f"import{number:02d}" for number in range(imports)]
    return feature_names([*(each.name for each in recipe.stage1.models), *models], recipe.features)


class Measured(NamedTuple):
    """What one process took."""

    mb: float
    seconds: float  # of the processor


class Growth(NamedTuple):
    """One kind of unit: what it took with each number of slices."""

    kind: str
    rows: tuple[int, ...]
    measured: tuple[Measured, ...]

    def at(self, rows):
        """Return what it takes with more slices: on a line through the two largest measurements."""
        small, large = self.measured[-2:]
        share = (rows - self.rows[-1]) / (self.rows[-1] - self.rows[-2])
        return Measured(*(b + share * (b - a) for a, b in zip(small, large, strict=True)))

    def worst(self):
        """Return the most that the processor seconds or bytes of a slice grow by, in times."""
        each = np.array(self.measured) / np.array(self.rows)[:, None]
        return float((each[1:] / each[:-1]).max())


def main():
    options = flag_parser(__doc__)
    options.add_argument("--imports", type=int, default=0)
    options.add_argument("--measure", nargs=2, help=argparse.SUPPRESS, metavar=("KIND", "FOLDER"))
    options = options.parse_args()
    if options.measure:
        return measure(*options.measure)
    missed, imports = [], options.imports
    print(f"{len(names_of(imports))} columns; MB: measured, as the scheduler plans")
    for growth in measure_growth(options.quick, imports=imports):
        sizes = list(zip(growth.rows, growth.measured, strict=True))
        if not options.quick:  # so few slices do not lie on the line
            sizes.append((GOLD, growth.at(GOLD)))
            if growth.worst() > GROWTH:
                missed.append(f"{growth.kind}: a slice costs {growth.worst():.2f} times as much")
        for rows, each in sizes:
            planned = planned_mb(growth.kind, rows, imports)
            print(
                f"{growth.kind:11} {rows:8,} slices {each.mb:8.0f} {planned:8.0f} MB "
                f"{each.seconds:8.1f} s",
                flush=True,
            )
            if each.mb > planned:
                missed.append(f"{growth.kind}: more than planned with {rows:,} slices")
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


def measure_growth(quick=False, kinds=KINDS, imports=0):
    """Return a Growth for each kind. The seconds are those of ROUNDS[0] rounds a fit."""
    shares = [32, 16] if quick else SHARES
    rows = tuple(GOLD // share for share in shares)
    measured = {kind: [] for kind in kinds}
    for count in rows:
        with tempfile.TemporaryDirectory(prefix="ich-stack-memory-") as folder:
            make_run(Path(folder), count, imports)
            for kind in kinds:
                measured[kind].append(in_process(kind, folder))
    return [Growth(kind, rows, tuple(measured[kind])) for kind in kinds]


def planned_mb(kind, rows, imports=0):
    """Return the memory that the scheduler plans for a unit, MB."""
    names = names_of(imports)
    return {
        "bins": lambda: bins_memory_mb(rows, names),
        "label bins": lambda: bins_memory_mb(rows, names, LABEL),
        "search": lambda: search_memory_mb(rows, names, FOLDS, LABEL),
        "fit": lambda: fit_memory_mb("lightgbm", rows, names, FOLDS, 1),
        "pooled bins": lambda: fit_memory_mb("pooled", rows, names, FOLDS, 1),
        "pooled fit": lambda: fit_memory_mb("pooled", rows, names, FOLDS, 1),
    }[kind]()


def in_process(kind, folder):
    """Measure one kind in a process of its own."""
    words = module_command(__spec__.name, "--measure", kind, folder)
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return Measured(*json.loads(output.splitlines()[-1]))


def make_run(folder, rows, imports=0):
    """Write the files of a run that the units read: slices, folds, features, tuned settings."""
    rng, names, run = np.random.default_rng(0), names_of(imports), RunDir(folder)
    y = np.repeat(rng.random((rows // SERIES + 1, len(LABELS))) < 0.2, SERIES, axis=0)[:rows]
    index = pd.Index([f"ID_{n:07x}" for n in range(rows)], name="slice_id")
    table = pd.DataFrame(y.astype(np.float32), index=index, columns=list(LABELS))
    series = np.arange(rows) // SERIES
    write_table(
        run.slices,
        table.assign(split="train", patient_id=series.astype(str), place=np.arange(rows) % SERIES),
    )
    write_table(run.folds, pd.DataFrame({"fold": (series % FOLDS).astype(np.int8)}, index=index))
    features = run.stage2 / "features"
    features.mkdir(parents=True)
    write_json(features / "names.json", dict.fromkeys(names, ""))
    X = np.lib.format.open_memmap(
        features / "train.npy", "w+", np.float32, (rows, len(names)), fortran_order=True
    )
    for column in range(len(names)):
        X[:, column] = rng.normal(size=rows) + y[:, column % len(LABELS)]
    changes = {"stage2.max_rounds": ROUNDS[0], "folds.k": FOLDS}
    save_recipe(run.recipe, with_changes(load_recipe(find_recipe("gold")), changes))
    tuned = {"stacked": True, "rounds": ROUNDS[0], "params": WIDEST}
    write_json(run.stage2 / "configs.json", dict.fromkeys(LABELS, [tuned] * FOLDS))


def measure(kind, folder):
    """Do what a unit does; print its peak of memory in MB and its seconds."""
    over, peak = threading.Event(), [0]

    def look():
        while not over.wait(STEP):
            peak[0] = max(peak[0], own_memory())

    thread, start = threading.Thread(target=look, daemon=True), time.process_time()
    thread.start()
    FUNCTIONS[kind](folder)
    over.set()
    thread.join()
    print(json.dumps([peak[0] / 1e6, time.process_time() - start]))
    return 0


def own_memory():
    """Return the bytes of memory of this process that no file backs."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith("RssAnon")
    )
    return int(line.split()[1]) * 1024


def bins(folder):
    """Bin all columns."""
    BinFeatures(folder, "", READ).run(print, no_bar)


def label_bins(folder):
    """Bin the columns of a label's narrower scopes."""
    BinFeatures(folder, LABEL, READ).run(print, no_bar)


def search(folder):
    """Try every scope on the rows outside fold 0."""
    inner_cv.MAX_BINNED_BYTES = 0  # one split at a time, as where there are many rows
    X, y, fold, _, names = load_rows(RunDir(folder))
    features = BinnedFeatures(X, names, 1, BinnedFiles(RunDir(folder), READ, 1))
    rows = np.flatnonzero(fold != 0)
    config = StackConfig(max_rounds=ROUNDS[0])
    folds = InnerFolds(features, rows, y[rows, LABELS.index(LABEL)], fold[rows], LABEL, config, 0)
    for scope in SCOPES:
        folds.evaluate(WIDEST | {"scope": scope})
    folds.gain(WIDEST, ROUNDS[0])


def fit(folder):
    """Fit all models of one label's booster."""
    FitComponent(folder, "lightgbm", LABEL, READ).run(print, no_bar)


def pooled_bins(folder):
    """Bin the rows of all subtypes."""
    X, *_, names = load_rows(RunDir(folder))
    features = PooledFeatures(X, names, 1, BinnedFiles(RunDir(folder), READ, 1))
    features.bin_columns(np.arange(len(features.names)))


def pooled_fit(folder):
    """Fit all models of the booster of all subtypes."""
    FitComponent(folder, "pooled", "", READ).run(print, no_bar)


FUNCTIONS = dict(zip(KINDS, (bins, label_bins, search, fit, pooled_bins, pooled_fit), strict=True))

if __name__ == "__main__":
    sys.exit(main())
