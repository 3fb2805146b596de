"""A run of stage two alone with many imported models, and what its stages do at any size.

Slices, labels and geometry are those of real studies under new names; a model's probabilities are
its labels' logits with noise. Each function is measured in a process of its own, in this order, and
does its imports first.
"""

import contextlib
import io

import numpy as np
import pandas as pd

from benchmarks.large_tables.gold_stages import blend, columns, opened
from benchmarks.large_tables.own_memory import measured
from ct.labels import LABELS
from ct.slices import ORIENTATION, POSITION
from ct.storage.file_formats import write_json
from ct.tables.slice_list import IDS, VECTORS
from pipeline.stage_data.binned_files import FEATURES

FIRST_NAME, LAST_NAME = "first", "last"
LABEL, TWO = "subdural", ("any", "subdural")  # of the search; of the fits
READ = {FEATURES: "benchmark"}  # in place of digests
FOLDS, MAX_ROUNDS = 5, 200


def write_imports(home, train, test, imports):
    """Make the run of a slice list and write the tables of one model, of `imports`."""
    import run as command_line

    slices = pd.concat([train, test])
    coordinates = dict.fromkeys(POSITION[:2], pd.Series(-125.0, slices.index))
    coordinates |= {POSITION[2]: slices["position_mm"]}
    for part, value in zip(ORIENTATION, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), strict=True):
        coordinates[part] = pd.Series(value, slices.index)
    table = pd.DataFrame({name: slices[ours] for name, ours in list(IDS.items())[1:]})
    table.insert(0, "SOPInstanceUID", slices.index)
    for name, parts in dict(zip(VECTORS, (POSITION, ORIENTATION), strict=True)).items():
        texts = [coordinates[part].round(3).astype(str) for part in parts]
        table[name] = texts[0].str.cat(texts[1:], sep="\\")
    table["PixelSpacing"] = slices["pixel_spacing_mm"]
    labels = slices[list(LABELS)].astype("Int8")
    home.mkdir(parents=True, exist_ok=True)
    table.join(labels).to_csv(home / "slices.csv", index=False)
    rng = np.random.default_rng(0)
    made_up(train[list(LABELS)].to_numpy(), rng, train.index).to_csv(home / "oof.csv")
    unknown = np.zeros((len(test), len(LABELS)))
    per_fold = [made_up(unknown, rng, test.index).assign(fold=k) for k in range(FOLDS)]
    pd.concat(per_fold).to_csv(home / "test.csv")
    (home / "imports").write_text(str(imports), encoding="utf-8")
    new = [f"--run={home / 'run'}", "--recipe=stack_only", f"--slices={home / 'slices.csv'}"]
    with contextlib.redirect_stdout(io.StringIO()):
        if command_line.main(["new", *new]):
            raise SystemExit("`new` failed")


def made_up(y, rng, index):
    """Return probabilities (n, 6) of a model that knows the labels (n, 6) with noise."""
    logits = 4 * y - 4 + rng.normal(0, 1.5, y.shape)
    table = pd.DataFrame(1 / (1 + np.exp(-logits)), index, list(LABELS))
    return table.round(6).rename_axis("slice_id")


def listed(folder):
    """Read the slice list, as the stage `ingest` does, and assign the folds."""
    from pipeline.stage_runner import run_stage

    run, _ = opened(folder, "ingest")
    with measured() as cost, contextlib.redirect_stdout(io.StringIO()):
        for stage in ("ingest", "folds"):
            run_stage(run, stage)
    return cost, [run.dir.slices, run.dir.folds]


def first(folder):
    """Import the first model."""
    return import_model(folder, FIRST_NAME)


def last(folder):
    """Import the last model, beside all the others."""
    count = int((folder / "imports").read_text(encoding="utf-8"))
    write_copies(folder, [f"import{number:02d}" for number in range(1, count - 1)])
    return import_model(folder, LAST_NAME)


def import_model(folder, name):
    from pipeline.checked_options import ImportOptions
    from pipeline.commands.import_predictions import import_predictions

    tables = {"oof": str(folder / "oof.csv"), "test": str(folder / "test.csv")}
    options = ImportOptions(run=str(folder / "run"), name=name, **tables)
    with measured() as cost, contextlib.redirect_stdout(io.StringIO()):
        import_predictions(options)
    run, _ = opened(folder, "ingest")
    return cost, [run.dir.imported(name)]


def write_copies(folder, names):
    """Write the first model's predictions with more noise, as those of other models."""
    from ct.storage.prediction_files import read_predictions_of, write_predictions
    from ct.storage.sealed_files import seal

    run, _ = opened(folder, "ingest")
    for number, name in enumerate(names):
        rng = np.random.default_rng([1, number])
        run.dir.imported(name).mkdir(exist_ok=True)
        for path in sorted(run.dir.imported(FIRST_NAME).glob("*.parquet")):
            table = pd.read_parquet(path)
            logits = read_predictions_of(path).logits(1e-5)
            logits = logits + rng.normal(0, 0.5, logits.shape)
            copy = run.dir.imported(name) / path.name
            values = pd.DataFrame(1 / (1 + np.exp(-logits)), table.index, list(LABELS))
            write_predictions(copy, values, "probabilities")
            seal(copy)
    run.change_recipe({"stage1.imports": [FIRST_NAME, *names]})


def bins(folder):
    """Bin all columns, and those of a label's narrower scopes."""
    from pipeline.stages.tune import BinFeatures

    run, _ = opened(folder, "tune")
    with measured() as cost:
        for label in ("", LABEL):
            BinFeatures(str(run.dir.root), label, READ).run(run.log, run.bar)
    return cost, [run.dir.binned]


def trial(folder):
    """Search the settings of one label and fold, with one trial."""
    from pipeline.stages.tune import TuneLabel

    run, _ = opened(folder, "tune")
    run.change_recipe({"stage2.trials": 1, "stage2.max_rounds": MAX_ROUNDS})
    with measured() as cost:
        TuneLabel(str(run.dir.root), LABEL, 0, READ).run(run.log, run.bar)
    return cost, [run.dir.stage2 / "tune"]


def fits(folder):
    """Fit the boosters of two labels for one outer fold: four nested ones and the final one."""
    from pipeline.stages.stack import FitComponent
    from stage2_stack.tuning.search_space import FIRST

    run, _ = opened(folder, "stack")
    tuned = {"stacked": True, "rounds": MAX_ROUNDS, "params": FIRST}
    left_out = {"stacked": False, "rounds": 0, "params": {}}
    settings = [tuned, *[left_out] * (FOLDS - 1)]
    write_json(run.dir.stage2 / "configs.json", dict.fromkeys(LABELS, settings))
    with measured() as cost:
        for label in TWO:
            FitComponent(str(run.dir.root), "lightgbm", label, READ).run(run.log, run.bar)
    return cost, [run.dir.fits]


STAGES = {
    function.__name__: function
    for function in (listed, first, last, columns, bins, trial, fits, blend)
}
