"""What `ingest` counts: for ingest.json, for the report, and in words for the terminal."""

import pandas as pd

from ct.checks.series_geometry import count_unusual_geometry
from ct.labels import contradictions
from ct.patient_folds import fold_groups


def summary(slices, quarantine):
    """Return the counts that ingest.json and the report show."""
    of = {split: slices[slices["split"] == split] for split in ("train", "test")}
    both = sorted(set(of["train"]["patient_id"]) & set(of["test"]["patient_id"]))
    groups = pd.Series(fold_groups(slices), index=slices.index)
    known = groups[of["test"].index].isin(groups[of["train"].index].unique())
    wrong = contradictions(of["train"])
    return {
        "train_slices": len(of["train"]),
        "test_slices": len(of["test"]),
        "train_studies": of["train"]["study_id"].nunique(),
        "test_studies": of["test"]["study_id"].nunique(),
        "quarantined": int((quarantine["kind"] == "header").sum()),
        "unreadable": int((quarantine["kind"] == "pixels").sum()),
        "repaired_intercept": int(slices["repaired_intercept"].sum()),
        "geometry": count_unusual_geometry(slices),
        "patients_in_both_sets": both,
        "their_test_studies": sorted(of["test"].loc[known, "study_id"].unique()),
        **{name: len(ids) for name, ids in wrong.items()},
        "contradictory_labels": [ids[0] for ids in wrong.values() if len(ids)],
    }


def describe(counts):
    """Return the lines that `ingest` prints."""
    lines = [
        f"read {counts['train_slices']} train slices of {counts['train_studies']} studies, "
        f"{counts['test_slices']} test slices of {counts['test_studies']}"
    ]
    notes = {
        "slices_not_taken": f"train slices of {counts['patients_not_taken']} patients not taken (data.train_slices)",
        "quarantined": "files left out (quarantine.csv says why)",
        "unreadable": "slices kept without pixels, which do not decode (quarantine.csv says why)",
        "repaired_intercept": "slices with the 12-bit intercept defect, mended",
        "duplicate_label_rows": "identical duplicate rows of the label csv dropped",
        "labels_without_file": "labelled slices without a file, ignored",
        "unlabelled": "train slices without all six labels, left out of training",
        "subtype_without_any": "train slices with a subtype whose `any` is 0",
        "any_without_subtype": "train slices without a subtype whose `any` is 1",
        "studies_split": f"study UIDs of several patients split, into {counts['people_of_split_studies']} people's studies",
        "studies_joined": "studies with several PatientIDs that fit together: their patients stay in one fold, each a series",
    }
    lines += [f"{counts[name]} {text}" for name, text in notes.items() if counts.get(name)]
    if first := counts["contradictory_labels"]:
        lines.append(
            f"labels that contradict each other are taken as they are; the first: {', '.join(first)}"
        )
    if both := counts["patients_in_both_sets"]:
        lines.append(
            f"{len(both)} patients are in train and test: {', '.join(both[:3])}{' ...' * (len(both) > 3)}"
        )
    return lines
