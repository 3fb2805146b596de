"""Joins what the stages left in a run folder, by slice id, into the arrays that stage two works
on.
"""

import numpy as np
import pandas as pd
from scipy.special import expit

from ct.ensemble import combine_folds, mean_logits
from ct.errors import InputError
from ct.labels import LABELS
from ct.patient_folds import fold_groups
from ct.storage.file_formats import read_array, read_json, read_table
from stage2_stack.calibration import fit_platt, smoothed_prior


def load_rows(run):
    """Return X (n, f), y (n, 6), fold (n,), patients (n,) of the train slices, and the names of the
    features.

    patients: as in `patients_of_folds`
    """
    slices = read_table(run.slices)
    train = (slices["split"] == "train").to_numpy()
    fold = read_table(run.folds)["fold"].reindex(slices.index).to_numpy()[train]
    y, patients = (
        slices.loc[train, list(LABELS)].to_numpy(np.float64),
        patients_of_folds(run, slices)[train],
    )
    names = list(read_json(run.stage2 / "features" / "names.json"))
    X = read_array(run.stage2 / "features" / "train.npy")
    if X.shape != (len(y), len(names)):
        raise ValueError(
            f"features are of shape {X.shape}, slices and names say {(len(y), len(names))}"
        )
    return X, y, fold, patients, names


def patients_of_folds(run, slices):
    """Return the group of every slice, object (n,), as in `ct.patient_folds.fold_groups`: nearly always its
    patient.

    run: RunDir; slices: its slice table. The folds of a run that was made before folds kept groups
    together may tear one; there the patients count, as they did then.
    """
    groups, train = fold_groups(slices), slices["split"] == "train"
    fold = read_table(run.folds)["fold"].reindex(slices.index)
    torn = (
        pd.DataFrame({"group": groups, "fold": fold})[train]
        .drop_duplicates()["group"]
        .duplicated()
        .any()
    )
    return slices["patient_id"].to_numpy(object) if torn else groups


def load_starts(run):
    """Return the first row of each series among the train slices, int (s,), and among the test
    slices.
    """
    slices = read_table(run.slices)
    return [
        np.flatnonzero(slices.loc[slices["split"] == split, "place"] == 0)
        for split in ("train", "test")
    ]


def load_test_fold(run):
    """Return the fold in train of each test slice's patient, (n,); -1 where the patient is not in
    train.
    """
    slices = read_table(run.slices)
    return (
        read_table(run.folds)["fold"]
        .reindex(slices.index)
        .to_numpy()[(slices["split"] == "test").to_numpy()]
    )


def load_predictions(run, index, k=None):
    """Return {model: probabilities (n, 6)} of the CNNs and the imported models, NaN where unknown.

    run: pipeline.run_context.Run; index: the slices; k: None for out-of-fold probabilities of train
    slices, else the number of the fold whose models' opinion of test slices is wanted

    Raises InputError where there is no model at all, or one has not said anything about the test
    slices.
    """
    cnns, imports = [config.name for config in run.recipe.stage1.models], run.recipe.stage1.imports
    paths = {
        name: run.dir.oof(name) if k is None else run.dir.fold(name, k) / "test.parquet"
        for name in cnns
    }
    paths |= {
        name: run.dir.imported_oof(name) if k is None else run.dir.imported_test_path(name, k)
        for name in imports
    }
    if not paths:
        raise InputError(
            "there are no opinions to stack: import a model's with `import-predictions --name=NAME --oof=FILE`"
        )
    for name in imports:
        if not paths[name].exists() and (k is None or len(index)):
            what = (
                "out-of-fold predictions"
                if k is None
                else f"predictions for the {len(index)} test slices of fold {k}"
            )
            flag = "--oof" if k is None else "--test"
            raise InputError(
                f"the imported model {name} has no {what}; import it again, with {flag}"
            )
    if not len(index):  # of no test slices there need not be a table
        return {name: np.empty((0, len(LABELS)), np.float32) for name in paths}
    return {
        name: read_table(path).reindex(index)[list(LABELS)].to_numpy()
        for name, path in paths.items()
    }


def stage_one(run):
    """Return the calibrated mean of the models on the test slices, a table of (n, 6). run:
    pipeline.run_context.Run
    """
    k_folds, clip = run.recipe.folds.k, run.recipe.features.clip
    slices, fold = read_table(run.dir.slices), read_table(run.dir.folds)["fold"]
    train, test = (slices[slices["split"] == split] for split in ("train", "test"))
    y, fold = train[list(LABELS)].to_numpy(np.float64), fold.reindex(train.index).to_numpy()
    known = ~np.isnan(y).any(axis=1)
    raw = mean_logits(load_predictions(run, train.index), clip)
    per_fold = np.empty((k_folds, len(test), len(LABELS)))
    for k in range(k_folds):
        fit = known & (fold != k)
        for j, logit in enumerate(mean_logits(load_predictions(run, test.index, k), clip).T):
            per_fold[k, :, j] = expit(fit_platt(raw[fit, j], y[fit, j]).logit(logit))
    return pd.DataFrame(
        combine_folds(per_fold, load_test_fold(run.dir)), index=test.index, columns=list(LABELS)
    )


def training_prior(run):
    """Return the smoothed share of positives of each label among the labelled train slices, {label:
    probability}.
    """
    y = read_table(run.slices).query("split == 'train'")[list(LABELS)].dropna()
    return {label: smoothed_prior(y[label].to_numpy()) for label in LABELS}
