"""The slice list of a run without images: its columns, and a message for every fault."""

import numpy as np
import pandas as pd
import pytest

from ct.errors import InputError
from ct.labels import LABELS
from ct.slices import HEADER_COLUMNS, ORIENTATION, POSITION, order_slices
from ct.tables.slice_list import read_slice_list, split_by_study

KEY = b"k"


def slice_list(slices=4, studies=2, **columns):
    """Return a slice list as text: `studies` train studies and one test study.

    Each study is one series of `slices` slices.
    """
    rows = []
    for study in range(studies + 1):
        for place in range(slices):
            row = {
                "SOPInstanceUID": f"ID_{study:06x}{place:03x}",
                "PatientID": f"ID_a{study:07}",
                "StudyInstanceUID": f"ID_b{study:09}",
            }
            row |= {
                "SeriesInstanceUID": f"ID_c{study:09}",
                "ImagePositionPatient": f"['-125.0', '-10.5', '{5.0 * place}']",
            }
            row |= {
                "ImageOrientationPatient": "['1', '0', '0', '0', '0.95', '-0.3']",
                "PixelSpacing": "['0.5', '0.5']",
            }
            row |= dict.fromkeys(LABELS, "" if study == studies else str(int(place == 1)))
            rows.append(row)
    return pd.DataFrame(rows).assign(**columns)


def with_cells(table, row, **cells):
    table = table.copy()
    for column, value in cells.items():
        table.loc[row, column] = value
    return table


def written(table, path):
    """Write a table in the format of the path's suffix. Returns the path."""
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["s.csv", "s.csv.gz", "s.parquet"])
def test_a_slice_list_gives_the_columns_of_headers(tmp_path, name):
    table = slice_list(
        WindowCenter="['00040', '00080']",
        RescaleIntercept="-1024.0",
        fold=[0] * 4 + [1] * 4 + [-1] * 4,
    )
    slices = read_slice_list(written(table, tmp_path / name), KEY)
    assert set(slices) == {*HEADER_COLUMNS, *POSITION, *ORIENTATION, *LABELS, "fold"}
    assert list(slices["split"]) == ["train"] * 8 + ["test"] * 4
    assert slices.loc["ID_000001001", "any"] == 1
    assert slices.loc["ID_000000003", list(POSITION)].tolist() == [-125, -10.5, 15]
    assert slices["window_center"].unique() == [40]
    assert slices["intercept"].unique() == [-1024]
    assert slices["slope"].isna().all()
    assert slices["fold"].dropna().tolist() == [0] * 4 + [1] * 4
    assert order_slices(slices).groupby("series_id")["place"].max().tolist() == [3, 3, 3]


def test_other_identifiers_become_pseudonyms(tmp_path):
    slices = read_slice_list(written(slice_list(PatientID="DOE^JANE"), tmp_path / "s.csv"), KEY)
    assert slices["patient_id"].str.fullmatch("[0-9a-f]{12}").all()
    assert slices["patient_id"].nunique() == 1
    assert slices.index[0] == "ID_000000000"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.drop(columns="subdural"), "lacks the column subdural"),
        (
            lambda t: t.rename(columns={"PatientID": "PatientId"}),
            "lacks the column PatientID, did you mean 'PatientId'?",
        ),
        (lambda t: t[:0], "has no rows"),
        (
            lambda t: with_cells(t, 2, SOPInstanceUID="ID_000000001"),
            "slice ID_000000001 occurs twice",
        ),
        (lambda t: with_cells(t, 2, PatientID=""), "row 3 has no PatientID"),
        (
            lambda t: with_cells(t, 2, ImagePositionPatient="['1', '2']"),
            "ID_000000002 has the ImagePositionPatient",
        ),
        (
            lambda t: with_cells(t, 2, ImagePositionPatient="['1', '2', '3', '4']"),
            "it should be 3 numbers",
        ),
        (
            lambda t: with_cells(t, 2, ImageOrientationPatient="['1','0','0','1','0','0']"),
            "does not hold two perpendicular directions",
        ),
        (
            lambda t: with_cells(t, 2, epidural="0.5"),
            "epidural of slice ID_000000002 is '0.5'; labels are 0 or 1, or empty",
        ),
        (
            lambda t: with_cells(t, 2, epidural="0.99999999"),
            "epidural of slice ID_000000002 is '0.99999999'; labels are 0 or 1, or empty",
        ),
        (lambda t: t.assign(fold=[0] * 7 + [""] * 5), "the folds are 0"),
        (
            lambda t: t.assign(fold=[1] * 4 + [2] * 8),
            "the folds are 1, 2; they should be numbered 0 to K-1",
        ),
        (lambda t: t.assign(fold=[0] * 3 + [1] * 4 + [""] * 5), "slice ID_000001003 has no fold"),
        (lambda t: t.assign(fold=["a"] * 12), "fold 'a' is not a number"),
    ],
)
def test_faults_of_a_slice_list_are_named(tmp_path, change, expected):
    path = written(change(slice_list()), tmp_path / "s.csv")
    with pytest.raises(InputError, match=r"^[^\n]*$") as error:
        read_slice_list(path, KEY)
    assert expected in str(error.value) and f"--slices={path}" in str(error.value)


def test_a_file_that_is_no_table_is_named(tmp_path):
    (tmp_path / "s.parquet").write_bytes(b"PAR")
    (tmp_path / "e.csv").write_bytes(b"")
    for name, expected in (
        ("none.csv", "does not exist"),
        ("s.parquet", "is no csv or parquet"),
        ("e.csv", "is no csv or parquet"),
    ):
        with pytest.raises(InputError, match=rf"^[^\n]*{expected}[^\n]*$"):
            read_slice_list(tmp_path / name, KEY)


def test_a_cell_of_a_million_commas_does_not_become_a_million_columns(tmp_path):
    table = slice_list()
    table.loc[3, "WindowCenter"] = "40" + "," * 1_000_000  # of several, the first
    assert (
        read_slice_list(written(table, tmp_path / "s.csv"), KEY)["window_center"].tolist()[3] == 40
    )
    table.loc[3, "ImagePositionPatient"] = "1" + ",1" * 1_000_000
    with pytest.raises(InputError, match="it should be 3 numbers") as caught:
        read_slice_list(written(table, tmp_path / "s.csv"), KEY)
    assert len(str(caught.value)) < 400


def test_a_study_with_labels_is_in_train_as_a_whole(tmp_path):
    blank = dict.fromkeys(LABELS, "")
    table = with_cells(with_cells(slice_list(), 1, **blank), 2, **blank)
    table = with_cells(table, 7, SeriesInstanceUID="ID_d000000001", **blank)
    slices = split_by_study(read_slice_list(written(table, tmp_path / "s.csv"), KEY))
    assert list(slices["split"]) == ["train"] * 8 + ["test"] * 4
    assert np.flatnonzero(slices["any"].isna()).tolist() == [1, 2, 7, 8, 9, 10, 11]
    lengths = order_slices(slices).groupby(["study_id", "series_id"])["series_slices"]
    assert lengths.first().tolist() == [4, 3, 1, 4]
