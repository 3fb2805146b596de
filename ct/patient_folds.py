"""Folds that no patient and no study is split over, balanced by label, made once for every row."""

import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from ct.errors import InputError, number_of
from ct.labels import LABELS


def fold_groups(slices: pd.DataFrame) -> NDArray[np.object_]:
    """Return the group of every slice, object (n,). No group is split over two folds.

    slices: a slice table, train and test together, with patient_id and, where known, study_id and
            series_id

    A group is all patients that are connected by shared studies or series; its name is the smallest
    patient_id in it. So a study with two PatientIDs joins both patients. Without shared studies,
    the group is the patient. (`ct.checks.shared_uids.separate_patients` has already separated the
    studies and series that two people share by mistake.)
    """
    patients = slices["patient_id"].to_numpy(object)
    links = [name for name in ("study_id", "series_id") if name in slices]
    pairs = {name: slices[["patient_id", name]].drop_duplicates() for name in links}
    if not any(table[name].duplicated().any() for name, table in pairs.items()):
        return patients
    names = sorted(set(patients))
    number = {name: code for code, name in enumerate(names)}
    edges = []  # from each patient to the first patient of the same study or series
    for name, table in pairs.items():
        first = table.drop_duplicates(name).set_index(name)["patient_id"]
        edges.append(
            np.array([table["patient_id"].map(number), table[name].map(first).map(number)])
        )
    edge_table = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(edge_table.shape[1]), edge_table), shape=(len(names),) * 2)
    component = connected_components(graph, directed=False)[1]
    smallest = np.unique(component, return_index=True)[1]  # the names are sorted
    group = {name: names[smallest[at]] for name, at in zip(names, component, strict=True)}
    return np.array([group[patient] for patient in patients], object)


def assign_folds(slices: pd.DataFrame, k: int, seed: int) -> NDArray[np.int8]:
    """Return the fold of every slice, int8 (n,), aligned with the slice table.

    Train slices get 0 ... k-1. No patient, study or group (`fold_groups`) is in two folds, and the
    32 label patterns are spread evenly. Unlabelled slices count as a pattern of their own. Where no
    pattern has k slices, only the numbers of slices are balanced. A test slice gets the fold of its
    group where that is also in train, else -1.

    Raises InputError where train has fewer than k patients, or so few that a fold stays empty.
    """
    train = (slices["split"] == "train").to_numpy()
    groups = fold_groups(slices)
    count = len(set(groups[train]))
    if count < k:
        raise InputError(
            f"folds.k = {k} but train holds {number_of(count, 'patient')}; "
            "lower folds.k in the recipe"
        )
    labels = slices[list(LABELS)].to_numpy()[train]
    pattern = np.where(
        np.isnan(labels).any(axis=1), -1, np.nan_to_num(labels) @ (1 << np.arange(len(LABELS)))
    ).astype(int)
    if np.unique(pattern, return_counts=True)[1].max() < k:
        pattern[:] = 0
    fold = np.full(len(slices), -1, dtype=np.int8)
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    train_fold = np.empty(train.sum(), dtype=np.int8)
    with warnings.catch_warnings():
        # sklearn warns of each pattern with fewer slices than folds; rare patterns are normal here
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, held_out) in enumerate(splitter.split(labels, pattern, groups[train])):
            if not len(held_out):
                raise InputError(
                    f"fold {number} got none of train's {count} patients; "
                    f"lower folds.k = {k} in the recipe"
                )
            train_fold[held_out] = number
    fold[train] = train_fold
    by_group = dict(zip(groups[train], train_fold, strict=True))
    fold[~train] = [by_group.get(group, -1) for group in groups[~train]]
    return fold


def check_folds(slices: pd.DataFrame, fold: NDArray[np.integer]) -> None:
    """Raise InputError where a train slice has no fold, or a patient, study or group has two.

    fold: (n,), aligned with the slice table
    """
    train = (slices["split"] == "train").to_numpy()
    if (fold[train] < 0).any():
        raise InputError(
            f"slice {slices.index[train][fold[train] < 0][0]} has no fold; run `folds` again"
        )
    fold_by_group(slices, pd.Series(fold[train], index=slices.index[train]))


def extend_folds(slices: pd.DataFrame, existing: pd.Series, k: int) -> NDArray[np.int8]:
    """Return the fold of every slice, int8 (n,), from the folds of a slice list or an import.

    existing: fold numbers 0 ... k-1 by slice id, of at least one slice of each group
              (`fold_groups`) of train

    Test slices: as in `assign_folds`. Raises InputError where the number of folds is not k, where a
    patient, study or group is in two folds, or a group in none.
    """
    count = int(existing.max()) + 1
    if count != k:
        raise InputError(
            f"folds.k = {k}, but the slice list or import has {number_of(count, 'fold')}; "
            f"set folds.k to {count} in recipe.yaml"
        )
    by_group = fold_by_group(slices, existing)
    train = (slices["split"] == "train").to_numpy()
    groups = pd.Series(fold_groups(slices), index=slices.index)
    fold = groups.map(by_group).fillna(-1).to_numpy(np.int8)
    if (missing := train & (fold < 0)).any():
        raise InputError(
            f"patient {slices['patient_id'][missing].iloc[0]} "
            "has no fold in the slice list or import; add one"
        )
    return fold


def fold_by_group(slices: pd.DataFrame, fold: pd.Series) -> pd.Series:
    """Return the fold of each group (`fold_groups`), indexed by group.

    slices: a slice table; fold: fold numbers by slice id, of some of its rows

    Raises InputError where a patient, a study or a group is in two folds.
    """
    fold_by_id(slices["patient_id"], fold)
    if "study_id" in slices:
        fold_by_id(slices["study_id"], fold, "study")
    groups = pd.Series(fold_groups(slices), index=slices.index)
    return fold_by_id(groups, fold, "the group of patient")


def fold_by_id(ids: pd.Series, fold: pd.Series, what: str = "patient") -> pd.Series:
    """Return the fold of each patient, study or group, indexed by its id.

    ids:  id of the patient, study or group of each slice, indexed by slice id
    fold: fold numbers by slice id, of some of the slices
    what: what the ids name, for the message

    Raises InputError where one id is in two folds.
    """
    common = ids.index.isin(fold.index)
    pairs = (
        pd.DataFrame({"name": ids[common], "fold": fold.reindex(ids.index[common])})
        .dropna()
        .drop_duplicates()
    )
    if (twice := pairs["name"].duplicated()).any():
        name = pairs["name"][twice].iloc[0]
        both = " and ".join(f"{number:.0f}" for number in pairs["fold"][pairs["name"] == name][:2])
        line = f"{what} {name} is in two folds, {both}; folds are made by patient"
        if what != "patient":
            line += ", and patients who share a study belong together"
        raise InputError(line)
    return pairs.set_index("name")["fold"]
