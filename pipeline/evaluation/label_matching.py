"""Join a user's labels to the slices and studies that were scored."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ct.errors import number_of
from ct.label_tables.label_match import match_labels
from ct.labels import CONTRADICTIONS, LABELS, contradictions

COLUMNS = list(LABELS)
KINDS = ("slice", "series", "study", "patient")


class Truth(NamedTuple):
    """The labels of the slices of new studies, or of whole studies.

    values: (n, 6), columns LABELS, indexed by slice_id or study_id; unused: rows of the table that
    name nothing of the data; unclear: studies left out because a row names several of them, or
    several rows with other labels one of them
    """

    per_slice: bool
    values: pd.DataFrame
    unused: int
    unclear: int


def scored_truth(table: pd.DataFrame, names: pd.DataFrame, key: bytes, where: str) -> Truth:
    """Return the labels of new studies.

    table: a label table (ct/label_tables/own_labels.py); names: indexed by slice_id, with study_id,
    `path`, `read` (whether the slice is of the series that is read), and the pseudonyms under `key`
    of NewStudies.acquisition

    Raises InputError where no row belongs to the data.
    """
    slices = names[["path"]].assign(**{f"{kind}_id": names[f"{kind}_key"] for kind in KINDS[1:]})
    match = match_labels(table, slices.set_index(pd.Index(names["slice_key"])), key, where)
    row = pd.Series(match.row, names.index)
    row = row[row >= 0]
    if match.level == "slice":
        return Truth(True, table[COLUMNS].iloc[row].set_axis(row.index), match.unused, 0)
    row = row[_read_ones(names)[row.index]]
    pairs = pd.DataFrame({"row": row, "study": names["study_id"], "uid": names["study_key"]})
    pairs = pairs.loc[row.index].drop_duplicates()
    of_several = pairs.groupby("row")["uid"].transform("nunique") > 1
    labels = table[COLUMNS].iloc[pairs["row"]].fillna(-1).groupby(pairs["study"].to_numpy(object))
    differ = (labels.max() != labels.min()).any(axis=1)
    unclear = set(pairs["study"][of_several]) | set(differ.index[differ])
    pairs = pairs[~pairs["study"].isin(unclear)].drop_duplicates("study")
    truth = table[COLUMNS].iloc[pairs["row"]].set_axis(pd.Index(pairs["study"], name="study_id"))
    return Truth(False, truth, match.unused, len(unclear))


def _read_ones(names: pd.DataFrame) -> pd.Series:
    """Return whether a slice counts for its study: all do where no series of it is read."""
    any_read = names["read"].groupby(names["study_id"]).transform("any")
    return names["read"] | ~any_read


def complete_rows(truth: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with all six labels."""
    return truth[truth.notna().all(axis=1)]


def contradiction_notes(truth: pd.DataFrame, per_slice: bool) -> list[str]:
    """Return a sentence on labels whose `any` contradicts the subtypes, none where there are none.

    truth: labels of slices (per_slice) or of studies, columns LABELS
    """
    noun = "slice" if per_slice else "study"
    counts = [
        f"{number_of(len(ids), noun)} {CONTRADICTIONS[name]}"
        for name, ids in contradictions(truth).items()
        if len(ids)
    ]
    if not counts:
        return []
    return [f"{', '.join(counts)}: labels that contradict each other are used as they are."]


def study_truth(truth: pd.DataFrame, of_labels: pd.Series, of_scored: pd.Series) -> pd.DataFrame:
    """Return the labels of the studies with scored slices: 1 where a slice is positive.

    truth: complete labels of slices, scored or not; of_labels, of_scored: the study of each of
    these slices, and of each scored one. A study with a scored slice without labels is left out: it
    could be positive there.
    """
    partly = set(of_scored[~of_scored.index.isin(truth.index)])
    of_study = truth.groupby(of_labels.to_numpy(object), sort=True).max()
    return of_study[of_study.index.isin(set(of_scored) - partly)]


def labelled_studies(labels: pd.DataFrame, per_slice: bool, study: pd.Series) -> set[str]:
    """Return the studies of which something is labelled. study: of every slice"""
    return set(study.reindex(labels.index).dropna()) if per_slice else set(labels.index)


def patient_numbers(patients: pd.Series) -> np.ndarray:
    """Return patients (n,) as text numbers, so that no identifier goes on."""
    return np.asarray(pd.factorize(patients)[0].astype(str), object)
