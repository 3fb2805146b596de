"""The stage `features`: the feature matrix of stage two, from the predictions of stage one.

The linear probes are units of their own (pipeline/stage_data/probe_unit.py); this joins them.
"""

from contextlib import suppress
from pathlib import Path

import pandas as pd

from ct.errors import InputError, number_of
from ct.storage.file_formats import read_json, read_table, write_json
from features.build import build_features, feature_names
from features.columns import describe
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.stage_data.cross_fitting import cross_fitted, new_array
from pipeline.stage_data.run_tables import load_logits


def features(run: Run, receipt: Receipt) -> None:
    """Build X of the train slices (n, f), and of the test slices for each fold's CNNs (K, m, f)."""
    config, k_folds, folder = run.recipe.features, run.recipe.folds.k, run.dir.stage2 / "features"
    train, test = _train_and_test(run)
    logits = load_logits(run, train.index)
    names = feature_names(list(logits), config)
    with run.bar(1 + k_folds, "features", "table") as bar:
        for_train, for_test = cross_fitted(run, train, test, logits)
        with new_array(folder / "train.npy", (len(train), len(names))) as X:
            build_features(train, config=config, **for_train, out=X)
        bar.update()
        with new_array(folder / "test.npy", (k_folds, len(test), len(names))) as X:
            for k in range(k_folds):
                build_features(test, config=config, **for_test[k], out=X[k])
                bar.update()
    _write_names(folder / "names.json", names)
    receipt.made = [folder, *_probe_files(run)]
    run.log(
        f"  {number_of(len(names), 'feature')} of {number_of(len(train), 'train slice')} and of "
        f"{number_of(len(test), 'test slice')} "
        f"x {k_folds} folds"
    )


def _train_and_test(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the slice table of train and that of test; the whole one is not kept in memory."""
    slices = read_table(run.dir.slices)
    is_test = slices["split"] == "test"
    return slices[~is_test], slices[is_test]


def _probe_files(run: Run) -> list[Path]:
    """Return the files of the units of the probes."""
    models = run.recipe.stage1.models if run.recipe.features.probe else ()
    return [run.dir.probe(model.name, k) for model in models for k in range(run.recipe.folds.k)]


def _write_names(path: Path, names: list[str]) -> None:
    """Write {name: description} of the features, unless a file of the same names is there.

    The digest of the file is an input of `tune` and `stack`: new words in the descriptions would
    make hours of work on a run of an older version stale.
    """
    with suppress(OSError, TypeError, ValueError, InputError):  # missing or damaged
        if list(read_json(path)) == names:
            return
    write_json(path, {name: describe(name) for name in names})
