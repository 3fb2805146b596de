"""What ingest found in the data: files in quarantine, repairs, labels, patients, geometry."""

from typing import Any

from report.run_artifacts import Artifacts

SHOWN_FAULTS = 100  # rows of the quarantine; the rest is counted
SHOWN_PATIENTS = 40
FACTS = {  # of ingest.json -> text
    "quarantined": "files in quarantine",
    "repaired_intercept": "slices with a repaired 12-bit intercept",
    "duplicate_label_rows": "duplicate label rows dropped",
    "labels_without_file": "labels without a file",
    "unlabelled": "train slices without labels",
    "subtype_without_any": "train slices with a subtype but any = 0",
    "any_without_subtype": "train slices without a subtype but any = 1",
    "thin_series": "series with slices less than half as far apart as usual",
    "slices_not_taken": "train slices left out (data.train_slices)",
    "studies_split": "study UIDs of several patients, split",
    "studies_joined": "studies with several PatientIDs of one patient",
    "patients_in_both_sets": "patients in both train and test",
}
GEOMETRY = {  # of ct.checks.series_geometry -> text
    "tilted": "series tilted by more than 1 degree",
    "gaps": "series with gaps: slices seem to be missing",
    "uneven": "series with uneven slice spacing, such as half steps",
    "shared_places": "series with several slices at one position",
    "one_slice": "series of one slice",
    "mixed_orientation": "series with slices of different orientation",
    "several_series": "studies of several series",
    "other_size": "slices that are not 512 x 512",
    "not_square": "slices that are not square",
}
OUTCOMES = {  # (kind, split) of a file in quarantine -> what happens to it
    ("header", "train"): "train, header does not read: left out",
    ("header", "test"): "test, header does not read: gets the training prior",
    ("pixels", "train"): "train, pixels do not read: no CNN prediction",
    ("pixels", "test"): "test, pixels do not read: no CNN prediction",
}


def data_quality(art: Artifacts) -> dict[str, Any]:
    """Return the files in quarantine, their counts by kind and split, and what else ingest found.

    Long lists are cut; "more_..." is the number of entries that are left out.
    """
    faults, ingest = art.quarantine, art.ingest
    counts = {k: len(v) if isinstance(v, list) else v for k, v in ingest.items()}
    counts["quarantined"] = len(faults)
    geometry = ingest.get("geometry", {})
    outcomes = []
    if len(faults):
        for group, files in dict(faults.groupby(["kind", "split"]).size()).items():
            outcomes.append((OUTCOMES.get(group, ", ".join(group)), int(files)))
    return {
        "faults": faults.head(SHOWN_FAULTS).to_dict("records"),
        "more_faults": max(0, len(faults) - SHOWN_FAULTS),
        "outcomes": outcomes,
        "facts": [(text, counts[name]) for name, text in FACTS.items() if name in counts],
        "geometry": [(text, geometry[name]) for name, text in GEOMETRY.items() if name in geometry],
        "series": geometry.get("series"),
        "in_both_sets": counts.get("patients_in_both_sets", 0),
        "patients": ingest.get("patients_in_both_sets", [])[:SHOWN_PATIENTS],
        "more_patients": max(0, counts.get("patients_in_both_sets", 0) - SHOWN_PATIENTS),
        "contradictory": ingest.get("contradictory_labels", []),
        "studies": ingest.get("their_test_studies", [])[:SHOWN_PATIENTS],
        "more_studies": max(0, counts.get("their_test_studies", 0) - SHOWN_PATIENTS),
    }
