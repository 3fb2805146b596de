"""Names, order and weights of the labels, and the traps of the label csv."""

import numpy as np
import pandas as pd
import pytest

from ct.errors import InputError
from ct.labels import (
    KAGGLE_ORDER,
    LABELS,
    SUBTYPES,
    WEIGHTS,
    contradictions,
    read_id_csv,
    read_labels,
    split_row_id,
)

# six extra rows each in the real file
TWICE = ("ID_a64d5deed", "ID_921490062", "ID_489ae4179", "ID_854fba667")


def write(path, rows, header="ID,Label"):
    path.write_text("\n".join([header, *(f"{row_id},{value}" for row_id, value in rows)]) + "\n")
    return path


def six(slice_id, *positive):
    """The six rows of a slice in the order of the competition's file."""
    return [(f"{slice_id}_{label}", int(label in positive)) for label in KAGGLE_ORDER]


def test_order_and_weights():
    assert LABELS == (
        "any",
        "epidural",
        "intraparenchymal",
        "intraventricular",
        "subarachnoid",
        "subdural",
    )
    assert ("any", *SUBTYPES) == LABELS
    assert KAGGLE_ORDER == (
        "epidural",
        "intraparenchymal",
        "intraventricular",
        "subarachnoid",
        "subdural",
        "any",
    )
    assert dict(zip(LABELS, WEIGHTS, strict=True)) == {"any": 2 / 7} | dict.fromkeys(
        SUBTYPES, 1 / 7
    )


def test_each_label_reaches_its_own_column(tmp_path):
    rows = [row for label in LABELS for row in six(f"ID_{LABELS.index(label)}", label)]
    table, dropped = read_labels(write(tmp_path / "l.csv", rows))
    assert list(table.columns) == list(LABELS) and dropped == 0
    assert (table.dtypes == np.float32).all()
    for label in LABELS:
        assert table.loc[f"ID_{LABELS.index(label)}"].to_dict() == {
            other: float(other == label) for other in LABELS
        }


def test_order_of_rows_does_not_matter(tmp_path):
    rows = [row for n in range(20) for row in six(f"ID_{n:02x}", *LABELS[: n % 6])]
    ordered, _ = read_labels(write(tmp_path / "a.csv", rows))
    shuffled, _ = read_labels(
        write(
            tmp_path / "b.csv", [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
        )
    )
    pd.testing.assert_frame_equal(ordered, shuffled)


@pytest.mark.parametrize("slice_id", TWICE)
def test_identical_duplicates_are_dropped_and_counted(tmp_path, slice_id):
    rows = (
        six("ID_0", "subdural", "any")
        + six(slice_id, "any", "epidural")
        + six("ID_1")
        + six(slice_id, "any", "epidural")
    )
    table, dropped = read_labels(write(tmp_path / "l.csv", rows))
    assert dropped == 6 and table.index.is_unique and len(table) == 3
    assert table.loc[slice_id].to_list() == [1, 1, 0, 0, 0, 0]


def test_conflicting_duplicates_are_refused(tmp_path):
    rows = six("ID_0") + six("ID_a64d5deed", "any") + six("ID_a64d5deed", "any", "subdural")
    with pytest.raises(InputError, match=r"l\.csv: ID_a64d5deed_subdural is both 0 and 1"):
        read_labels(write(tmp_path / "l.csv", rows))


def test_a_missing_row_is_nan(tmp_path):
    rows = six("ID_0", "any") + six("ID_1")[:-2]
    table, _ = read_labels(write(tmp_path / "l.csv", rows))
    assert table.loc["ID_0"].notna().all()
    assert table.columns[table.loc["ID_1"].isna()].to_list() == ["any", "subdural"]


def test_a_label_that_the_whole_file_lacks_is_nan(tmp_path):
    rows = [row for row in six("ID_0", "any") + six("ID_1") if not row[0].endswith("_epidural")]
    table, _ = read_labels(write(tmp_path / "l.csv", rows))
    assert list(table.columns) == list(LABELS)
    assert table["epidural"].isna().all()
    assert table["subdural"].notna().all()


@pytest.mark.parametrize("value", ["2", "-1", "0.5", "", "nan", "yes", "inf", "True"])
def test_labels_are_zero_or_one(tmp_path, value):
    with pytest.raises(InputError, match=rf"ID_0_any has the label '{value}'; labels are 0 or 1"):
        read_labels(write(tmp_path / "l.csv", [*six("ID_0")[:-1], ("ID_0_any", value)]))


@pytest.mark.parametrize("row_id", ["ID_0_Any", "ID_0", "ID_0_chronic", "", "any"])
def test_unknown_label_names_are_refused(tmp_path, row_id):
    with pytest.raises(InputError, match=f"row '{row_id}' does not end in one of epidural"):
        read_labels(write(tmp_path / "l.csv", [*six("ID_1"), (row_id, 0)]))


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no.csv does not exist"):
        read_id_csv(tmp_path / "no.csv")
    with pytest.raises(InputError, match=r"lacks the column ID, Label; it has id, label"):
        read_id_csv(write(tmp_path / "l.csv", [], header="id,label"))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="is no csv file"):
        read_id_csv(tmp_path / "empty.csv")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match="is no csv file"):
        read_id_csv(tmp_path / "binary.csv")


def test_split_row_id_splits_at_the_last_underscore():
    slice_ids, labels = split_row_id(["ID_0123abcd_any", "a_b_c_subdural", "ID_0123abcd", "x"])
    assert slice_ids.tolist() == ["ID_0123abcd", "a_b_c", "ID", "x"]
    assert labels.tolist() == ["any", "subdural", None, None]
    assert [len(part) for part in split_row_id([])] == [0, 0]


def test_real_labels_of_the_start_of_the_file(tmp_path, real_data):
    source = real_data / "stage_two" / "all_labels.csv.gz"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    wide = pd.read_csv(source, nrows=3000, index_col=0)
    rows = [
        (f"{slice_id}_{label}", int(values[label]))
        for slice_id, values in wide.iterrows()
        for label in KAGGLE_ORDER
    ]
    table, dropped = read_labels(write(tmp_path / "l.csv", rows))
    assert dropped == 0
    assert (table.loc[wide.index] == wide[list(LABELS)]).all().all()
    assert (table["any"] == table[list(SUBTYPES)].max(axis=1)).all()


def test_labels_that_contradict_each_other():
    """`any` is 1 where one of the five subtypes is; slices with a missing label are left out."""
    rows = {
        "a": [0, 0, 0, 0, 0, 0],
        "b": [1, 0, 1, 0, 0, 1],
        "c": [0, 0, 0, 0, 0, 1],
        "d": [1, 0, 0, 0, 0, 0],
    }
    rows |= {"e": [0, 1, 0, 0, 0, np.nan], "f": [0, 1, 1, 1, 1, 1], "g": [1, 0, 0, 0, 0, np.nan]}
    wrong = contradictions(
        pd.DataFrame.from_dict(rows, orient="index", columns=list(LABELS), dtype=np.float32)
    )
    assert {name: list(ids) for name, ids in wrong.items()} == {
        "subtype_without_any": ["c", "f"],
        "any_without_subtype": ["d"],
    }
