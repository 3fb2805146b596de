"""What `ingest` counts: the values of ingest.json, and the lines on the terminal."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ct.checks.series_geometry import count_unusual_geometry
from ct.errors import number_of
from ct.labels import CONTRADICTIONS, contradictions
from ct.patient_folds import fold_groups


def summary(slices: pd.DataFrame, quarantine: pd.DataFrame) -> dict[str, Any]:
    """Return the counts for ingest.json and the report. slices: slice table"""
    train, test = (slices[slices["split"] == split] for split in ("train", "test"))
    in_both = sorted(set(train["patient_id"]) & set(test["patient_id"]))
    groups = pd.Series(fold_groups(slices), index=slices.index)
    group_in_train = groups[test.index].isin(groups[train.index].unique())
    contradictory = contradictions(train)
    return {
        "train_slices": len(train),
        "test_slices": len(test),
        "train_studies": train["study_id"].nunique(),
        "test_studies": test["study_id"].nunique(),
        "quarantined": int((quarantine["kind"] == "header").sum()),
        "unreadable": int((quarantine["kind"] == "pixels").sum()),
        "repaired_intercept": int(slices["repaired_intercept"].sum()),
        "geometry": count_unusual_geometry(slices),
        "patients_in_both_sets": in_both,
        "their_test_studies": sorted(test.loc[group_in_train, "study_id"].unique()),
        **{name: len(ids) for name, ids in contradictory.items()},
        "contradictory_labels": [ids[0] for ids in contradictory.values() if len(ids)],
    }


def describe(counts: Mapping[str, Any]) -> list[str]:
    """Return the lines that `ingest` prints."""
    lines = [
        f"read {number_of(counts['train_slices'], 'train slice')} of "
        f"{number_of(counts['train_studies'], 'study')}, "
        f"{number_of(counts['test_slices'], 'test slice')} of {counts['test_studies']}"
    ]
    not_taken = number_of(counts.get("patients_not_taken", 0), "patient")
    patients = counts.get("people_of_split_studies")
    texts = {  # a count that is not 0 gets a line: the noun of the count, and the rest of the line
        "slices_not_taken": ("train slice", f"of {not_taken} not used (data.train_slices)"),
        "quarantined": ("file", "left out (quarantine.csv has the reasons)"),
        "unreadable": (
            "slice",
            "kept without pixels, not decodable (quarantine.csv has the reasons)",
        ),
        "repaired_intercept": ("slice", "with the 12-bit intercept defect, repaired"),
        "duplicate_label_rows": ("identical duplicate row", "of the label csv dropped"),
        "series_passed_over": (
            "series",
            "not read: of each study one is (series.csv has the reasons)",
        ),
        "strays": ("slice", "set apart from a series whose UID is not its own (quarantine.csv)"),
        "thin_series": (
            "series",
            "with slices less than half as far apart as usual, read as they are: "
            "models learn best from series of one spacing",
        ),
        "labels_without_file": ("labelled slice", "without a file, ignored"),
        "unlabelled": ("train slice", "without all six labels, left out of training"),
        **{name: ("train slice", words) for name, words in CONTRADICTIONS.items()},
        "studies_split": (
            "study UID",
            f"of several patients split, into {patients} studies of one patient each",
        ),
        "studies_joined": (
            "study",
            "with several PatientIDs that fit together: their patients stay "
            "in one fold, each PatientID is a series",
        ),
    }
    for name, (noun, rest) in texts.items():
        if counts.get(name):
            lines.append(f"{number_of(counts[name], noun)} {rest}")
    if contradictory := counts["contradictory_labels"]:
        first = ", ".join(contradictory)
        lines.append(f"labels that contradict each other are used as they are; the first: {first}")
    if in_both := counts["patients_in_both_sets"]:
        first = ", ".join(in_both[:3]) + " ..." * (len(in_both) > 3)
        lines.append(f"{number_of(len(in_both), 'patient')} both in train and in test: {first}")
    return lines
