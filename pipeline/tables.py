"""Joins what the stages left in a run folder, by slice id, into the arrays that stage two works on."""

import numpy as np
import pandas as pd
from scipy.special import expit

from ct.errors import InputError
from ct.folds import fold_groups
from ct.header import pseudonym
from ct.labels import LABELS
from ct.rundir import read_array, read_json, read_table
from ct.submission import read_sample
from features.build import mean_logits
from stage2_stack.calibrate import fit_platt, smoothed_prior

LEAST_COMMON = 0.5  # of the slices of sample or test files, whichever are fewer: those that are in both
LEAST_PREDICTED = 0.5  # of the slices of a sample: those whose file is not in quarantine


def load_rows(run):
    """Return X (n, f), y (n, 6), fold (n,), patients (n,) of the train slices, and the names of the features.

    patients: as in `patients_of_folds`
    """
    slices = read_table(run.slices)
    train = (slices["split"] == "train").to_numpy()
    fold = read_table(run.folds)["fold"].reindex(slices.index).to_numpy()[train]
    y, patients = slices.loc[train, list(LABELS)].to_numpy(np.float64), patients_of_folds(run, slices)[train]
    names = list(read_json(run.stage2 / "features" / "names.json"))
    X = read_array(run.stage2 / "features" / "train.npy")
    if X.shape != (len(y), len(names)):
        raise ValueError(f"features are of shape {X.shape}, slices and names say {(len(y), len(names))}")
    return X, y, fold, patients, names


def patients_of_folds(run, slices):
    """Return the group of every slice, object (n,), as in `ct.folds.fold_groups`: nearly always its patient.

    run: RunDir; slices: its slice table. The folds of a run that was made before folds kept groups together may tear one;
    there the patients count, as they did then.
    """
    groups, train = fold_groups(slices), slices["split"] == "train"
    fold = read_table(run.folds)["fold"].reindex(slices.index)
    torn = pd.DataFrame({"group": groups, "fold": fold})[train].drop_duplicates()["group"].duplicated().any()
    return slices["patient_id"].to_numpy(object) if torn else groups


def load_starts(run):
    """Return the first row of each series among the train slices, int (s,), and among the test slices."""
    slices = read_table(run.slices)
    return [np.flatnonzero(slices.loc[slices["split"] == split, "place"] == 0) for split in ("train", "test")]


def load_test_fold(run):
    """Return the fold in train of each test slice's patient, (n,); -1 where the patient is not in train."""
    slices = read_table(run.slices)
    return read_table(run.folds)["fold"].reindex(slices.index).to_numpy()[(slices["split"] == "test").to_numpy()]


def match_sample(sample_csv, key, predicted, quarantine, missing):
    """Match the rows of a sample submission with the test slices.

    key: bytes, of the pseudonyms; predicted: Index of the test slices; quarantine: table; missing: "refuse" or "prior"

    Returns (ids, slice_id, label, quarantined, fileless): the row ids as in the file, their slices' names in the tables and
    their labels, (n,) each, and the slices without a prediction, whose file is quarantined or not there at all.
    Raises InputError for slices without any file, and where most are in quarantine, unless the prior may stand in for
    them, and for a sample of other data.
    """
    ids, names, label = read_sample(sample_csv)
    alias = {name: pseudonym(name, key, "slice") for name in pd.unique(pd.Series(names))}
    out_of_test = quarantine[(quarantine["kind"] == "header") & (quarantine["split"] == "test")]
    left_out = set(out_of_test["slice_id"])
    lacking = pd.Index(list(alias.values())).difference(predicted, sort=False)
    fileless = [slice_id for slice_id in lacking if slice_id not in left_out]
    if fileless and missing != "prior":
        first = next(name for name, slice_id in alias.items() if slice_id == fileless[0])
        raise InputError(
            f"{len(fileless)} slices of the sample file {sample_csv} have no DICOM file, the first is {first}; give the "
            "sample that belongs to the data (`new --sample=FILE`), or let the training prior stand in (--missing=prior)"
        )
    sample = set(alias.values())
    _check_same_data(sample, {*predicted, *(left_out & sample)}, sample_csv)
    quarantined = [slice_id for slice_id in lacking if slice_id in left_out]
    if missing != "prior":
        _check_predicted(sample, out_of_test[out_of_test["slice_id"].isin(quarantined)], sample_csv)
    return ids, pd.Series(names).map(alias).to_numpy(object), label, quarantined, fileless


def _check_predicted(sample, quarantined, sample_csv):
    """Raise InputError where more than half of a sample's slices are in quarantine: their submission would be mere priors.

    sample: set of slices; quarantined: the rows of the quarantine that are of them
    """
    count = quarantined["slice_id"].nunique()
    if len(sample) - count < LEAST_PREDICTED * len(sample):
        raise InputError(
            f"{count} of the {len(sample)} slices of the sample file {sample_csv} have a test file that does not read, "
            f"the first is {first_reason(quarantined)}; give whole test files, or let the training prior stand in "
            "(--missing=prior)"
        )


def first_reason(quarantine):
    """Return "split/slice, reason" of the first row of a quarantine table, or that there is none."""
    if quarantine.empty:
        return "none is there"
    first = quarantine.iloc[0]
    return f"{first['split']}/{first['slice_id']}, {first['reason']}"  # its path may be named after a person


def _check_same_data(sample, on_disk, sample_csv):
    """Raise InputError where sample and test files have less than half of the smaller one's slices in common.

    Either may be a part of the other: a few studies of the competition with its whole sample, or a sample of a few studies.
    """
    smaller, common = min(len(sample), len(on_disk)), len(sample & on_disk)
    if common < LEAST_COMMON * smaller:
        raise InputError(
            f"{common} of the {len(sample)} slices of the sample file {sample_csv} are among the {len(on_disk)} of the test "
            "files: it belongs to other data; give the sample that belongs to these (`new --sample=FILE`)"
        )


def route(per_fold, test_fold):
    """Return the final test probabilities (n, 6): the mean over folds, or the patient's own fold where one is also in train.

    per_fold: (K, n, 6); test_fold: (n,) the fold in train of each slice's patient, -1 where it has none
    """
    final = per_fold.mean(axis=0)
    own = np.flatnonzero(test_fold >= 0)
    final[own] = per_fold[test_fold[own], own]
    return final


def opinions(run, index, k=None):
    """Return {model: probabilities (n, 6)} of the CNNs and the imported models, NaN where unknown.

    run: pipeline.stages.Run; index: the slices; k: None for out-of-fold probabilities of train slices, else the number of the
    fold whose models' opinion of test slices is wanted

    Raises InputError where there is no model at all, or one has not said anything about the test slices.
    """
    cnns, imports = [config.name for config in run.recipe.stage1.models], run.recipe.stage1.imports
    paths = {name: run.dir.oof(name) if k is None else run.dir.fold(name, k) / "test.parquet" for name in cnns}
    paths |= {name: run.dir.imported_oof(name) if k is None else run.dir.imported_test(name, k) for name in imports}
    if not paths:
        raise InputError("there are no opinions to stack: import a model's with `import-predictions --name=NAME --oof=FILE`")
    for name in imports:
        if not paths[name].exists() and (k is None or len(index)):
            what = "out-of-fold predictions" if k is None else f"predictions for the {len(index)} test slices of fold {k}"
            flag = "--oof" if k is None else "--test"
            raise InputError(f"the imported model {name} has no {what}; import it again, with {flag}")
    if not len(index):  # of no test slices there need not be a table
        return {name: np.empty((0, len(LABELS)), np.float32) for name in paths}
    return {name: read_table(path).reindex(index)[list(LABELS)].to_numpy() for name, path in paths.items()}


def stage_one(run):
    """Return the calibrated mean of the models on the test slices, a table of (n, 6). run: pipeline.stages.Run"""
    k_folds, clip = run.recipe.folds.k, run.recipe.features.clip
    slices, fold = read_table(run.dir.slices), read_table(run.dir.folds)["fold"]
    train, test = (slices[slices["split"] == split] for split in ("train", "test"))
    y, fold = train[list(LABELS)].to_numpy(np.float64), fold.reindex(train.index).to_numpy()
    known = ~np.isnan(y).any(axis=1)
    raw = mean_logits(opinions(run, train.index), clip)
    per_fold = np.empty((k_folds, len(test), len(LABELS)))
    for k in range(k_folds):
        fit = known & (fold != k)
        for j, logit in enumerate(mean_logits(opinions(run, test.index, k), clip).T):
            per_fold[k, :, j] = expit(fit_platt(raw[fit, j], y[fit, j]).logit(logit))
    return pd.DataFrame(route(per_fold, load_test_fold(run.dir)), index=test.index, columns=list(LABELS))


def training_prior(run):
    """Return the smoothed share of positives of each label among the labelled train slices, {label: probability}."""
    y = read_table(run.slices).query("split == 'train'")[list(LABELS)].dropna()
    return {label: smoothed_prior(y[label].to_numpy()) for label in LABELS}
