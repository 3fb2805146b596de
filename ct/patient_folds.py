"""Patient-grouped, label-balanced folds, made once for every row before any filter."""

import warnings

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from ct.errors import InputError
from ct.labels import LABELS


def fold_groups(slices):
    """Return the group of every slice, object (n,): what no fold may tear.

    slices: a slice table, train and test together, with patient_id and, where known, study_id and
    series_id

    A group is all patients that are connected by a study or series they share; it bears the
    smallest of their names. So a study that carries two PatientIDs joins both, and where none does,
    the group is the patient. (Studies and series that two people share by mistake were parted
    before, by `ct.checks.shared_uids.separate_patients`.)
    """
    patients = slices["patient_id"].to_numpy(object)
    links = [name for name in ("study_id", "series_id") if name in slices]
    pairs = {name: slices[["patient_id", name]].drop_duplicates() for name in links}
    if not any(table[name].duplicated().any() for name, table in pairs.items()):
        return patients
    names = sorted(set(patients))
    number, edges = {name: code for code, name in enumerate(names)}, []
    for name, table in pairs.items():
        first = table.drop_duplicates(name).set_index(name)["patient_id"]
        edges.append(
            np.array([table["patient_id"].map(number), table[name].map(first).map(number)])
        )
    edges = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(edges.shape[1]), edges), shape=(len(names),) * 2)
    component = connected_components(graph, directed=False)[1]
    smallest = np.unique(component, return_index=True)[1]  # the names are sorted
    group = {name: names[smallest[at]] for name, at in zip(names, component, strict=True)}
    return np.array([group[patient] for patient in patients], object)


def assign_folds(slices, k, seed):
    """Return the fold of every slice, int8 (n,), aligned with the slice table.

    Train slices get 0 ... k-1: no patient, study or group (`fold_groups`) in two, and the mixture
    of the 32 label patterns alike in all. A test slice gets its group's fold where that is also in
    train, else -1. Unlabelled slices count as a pattern of their own.

    Where no pattern has k slices, only the numbers of slices are balanced.
    Raises InputError where train has fewer than k patients, or so few that a fold stays empty.
    """
    train = (slices["split"] == "train").to_numpy()
    groups = fold_groups(slices)
    count = len(set(groups[train]))
    if count < k:
        raise InputError(
            f"folds.k = {k} but train holds {count} patients; lower folds.k in the recipe"
        )
    known = slices[list(LABELS)].to_numpy()[train]
    pattern = np.where(
        np.isnan(known).any(axis=1), -1, np.nan_to_num(known) @ (1 << np.arange(len(LABELS)))
    ).astype(int)
    if np.unique(pattern, return_counts=True)[1].max() < k:
        pattern[:] = 0
    fold = np.full(len(slices), -1, dtype=np.int8)
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    train_fold = np.empty(train.sum(), dtype=np.int8)
    with warnings.catch_warnings():
        # of each pattern with fewer slices than folds: rare ones are the rule
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, held_out) in enumerate(splitter.split(known, pattern, groups[train])):
            if not len(held_out):
                raise InputError(
                    f"fold {number} got none of train's {count} patients; lower folds.k = {k} in the recipe"
                )
            train_fold[held_out] = number
    fold[train] = train_fold
    of_group = dict(zip(groups[train], train_fold, strict=True))
    fold[~train] = [of_group.get(group, -1) for group in groups[~train]]
    return fold


def check_folds(slices, fold):
    """Raise InputError naming a patient, study or group of train that is in two folds, or a train
    slice without a fold.
    """
    train = (slices["split"] == "train").to_numpy()
    if (fold[train] < 0).any():
        raise InputError(
            f"slice {slices.index[train][fold[train] < 0][0]} has no fold; run `folds` again"
        )
    fold_by_group(slices, pd.Series(fold[train], index=slices.index[train]))


def extend_folds(slices, given, k):
    """Return the fold of every slice, int8 (n,), from folds that were made elsewhere.

    given: Series of numbers 0 ... k-1, indexed by slice id, of at least one slice of each patient
    of train, or of one of its group (`fold_groups`)

    Test slices as in `assign_folds`. Raises InputError for another number of folds than k, or a
    patient, study or group that is in two, or a group in none.
    """
    count = int(given.max()) + 1
    if count != k:
        raise InputError(
            f"folds.k = {k}, but the folds that were given are {count}; set folds.k to {count} in recipe.yaml"
        )
    of_group = fold_by_group(slices, given)
    train = (slices["split"] == "train").to_numpy()
    fold = (
        pd.Series(fold_groups(slices), index=slices.index)
        .map(of_group)
        .fillna(-1)
        .to_numpy(np.int8)
    )
    if (bad := train & (fold < 0)).any():
        raise InputError(
            f"patient {slices['patient_id'][bad].iloc[0]} has no fold among those that were given; give one"
        )
    return fold


def fold_by_group(slices, fold):
    """Return {group: fold} as a Series, groups as in `fold_groups`.

    slices: a slice table; fold: Series indexed by slice id, of some of its rows
    Raises InputError where a patient, a study, or patients that studies connect are in two folds.
    """
    fold_by_id(slices["patient_id"], fold)
    if "study_id" in slices:
        fold_by_id(slices["study_id"], fold, "study")
    return fold_by_id(
        pd.Series(fold_groups(slices), index=slices.index), fold, "the group of patient"
    )


def fold_by_id(patients, fold, what="patient"):
    """Return {patient: fold} as a Series. patients, fold: Series with an index in common; what:
    they are, for the message.

    Raises InputError where one is in two folds.
    """
    known = patients.index.isin(fold.index)
    pairs = (
        pd.DataFrame({"name": patients[known], "fold": fold.reindex(patients.index[known])})
        .dropna()
        .drop_duplicates()
    )
    if (twice := pairs["name"].duplicated()).any():
        name = pairs["name"][twice].iloc[0]
        both = " and ".join(f"{number:.0f}" for number in pairs["fold"][pairs["name"] == name][:2])
        line = f"{what} {name} is in two folds, {both}; folds are made by patient"
        raise InputError(
            line + ", and patients who share a study belong together" * (what != "patient")
        )
    return pairs.set_index("name")["fold"]
