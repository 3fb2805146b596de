"""Separate the patients of a study or series UID that is on slices of several PatientIDs.

Some anonymisers write one fixed UID for many people; others write two PatientIDs within one
person's study. The positions of the slices decide (ct/checks/patient_overlap.py): the heads of two
people overlap, while the parts of one person's series continue one another.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ct.checks.patient_overlap import (
    ONE_PATIENT,
    SEVERAL_PATIENTS,
    UNCLEAR,
    classify_slices,
    group_rows,
)
from ct.privacy.pseudonyms import pseudonym


def separate_patients(table: pd.DataFrame, key: bytes) -> tuple[pd.DataFrame, NDArray[np.object_]]:
    """Give every PatientID a series of its own, and every person a study.

    table: header table indexed by slice_id, with patient_id, study_id, series_id, POSITION and
    ORIENTATION; key: the pseudonym key, as in `ct.privacy.pseudonyms.pseudonym`

    Afterwards no series holds two patients, so that neighbouring slices are always of one patient.
    `classify_study` decides about a study that holds several patients:
    - SEVERAL_PATIENTS: each patient gets a study.
    - ONE_PATIENT: the study stays one, so its patients are in one group of the folds
      (`ct.patient_folds.fold_groups`).
    - UNCLEAR: the study stays one, and the caller should refuse it.

    Studies that share one person's series become one study, under the smallest of their ids. Where
    studies share a series in another way, they stay separate.

    New ids are pseudonyms of the old id and the patient's, so that the same key gives the same ids.
    They have the form of all pseudonyms, never that of the competition.

    Returns (table, verdict): the table in the same order; verdict: object array (n,) of
    SEVERAL_PATIENTS, ONE_PATIENT and UNCLEAR, "" for studies of one patient.
    """
    verdict = np.full(len(table), "", object)
    shared_series = _of_several_patients(table, "series_id")
    if not (shared_series.any() or _of_several_patients(table, "study_id").any()):
        return table, verdict
    patient = table["patient_id"].to_numpy(object).copy()
    study = table["study_id"].to_numpy(object).copy()
    series = table["series_id"].to_numpy(object).copy()
    for rows in group_rows(series, shared_series):
        studies = set(study[rows])
        if len(studies) > 1 and classify_slices(table.iloc[rows], patient[rows]) == ONE_PATIENT:
            study[np.isin(study, list(studies))] = min(studies)
    table = table.assign(study_id=_like(study, table["study_id"]))
    for rows in group_rows(study, _of_several_patients(table, "study_id")):
        verdict[rows] = classify_study(table.iloc[rows])
    several = verdict == SEVERAL_PATIENTS
    study[several] = _ids_per_patient(study[several], patient[several], key)
    series[shared_series] = _ids_per_patient(series[shared_series], patient[shared_series], key)
    table = table.assign(
        study_id=_like(study, table["study_id"]), series_id=_like(series, table["series_id"])
    )
    return table, verdict


def classify_study(table: pd.DataFrame) -> str:
    """Return whether the patients of one study are SEVERAL_PATIENTS, ONE_PATIENT or UNCLEAR.

    table: the study's rows of a header table

    Each series that holds several patients is classified by itself. Where some patients have a
    series of their own, the longest series of each patient, taken together, are classified too. All
    results must agree.
    """
    shared = _of_several_patients(table, "series_id")
    patient = table["patient_id"].to_numpy(object)
    series = table["series_id"].to_numpy(object)
    parts = group_rows(series, shared)
    if set(patient[shared]) != set(patient):
        sizes = table.groupby(["patient_id", "series_id"]).size().sort_values(kind="stable")
        longest = sizes.reset_index().drop_duplicates("patient_id", keep="last")
        longest = longest.set_index("patient_id")["series_id"]
        of_longest = series == table["patient_id"].map(longest).to_numpy(object)
        parts.append(np.flatnonzero(of_longest))
    verdicts = {classify_slices(table.iloc[rows], patient[rows]) for rows in parts}
    return verdicts.pop() if len(verdicts) == 1 else UNCLEAR


def _of_several_patients(table: pd.DataFrame, column: str) -> NDArray[np.bool_]:
    """Return, (n,), whether the study or series of each row holds several patients.

    column: "study_id" or "series_id"
    """
    pairs = table[[column, "patient_id"]].drop_duplicates()
    several = pairs[column][pairs[column].duplicated()].unique()
    if not len(several):
        return np.zeros(len(table), bool)
    return table[column].isin(several).to_numpy(bool)


def _ids_per_patient(ids: NDArray, patient: NDArray, key: bytes) -> NDArray[np.object_]:
    """Return a new id for each pair of id and patient, (n,)."""
    code, pairs = pd.MultiIndex.from_arrays([ids, patient]).factorize()
    new = [pseudonym(" of ".join(pair), key, "study") for pair in pairs]
    return np.array(new or [""], object)[code]


def _like(values: ArrayLike, column: pd.Series) -> Any:
    """Return values as a pandas array of the column's dtype."""
    return pd.array(values, dtype=column.dtype)
