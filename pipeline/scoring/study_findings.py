"""Findings on new studies that take several headers: patients, shared UIDs, number of series."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ct.checks.domain_shift import Finding
from ct.checks.patient_overlap import ONE_PATIENT, SEVERAL_PATIENTS, UNCLEAR

KNOWN_PATIENT = (
    "a patient of the training data, scored by the models of one fold alone",
    "the models of the other folds were trained on this patient",
)
SHARED_UID = {  # result of ct.checks.shared_uids -> (refuses, what, means)
    SEVERAL_PATIENTS: (
        False,
        "its StudyInstanceUID is also on slices of other PatientIDs at the same heights",
        "the PatientIDs count as different people; each gets its own study and series",
    ),
    ONE_PATIENT: (
        False,
        "slices of several PatientIDs that make one series together",
        "they count as one person's study with one series per PatientID; "
        "slices of two PatientIDs are never neighbours",
    ),
    UNCLEAR: (
        True,
        "slices of several PatientIDs that are neither separate series nor one series together",
        "the number of people is unknown; give each person a StudyInstanceUID or one PatientID",
    ),
}
TWO_FOLDS = (
    True,
    "PatientIDs of one study that are in two folds of the training data",
    "the models of every fold were trained on this person",
)


def shared_uid_findings(headers: pd.DataFrame) -> list[Finding]:
    """Return the Findings on studies whose UID is on slices of several PatientIDs.

    headers: slice table with `people` and `two_folds`, as returned by read_study_headers
    """
    findings = []
    for (study, series), rows in headers.groupby(["study_id", "series_id"], sort=True):
        texts = []
        if rows["people"].iloc[0] in SHARED_UID:
            texts.append(SHARED_UID[rows["people"].iloc[0]])
        if rows["two_folds"].any():
            texts.append(TWO_FOLDS)
        for refuses, what, means in texts:
            findings.append(Finding(study, series if refuses else "", refuses, what, means))
    return list(dict.fromkeys(findings))


def study_findings(headers: pd.DataFrame, training: Mapping[str, Any]) -> list[Finding]:
    """Return the Findings on whole studies: many series, and patients of the training data.

    headers: slice table with `fold`; training: ranges of the training data, as returned by
    ct.checks.training_ranges.training_ranges
    """
    findings = []
    groups = headers.groupby("study_id", sort=True)
    for study, series in groups["series_id"].nunique().items():
        if series > training["series"]:
            what = f"{series} series, training studies have at most {training['series']}"
            means = "all series count as one study; to score a series alone, give it its own folder"
            findings.append(Finding(study, "", False, what, means))
    for study, fold in groups["fold"].max().items():
        if fold >= 0:
            findings.append(Finding(study, "", False, *KNOWN_PATIENT))
    return findings


def without_refused(slices: pd.DataFrame, findings: Iterable[Finding]) -> pd.DataFrame:
    """Return the rows of a slice table whose series no Finding refuses."""
    refused = {(f.study_id, f.series_id) for f in findings if f.refuses}
    keys = zip(slices["study_id"], slices["series_id"], strict=True)
    return slices[np.array([key not in refused for key in keys], bool)]
