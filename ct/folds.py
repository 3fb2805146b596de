"""Patient-grouped, label-balanced folds, made once for every row before any filter."""

import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from ct.errors import InputError
from ct.labels import LABELS


def assign_folds(slices, k, seed):
    """Return the fold of every slice, int8 (n,), aligned with the slice table.

    Train slices get 0 ... k-1: no patient in two, and the mixture of the 32 label patterns alike in all. A test slice gets
    its patient's fold where the patient is also in train, else -1. Unlabelled slices count as a pattern of their own.

    Where no pattern has k slices, only the numbers of slices are balanced.
    Raises InputError where train has fewer than k patients, or so few that a fold stays empty.
    """
    train = (slices["split"] == "train").to_numpy()
    patients = slices["patient_id"].to_numpy(object)
    count = len(set(patients[train]))
    if count < k:
        raise InputError(f"folds.k = {k} but train holds {count} patients; lower folds.k in the recipe")
    known = slices[list(LABELS)].to_numpy()[train]
    pattern = np.where(np.isnan(known).any(axis=1), -1, np.nan_to_num(known) @ (1 << np.arange(len(LABELS)))).astype(int)
    if np.unique(pattern, return_counts=True)[1].max() < k:
        pattern[:] = 0
    fold = np.full(len(slices), -1, dtype=np.int8)
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    train_fold = np.empty(train.sum(), dtype=np.int8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of each pattern with fewer slices than folds: rare ones are the rule
        for number, (_, held_out) in enumerate(splitter.split(known, pattern, patients[train])):
            if not len(held_out):
                raise InputError(f"fold {number} got none of train's {count} patients; lower folds.k = {k} in the recipe")
            train_fold[held_out] = number
    fold[train] = train_fold
    of_patient = dict(zip(patients[train], train_fold, strict=True))
    fold[~train] = [of_patient.get(patient, -1) for patient in patients[~train]]
    return fold


def check_folds(slices, fold):
    """Raise InputError naming a patient of train who is in two folds, or a train slice without a fold."""
    train = (slices["split"] == "train").to_numpy()
    if (fold[train] < 0).any():
        raise InputError(f"slice {slices.index[train][fold[train] < 0][0]} has no fold; run `folds` again")
    pairs = slices.loc[train, ["patient_id"]].assign(fold=fold[train]).drop_duplicates()
    if (twice := pairs["patient_id"].duplicated()).any():
        raise InputError(f"patient {pairs['patient_id'][twice].iloc[0]} is in two folds; folds are made by patient")


def spread_folds(slices, given, k):
    """Return the fold of every slice, int8 (n,), from folds that were made elsewhere.

    given: Series of numbers 0 ... k-1, indexed by slice id, of at least one slice of each patient of train

    Test slices as in `assign_folds`. Raises InputError for another number of folds than k, or a patient in two or in none.
    """
    count = int(given.max()) + 1
    if count != k:
        raise InputError(f"folds.k = {k}, but the folds that were given are {count}; set folds.k to {count} in recipe.yaml")
    of_patient = patient_folds(slices["patient_id"].reindex(given.index).dropna(), given)
    train = (slices["split"] == "train").to_numpy()
    fold = slices["patient_id"].map(of_patient).fillna(-1).to_numpy(np.int8)
    if (bad := train & (fold < 0)).any():
        raise InputError(f"patient {slices['patient_id'][bad].iloc[0]} has no fold among those that were given; give one")
    return fold


def patient_folds(patients, fold):
    """Return {patient: fold} as a Series. patients, fold: Series with an index in common.

    Raises InputError where a patient is in two folds.
    """
    pairs = pd.DataFrame({"patient": patients, "fold": fold.reindex(patients.index)}).dropna().drop_duplicates()
    if (twice := pairs["patient"].duplicated()).any():
        patient = pairs["patient"][twice].iloc[0]
        both = " and ".join(f"{number:.0f}" for number in pairs["fold"][pairs["patient"] == patient][:2])
        raise InputError(f"patient {patient} is in two folds, {both}; folds are made by patient")
    return pairs.set_index("patient")["fold"]
