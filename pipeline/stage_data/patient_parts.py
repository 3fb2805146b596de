"""Which fold of train, and which part of the fold, each patient is in.

The Markov chain without the fold, and the probe without the part, were not fitted on the patient.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.storage.file_formats import read_table
from features.linear_probe import part_of_patient
from pipeline.run_context import Run
from pipeline.stage_data.run_tables import patients_of_folds


@dataclass(frozen=True)
class PatientSplit:
    """Which fold, and which part of the fold, each slice's patient is in."""

    groups: pd.Series  # patient or group of each train and test slice, by slice id
    fold: NDArray[np.int8]  # (n,) of the train slices
    test_fold: NDArray[np.int8]  # (m,) fold in train of the test slices' patients, -1 for none
    parts: pd.DataFrame  # as returned by patient_parts


def patient_split(run: Run, train: pd.DataFrame, test: pd.DataFrame) -> PatientSplit:
    """Return the PatientSplit of a run. train, test: its slice table of n and of m rows"""
    slices = pd.concat([train, test])
    groups = pd.Series(patients_of_folds(run.dir, slices), slices.index, name="patient_id")
    folds = read_table(run.dir.folds)["fold"]
    fold, test_fold = (folds.reindex(rows.index).to_numpy() for rows in (train, test))
    parts = patient_parts(groups[train.index], fold)
    return PatientSplit(groups, fold, test_fold, parts)


def patient_parts(patients: pd.Series, fold: NDArray[np.integer]) -> pd.DataFrame:
    """Return `fold` and `part` of each train patient, indexed by patient.

    The chain without that fold and the probe without that part were not fitted on the patient.
    patients: (n,) of the train slices; fold: (n,)
    """
    table = pd.DataFrame({"patient_id": patients.to_numpy(object), "fold": fold}).drop_duplicates()
    parts = pd.Series(0, table.index)
    for k in np.unique(fold):
        in_fold = table["fold"] == k
        parts[in_fold] = part_of_patient(table.loc[in_fold, "patient_id"].to_numpy(object))
    return table.assign(part=parts.astype(np.int8)).set_index("patient_id").sort_index()


def parts_by_patient(parts: pd.DataFrame, patients: pd.Series, groups: pd.Series) -> pd.DataFrame:
    """Return the row of `parts` of each patient's group, indexed by patient.

    parts: as returned by patient_parts, of groups; patients, groups: (n,) of the train slices
    """
    pairs = pd.DataFrame(
        {"patient_id": patients.to_numpy(object), "group": groups.to_numpy(object)}
    ).drop_duplicates()
    by_patient = parts.loc[pairs["group"]]
    by_patient.index = pd.Index(pairs["patient_id"], name="patient_id")
    return by_patient.sort_index()


def part_in_fold(
    patients: pd.Series, fold: NDArray[np.integer], parts: pd.DataFrame, k: int
) -> NDArray[np.int64]:
    """Return the part of fold k that each slice's patient is in, (m,); -1 for one not in fold k.

    patients: (m,); fold: (m,) the fold in train of each slice's patient, -1 for none; parts: as
    returned by patient_parts
    """
    part = patients.map(parts["part"])
    return np.where(fold == k, part, -1).astype(int)
