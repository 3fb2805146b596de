"""Seconds and memory of `score` for one study, from the run folder and from the packed model.

Each measurement is a process of its own; `--fast` is by the distilled CNN alone, for which the
difference has no bar. Prints one table; exits with 1 where a bar is missed.

    python -m benchmarks.score [--quick] [--run=DIR]

The slices are those of the real mini competition where it is there (ICH_REAL_DATA, or
../shared/data), else made up. The CNNs of the recipe `small` are trained for one epoch: predicting
costs the same. --run: a finished run with test studies, instead of making one; --quick: without the
second measurement of the packed model.
"""

import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from benchmarks.command_line import REAL_SLICES, ROOT, RUN, flag_parser
from ct.labels import LABELS
from ct.storage.file_formats import read_json, read_table
from ct.synthetic.example_competition import write_competition
from pipeline.older_versions import older_recipe
from pipeline.recipe import load_recipe

SECONDS, DIFFERENCE = 30.0, 1e-6  # for one study, the start of Python included; of a probability


def main():
    options = flag_parser(__doc__)
    options.add_argument("--run", type=Path)
    options = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="ich-score-") as folder:
        missed = measure(Path(folder), options.run or make_run(Path(folder)), options.quick)
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


def make_run(folder):
    """Return a finished run of `small`, its CNNs trained for one epoch."""
    if REAL_SLICES.is_file():
        with tarfile.open(REAL_SLICES) as archive:
            archive.extractall(folder / "data", filter="data")
    else:
        write_competition(folder / "data", studies=12, seed=0, size=512, slices=(30, 36))
    recipe = yaml.safe_load((ROOT / "recipes/small.yaml").read_text())
    for model in recipe["stage1"]["models"]:
        model["epochs"] = 1
    recipe["stage1"]["distilled"] = {**recipe["stage1"]["models"][0], "name": "student"}
    (folder / "small.yaml").write_text(yaml.safe_dump(recipe))
    call(
        "new",
        f"--run={folder / 'r'}",
        f"--recipe={folder / 'small.yaml'}",
        f"--data={folder / 'data'}",
    )
    call("all", f"--run={folder / 'r'}")
    return folder / "r"


def measure(folder, run, quick):
    """Print the table. Returns a line for each bar that is missed."""
    expected, missed = read_table(run / "stage2/test.parquet"), []
    study = one_study(run, folder / "study")
    seconds, processor, _ = call("export-model", f"--run={run}", f"--to={folder / 'model'}")
    print(
        "step                           seconds   of processors   memory  largest difference from "
        "the run's test table"
    )
    print(f"export-model                  {seconds:8.1f} {processor:15.1f}", flush=True)
    for name, *words in ways(run, folder / "model", quick):
        to = folder / name.replace(" ", "") / "out"
        seconds, processor, memory = call("score", f"--data={study}", f"--to={to}", *words)
        slices = read_table(to / "slices.parquet")[list(LABELS)]
        apart = float(np.abs(slices - expected.loc[slices.index]).to_numpy().max())
        print(
            f"score --{name:10} {len(slices):4} slices {seconds:8.1f} {processor:15.1f} "
            f"{memory:5.1f} GB  {apart:.1e}",
            flush=True,
        )
        missed += [f"score --{name}: {seconds:.1f} s, the bar is {SECONDS:g}"] * (seconds > SECONDS)
        missed += [f"score --{name}: {apart:.1e} from the run's own, the bar is {DIFFERENCE:g}"] * (
            apart > DIFFERENCE and "--fast" not in words
        )
    return missed


def ways(run, model, quick):
    """Yield (name, flags) of what is measured."""
    yield "run", f"--run={run}"
    if load_recipe(run / "recipe.yaml", older_recipe).stage1.distilled:
        yield "run --fast", f"--run={run}", "--fast"
    if not quick:
        yield "model", f"--model={model}"


def one_study(run, folder):
    """Copy the files of the run's largest test study whose patient is not in train.

    Returns their folder.
    """
    slices = read_table(run / "slices.parquet")
    slices = slices[
        (slices["split"] == "test")
        & (read_table(run / "folds.parquet")["fold"].reindex(slices.index) < 0)
    ]
    files = slices.loc[slices["study_id"] == slices["study_id"].mode()[0], "path"]
    source = read_json(run / "receipts/ingest.json")["recipe"]["data.source"]
    folder.mkdir()
    for name in files:
        shutil.copy(next(Path(source).rglob(Path(name).name)), folder)
    return folder


def call(*words):
    """Run the command line.

    Returns (seconds, processor seconds, largest memory of any process so far in GB).
    """
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*RUN, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, processor, after.ru_maxrss / 2**20


if __name__ == "__main__":
    sys.exit(main())
