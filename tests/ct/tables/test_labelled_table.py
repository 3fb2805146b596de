"""Tables of labels and predictions: long or wide, per slice or per study."""

import numpy as np
import pandas as pd
import pytest

from ct.errors import InputError
from ct.labels import LABELS, SUBTYPES
from ct.tables.labelled_table import read_probabilities, read_truth


def table(key="SOPInstanceUID", value=0.0, **columns):
    frame = pd.DataFrame({key: ["a", "b"], **dict.fromkeys(reversed(LABELS), value)})
    return frame.assign(**columns)


def written(folder, frame):
    path = folder / "table.csv"
    frame.to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("key", ["SOPInstanceUID", "slice_id", "ID", "file", "folder", "study_id"])
def test_wide_tables_are_read_by_any_key(tmp_path, key):
    frame = table(key, subdural=[1, ""], patient_id=["p", "q"])
    read = read_truth(written(tmp_path, frame))
    assert read.per_slice == (key not in ("folder", "study_id"))
    assert list(read.values) == list(LABELS) and list(read.values.index) == ["a", "b"]
    assert read.values.loc["a", "subdural"] == 1 and np.isnan(read.values.loc["b", "subdural"])
    assert read.groups["patient"].tolist() == ["p", "q"]


def test_parquet_and_kaggles_long_form_are_read(tmp_path):
    table(any=[1, 0]).to_parquet(tmp_path / "t.parquet")
    assert read_truth(str(tmp_path / "t.parquet")).values["any"].tolist() == [1, 0]
    rows = [{"ID": f"ID_1_{label}", "Label": int(label == "any")} for label in LABELS]
    read = read_truth(written(tmp_path, pd.DataFrame(rows)))
    assert read.per_slice and read.values.loc["ID_1"].tolist() == [1, 0, 0, 0, 0, 0]
    read = read_probabilities(written(tmp_path, pd.DataFrame(rows)))
    assert read.values.loc["ID_1"].tolist() == [1, 0, 0, 0, 0, 0]


def test_any_is_the_largest_subtype_where_it_is_missing(tmp_path):
    frame = table(epidural=[1, 0], subdural=["", 0])[["SOPInstanceUID", *SUBTYPES]]
    values = read_truth(written(tmp_path, frame)).values["any"]
    assert np.isnan(values["a"]) and values["b"] == 0


@pytest.mark.parametrize(
    ("read", "frame", "message"),
    [
        (read_truth, table("name"), "no column that names slices or studies: one of SOPInstance"),
        (read_truth, table(epidural=[0, 2]), "epidural of b is 2; labels are 0 or 1"),
        (read_truth, table(epidural=["x", 0]), "epidural of a is 'x'; it is no number"),
        (read_truth, table().drop(columns="subdural"), "lacks the column subdural"),
        (read_truth, table(SOPInstanceUID=["a", "a"]), "a has two rows; keep one"),
        (read_truth, table(SOPInstanceUID=["a", ""]), "row 2 has no SOPInstanceUID"),
        (read_probabilities, table(any=[0.5, 1.2]), "any of b is 1.2; it should lie in [0, 1]"),
        (read_probabilities, table(any=[0.5, ""]), "any of b is nan; it should lie in [0, 1]"),
    ],
)
def test_errors_name_the_row(tmp_path, read, frame, message):
    with pytest.raises(InputError) as caught:
        read(written(tmp_path, frame))
    assert message in str(caught.value) and str(caught.value).isprintable()
    with pytest.raises(InputError, match="is not there; name a csv or parquet table"):
        read(str(tmp_path / "none.csv"))
