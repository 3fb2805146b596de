"""Labels of slices, series and studies joined to the studies that are scored."""

import pandas as pd
import pytest

from ct.label_tables.own_labels import label_table
from ct.labels import LABELS, SUBTYPES
from ct.privacy.pseudonyms import pseudonym
from pipeline.evaluation.label_matching import contradiction_notes, scored_truth

KEY = b"key"
# slice, series, study, patient, path, whether the series is read
ROWS = [
    ("1", "a", "A", "P", "P/plain/1.dcm", True),
    ("2", "a", "A", "P", "P/plain/2.dcm", True),
    ("3", "b", "A", "P", "P/bone/3.dcm", False),
    ("4", "c", "B", "Q", "Q/4.dcm", True),
    ("5", "d", "C", "Q", "Q/5.dcm", True),
]


def truth_of(positive, **keys):
    """The truth of a table with one column of keys and the subdural labels `positive`."""
    table = pd.DataFrame(ROWS, columns=["slice", "series", "study", "patient", "path", "read"])
    names = pd.DataFrame({"study_id": "study-" + table["study"], "path": table["path"]})
    for kind in ("slice", "series", "study", "patient"):
        names[f"{kind}_key"] = [pseudonym(name, KEY, kind) for name in table[kind]]
    names = names.assign(read=table["read"]).set_axis("slice-" + table["slice"])
    values = {s: pd.Series(0.0, range(len(positive))).to_numpy() for s in SUBTYPES}
    labels = label_table(
        {name: pd.Series(key) for name, key in keys.items()},
        values | {"subdural": pd.Series(positive, dtype=float).to_numpy()},
    )
    return scored_truth(labels, names, KEY, "--labels")


def subdural(truth):
    assert list(truth.values) == list(LABELS)
    assert (truth.values["any"] == truth.values["subdural"]).all()
    return truth.values["subdural"].to_dict()


def test_labels_of_slices_keep_every_slice():
    truth = truth_of([1, 0], SOPInstanceUID=["3", "9"])
    assert truth.per_slice and subdural(truth) == {"slice-3": 1} and truth.unused == 1


@pytest.mark.parametrize("column", ["StudyInstanceUID", "study"])
def test_labels_of_studies(column):
    truth = truth_of([1, 0, 0], **{column: ["A", "C", "Z"]})
    assert not truth.per_slice and subdural(truth) == {"study-A": 1, "study-C": 0}
    assert (truth.unused, truth.unclear) == (1, 0)


def test_of_labels_of_series_those_of_the_series_that_is_read_count():
    assert subdural(truth_of([1, 0], SeriesInstanceUID=["a", "b"])) == {"study-A": 1}
    assert subdural(truth_of([1, 0], SeriesInstanceUID=["b", "c"])) == {"study-B": 0}


def test_a_row_that_names_several_studies_counts_for_none():
    truth = truth_of([1, 1], PatientID=["P", "Q"])
    assert subdural(truth) == {"study-A": 1} and truth.unclear == 2
    assert truth_of([1, 0], folder=["P", "Q"]).unclear == 2


def test_folders_inside_a_study():
    assert subdural(truth_of([0, 1], folder=["plain", "bone"])) == {"study-A": 0}


def test_labels_that_contradict_each_other_are_one_sentence():
    labels = pd.DataFrame(0.0, index=range(6), columns=list(LABELS))
    assert contradiction_notes(labels, per_slice=True) == []
    labels.loc[0, ["any", "subdural"]] = 1
    assert contradiction_notes(labels, per_slice=True) == []
    labels.loc[1:2, "subdural"] = 1
    labels.loc[3, "any"] = 1
    labels.loc[4, "any"], labels.loc[4, "epidural"] = 1, float("nan")  # of unknown subtypes
    assert contradiction_notes(labels, per_slice=True) == [
        "2 slices with a subtype and `any` = 0, 1 slice with `any` = 1 and no subtype: "
        "labels that contradict each other are used as they are."
    ]
    assert contradiction_notes(labels[:3], per_slice=False) == [
        "2 studies with a subtype and `any` = 0: "
        "labels that contradict each other are used as they are."
    ]
