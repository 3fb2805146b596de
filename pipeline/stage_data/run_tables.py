"""Tables of a run folder, joined by slice id into the arrays that stage two works on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from ct.averaging import StageOne, combine_folds, mean_logits, mean_of_seeds
from ct.errors import InputError
from ct.labels import LABELS
from ct.patient_folds import fold_groups
from ct.run_dir import RunDir, seed_names
from ct.storage.file_formats import read_array, read_json, read_table
from ct.storage.prediction_files import read_predictions_of
from pipeline.run_context import Run
from stage2_stack.calibration import smoothed_prior
from stage2_stack.patient_calibration import fit_calibration

Logits = dict[str, NDArray[np.float32]]  # {model: (n, 6)}
Rows = tuple[
    NDArray[np.float32], NDArray[np.float64], NDArray[np.int8], NDArray[np.object_], list[str]
]


def load_rows(run: RunDir) -> Rows:
    """Return X, y, fold and patients of the train slices, and the names of the features.

    X: (n, f) memory map; y: (n, 6), NaN where unlabelled; fold: (n,); patients: (n,), as in
    `patients_of_folds`
    """
    slices = read_table(run.slices)
    train = (slices["split"] == "train").to_numpy()
    fold = read_table(run.folds)["fold"].reindex(slices.index).to_numpy()[train]
    y = slices.loc[train, list(LABELS)].to_numpy(np.float64)
    patients = patients_of_folds(run, slices)[train]
    names = list(read_json(run.stage2 / "features" / "names.json"))
    X = read_array(run.stage2 / "features" / "train.npy")
    if X.shape != (len(y), len(names)):
        raise ValueError(
            f"features have shape {X.shape}; slices and names need {(len(y), len(names))}"
        )
    return X, y, fold, patients, names


def patients_of_folds(run: RunDir, slices: pd.DataFrame) -> NDArray[np.object_]:
    """Return the group of every slice, (n,), as in `fold_groups`: its patient, nearly always.

    slices: slice table of the run. Folds of an older version may split a group; for such a run this
    returns the patient of every slice, as that version did.
    """
    groups, train = fold_groups(slices), slices["split"] == "train"
    fold = read_table(run.folds)["fold"].reindex(slices.index)
    pairs = pd.DataFrame({"group": groups, "fold": fold})[train].drop_duplicates()
    is_split = pairs["group"].duplicated().any()
    return slices["patient_id"].to_numpy(object) if is_split else groups


def load_starts(run: RunDir) -> list[NDArray[np.intp]]:
    """Return the first row of each series, (s,): of the train slices, and of the test slices."""
    slices = read_table(run.slices)
    return [
        np.flatnonzero(slices.loc[slices["split"] == split, "place"] == 0)
        for split in ("train", "test")
    ]


def load_test_fold(run: RunDir) -> NDArray[np.int8]:
    """Return the fold in train of each test slice's patient, (m,); -1 for one not in train."""
    slices = read_table(run.slices)
    fold = read_table(run.folds)["fold"].reindex(slices.index).to_numpy()
    return fold[(slices["split"] == "test").to_numpy()]


def load_logits(run: Run, index: pd.Index, k: int | None = None) -> Logits:
    """Return {model: logits (n, 6)} as `load_predictions` does; probabilities are clipped."""
    clip = run.recipe.features.clip
    return {name: each.logits(clip) for name, each in _each_prediction(run, index, k)}


def load_predictions(run: Run, index: pd.Index, k: int | None = None) -> dict[str, StageOne]:
    """Return {model: predictions (n, 6)} of CNNs and imported models, NaN where unknown.

    index: ids of the n slices; k: None for the out-of-fold predictions of train slices, else the
    fold whose models predict test slices. A CNN with several seeds has the mean of their logits.

    Raises InputError where the run has no model, or an imported one has no such predictions.
    """
    return dict(_each_prediction(run, index, k))


def _each_prediction(run: Run, index: pd.Index, k: int | None) -> Iterator[tuple[str, StageOne]]:
    """Yield (model, predictions) as `load_predictions` returns them, one model at a time."""
    paths = _prediction_paths(run, k)
    if not paths:
        raise InputError(
            "there are no predictions to stack: import a model's with "
            "`import-predictions --name=NAME --oof=FILE`"
        )
    for name in run.recipe.stage1.imports:
        if paths[name][0].exists() or (k is not None and index.empty):
            continue
        if k is None:
            lacking, flag = "out-of-fold predictions", "--oof"
        else:
            lacking = f"predictions for the {len(index)} test slices of fold {k}"
            flag = "--test"
        raise InputError(
            f"the imported model {name} has no {lacking}; import it again, with {flag}"
        )
    for name, of_model in paths.items():
        if index.empty:  # a run without test slices has no tables of them
            yield name, StageOne(np.empty((0, len(LABELS)), np.float32), "logits")
        else:
            yield name, mean_of_seeds([read_predictions_of(path, index) for path in of_model])


def _prediction_paths(run: Run, k: int | None) -> dict[str, list[Path]]:
    """Return {model: paths of its predictions, one a seed}: CNNs first, then imported models."""
    paths = {}
    for config in run.recipe.stage1.models:
        paths[config.name] = [
            run.dir.oof(name) if k is None else run.dir.fold(name, k) / "test.parquet"
            for name in seed_names(config.name, config.seeds)
        ]
    for name in run.recipe.stage1.imports:
        paths[name] = [
            run.dir.imported_oof(name) if k is None else run.dir.imported_test_path(name, k)
        ]
    return paths


def calibrated_stage_one(run: Run) -> pd.DataFrame:
    """Return the calibrated mean of the models on the test slices, (m, 6), indexed by slice id.

    Fold k's calibration is fitted on the train slices outside fold k, for that fold's models.
    """
    k_folds, has_floor = run.recipe.folds.k, run.recipe.stage1.clipped
    slices, folds = read_table(run.dir.slices), read_table(run.dir.folds)["fold"]
    train, test = (slices[slices["split"] == split] for split in ("train", "test"))
    y, fold = train[list(LABELS)].to_numpy(np.float64), folds.reindex(train.index).to_numpy()
    labelled = ~np.isnan(y).any(axis=1)
    by_patient = run.recipe.stage2.calibrate_by == "patient"
    groups = patients_of_folds(run.dir, slices)[(slices["split"] == "train").to_numpy()]
    patients = groups if by_patient else None
    oof_logits = mean_logits(load_logits(run, train.index))  # (n, 6)
    per_fold = np.empty((k_folds, len(test), len(LABELS)))
    for k in range(k_folds):
        fit = labelled & (fold != k)
        test_logits = mean_logits(load_logits(run, test.index, k))  # (m, 6)
        for j in range(len(LABELS)):
            observed = None if patients is None else patients[fit]
            platt = fit_calibration(oof_logits[fit, j], y[fit, j], observed, has_floor)
            per_fold[k, :, j] = expit(platt.logit(test_logits[:, j]))
    probabilities = combine_folds(per_fold, load_test_fold(run.dir))
    return pd.DataFrame(probabilities, index=test.index, columns=list(LABELS))


def training_prior(run: RunDir) -> dict[str, float]:
    """Return {label: smoothed share of positives among the labelled train slices}."""
    y = read_table(run.slices).query("split == 'train'")[list(LABELS)].dropna()
    return {label: smoothed_prior(y[label].to_numpy()) for label in LABELS}
