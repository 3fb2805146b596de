"""Memory of training and of predicting, at 10,000 and at 100,000 slices.

    python -m benchmarks.memory [--quick]      --quick: training stops after 60 steps

Prints one table; exits with 1 above a bar. The slices are made up: a table of that many rows, and
an index of the pixel cache that points again and again to the same few slices. Each measurement is
a process of its own that does what the verbs `train` and `predict` do with one CNN and fold; its
peak is the largest resident set. The bar: memory holds no pixels and no embeddings of all slices,
only what the tables hold of each, at most KB_A_SLICE.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.command_line import flag_parser, module_command
from benchmarks.large_tables.repeated_slices import example_run, repeated
from ct.storage.file_formats import read_table, write_table
from pipeline.progress import Bar
from pipeline.run_context import Run

FEW, MANY = 10_000, 100_000  # slices
KB_A_SLICE = 2.0  # the bar; all pixels of one at 64 px would be 8 KB
FOLDS, BATCH, QUICK_STEPS = 5, 64, 60
RECIPE = f"""name: memory
folds: {{k: {FOLDS}}}
pixels: {{size: 64}}
stage1:
  models:
    - {{name: tiny, backbone: test_resnet, windows: [brain], image_size: 32, epochs: 1,
       batch: {BATCH}, threads: 1}}
"""
SAME = "0" * 32  # a digest of what the measured job depends on: nothing is ever continued


def main():
    options = flag_parser(__doc__)
    options.add_argument(
        "--measure", nargs=3, help=argparse.SUPPRESS, metavar=("WHAT", "RUN", "STEPS")
    )
    options = options.parse_args()
    if options.measure:
        return measure(*options.measure)
    most = QUICK_STEPS if options.quick else MANY
    print(
        f"           {FEW:,} slices  {MANY:,} slices  growth   a slice (bar {KB_A_SLICE:g} KB)   "
        "seconds"
    )
    missed = []
    with tempfile.TemporaryDirectory(prefix="ich-memory-") as folder:
        base = example_run(Path(folder), RECIPE, studies=6, size=64)
        for what, split in (("train", "train"), ("predict", "test")):
            peaks, start = [], time.perf_counter()
            for rows in (FEW, MANY):
                grown = grow(base, Path(folder) / f"{what}-{rows}", rows, split)
                words = module_command(__spec__.name, "--measure", what, str(grown), str(most))
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                peaks.append(int(done.stdout.split()[-1]))
                shutil.rmtree(grown)
            growth = peaks[1] - peaks[0]
            each = growth / (MANY - FEW)
            print(
                f"{what:9} {peaks[0] / 1e3:10.0f} MB  {peaks[1] / 1e3:11.0f} MB  "
                f"{growth / 1e3:4.0f} MB  {each:8.2f} KB"
                f"  {time.perf_counter() - start:22.0f}",
                flush=True,
            )
            if each > KB_A_SLICE:
                missed.append(f"{what}: {each:.2f} KB a slice, the bar is {KB_A_SLICE:g}")
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


def grow(base, grown, rows, split):
    """Copy a run folder with its slices repeated under new names, `rows` of them in one split."""
    shutil.copytree(base, grown)
    slices, index = (
        read_table(base / "slices.parquet"),
        read_table(base / "pixels" / "index.parquet"),
    )
    labelled = np.flatnonzero((slices["split"] == "train") & slices["readable"])
    copy, at = np.divmod(np.arange(rows), len(labelled))
    slices, index = repeated(slices, index, labelled[at], copy)
    slices["split"] = split
    write_table(grown / "slices.parquet", slices)
    write_table(grown / "pixels" / "index.parquet", index)
    write_table(grown / "folds.parquet", slices[[]].assign(fold=copy % FOLDS))
    return grown


class Enough(Exception):
    """The training has taken all its steps."""


def measure(what, folder, most):
    """Train the CNN of fold 0 for at most so many steps, or predict all test slices.

    Prints this process's peak in KB.
    """
    from safetensors.torch import save_file

    from pipeline.training.cnn_jobs import predict_fold, train_fold
    from pipeline.training.stage_one_inputs import StageOneInputs
    from stage1_cnn.model import build_model

    class Counter(Bar):
        """A silent progress bar that ends the training after enough steps."""

        def update(self, n=1):
            self.n += n
            if self.unit == "step" and self.n >= int(most):
                raise Enough

    def bar(total, text, unit):
        made = Counter(total=total, disable=True)
        made.unit, made.n = unit, 0
        return made

    inputs = StageOneInputs(Run(folder, log=lambda line: None, bar=bar))
    home = inputs.run.dir.fold("tiny", 0)
    home.mkdir(parents=True)
    if what == "train":
        with contextlib.suppress(Enough):
            train_fold(inputs, "tiny", 0, SAME)
    else:
        weights = build_model(inputs.config("tiny"), 0).backbone.state_dict()
        save_file(
            {name: value.contiguous() for name, value in weights.items()},
            home / "weights.safetensors",
        )
        predict_fold(inputs, "tiny", 0, "test", SAME)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
