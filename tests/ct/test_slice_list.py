"""A slice list and a foreign model's predictions: read as they are, and every fault named."""

import numpy as np
import pandas as pd
import pytest

from ct.errors import InputError
from ct.labels import KAGGLE_ORDER, LABELS
from ct.slices import HEADER_COLUMNS, ORIENTATION, POSITION, order_slices
from ct.tables.prediction_table import read_predictions
from ct.tables.slice_list import read_slice_list

KEY = b"k"


def slice_list(slices=4, studies=2, **columns):
    """A slice list as text: `studies` train studies and one test study, of one series and `slices`
    slices each.
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


def changed(table, row, **cells):
    table = table.copy()
    for column, value in cells.items():
        table.loc[row, column] = value
    return table


def written(table, path):
    """Write a table as the name says."""
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["s.csv", "s.csv.gz", "s.parquet"])
def test_a_slice_list_holds_what_headers_would(tmp_path, name):
    table = slice_list(
        WindowCenter="['00040', '00080']",
        RescaleIntercept="-1024.0",
        fold=[0] * 4 + [1] * 4 + [-1] * 4,
    )
    found = read_slice_list(written(table, tmp_path / name), KEY)
    assert set(found) == {*HEADER_COLUMNS, *POSITION, *ORIENTATION, *LABELS, "fold"}
    assert (
        list(found["split"]) == ["train"] * 8 + ["test"] * 4
        and found.loc["ID_000001001", "any"] == 1
    )
    assert found.loc["ID_000000003", list(POSITION)].tolist() == [-125, -10.5, 15]
    assert (
        found["window_center"].unique() == [40]
        and found["intercept"].unique() == [-1024]
        and found["slope"].isna().all()
    )
    assert found["fold"].dropna().tolist() == [0] * 4 + [1] * 4
    assert order_slices(found).groupby("series_id")["place"].max().tolist() == [3, 3, 3]


def test_identifiers_of_ones_own_become_pseudonyms(tmp_path):
    found = read_slice_list(written(slice_list(PatientID="DOE^JANE"), tmp_path / "s.csv"), KEY)
    assert (
        found["patient_id"].str.fullmatch("[0-9a-f]{12}").all()
        and found["patient_id"].nunique() == 1
    )
    assert found.index[0] == "ID_000000000"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop(columns="subdural"), "lacks the column subdural"),
        (
            lambda t: t.rename(columns={"PatientID": "PatientId"}),
            "lacks the column PatientID, did you mean 'PatientId'?",
        ),
        (lambda t: t[:0], "has no rows"),
        (lambda t: changed(t, 2, SOPInstanceUID="ID_000000001"), "slice ID_000000001 occurs twice"),
        (lambda t: changed(t, 2, PatientID=""), "row 3 has no PatientID"),
        (
            lambda t: changed(t, 2, ImagePositionPatient="['1', '2']"),
            "ID_000000002 has the ImagePositionPatient",
        ),
        (
            lambda t: changed(t, 2, ImagePositionPatient="['1', '2', '3', '4']"),
            "it should be 3 numbers",
        ),
        (
            lambda t: changed(t, 2, ImageOrientationPatient="['1','0','0','1','0','0']"),
            "no two perpendicular directions",
        ),
        (
            lambda t: changed(t, 2, epidural="0.5"),
            "epidural of slice ID_000000002 is '0.5'; labels are 0 or 1, or empty",
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
def test_faults_of_a_slice_list_are_named(tmp_path, change, says):
    path = written(change(slice_list()), tmp_path / "s.csv")
    with pytest.raises(InputError, match=r"^[^\n]*$") as error:
        read_slice_list(path, KEY)
    assert says in str(error.value) and f"--slices={path}" in str(error.value)


def test_what_is_no_table(tmp_path):
    (tmp_path / "s.parquet").write_bytes(b"PAR")
    (tmp_path / "e.csv").write_bytes(b"")
    for name, says in (
        ("none.csv", "does not exist"),
        ("s.parquet", "is no csv or parquet"),
        ("e.csv", "is no csv or parquet"),
    ):
        with pytest.raises(InputError, match=rf"^[^\n]*{says}[^\n]*$"):
            read_slice_list(tmp_path / name, KEY)


@pytest.fixture
def wide():
    p = np.arange(24).reshape(4, 6) / 23  # from 0 to 1, which are legal
    return pd.DataFrame(p, columns=list(LABELS)).assign(
        SOPInstanceUID=[f"1.2.{i}" for i in range(4)], more="x"
    )


def long_of(wide):
    rows = [
        (f"{row['SOPInstanceUID']}_{label}", row[label])
        for _, row in wide.iterrows()
        for label in KAGGLE_ORDER
    ]
    return pd.DataFrame(rows, columns=["ID", "Label"])


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.parquet"])
def test_wide_and_long_say_the_same(tmp_path, wide, name):
    expected = wide[list(LABELS)].to_numpy()
    named = wide.rename(columns={"SOPInstanceUID": "slice_id"})
    shuffled = long_of(wide).sample(frac=1, random_state=0)
    for table in (wide, named, long_of(wide), shuffled):
        found = read_predictions(written(table, tmp_path / name), "oof").sort_values("slice_id")
        np.testing.assert_allclose(found[list(LABELS)].to_numpy(), expected, rtol=1e-12)
        assert list(found["slice_id"]) == ["1.2.0", "1.2.1", "1.2.2", "1.2.3"]
    indexed = named.set_index("slice_id")  # as stage2/oof.parquet is
    indexed.to_parquet(tmp_path / "i.parquet")
    np.testing.assert_allclose(
        read_predictions(tmp_path / "i.parquet", "oof")[list(LABELS)].to_numpy(), expected
    )


def test_a_row_without_any_number_counts_as_none(tmp_path, wide):
    # as our own tables have it for slices whose pixels do not decode
    wide.loc[1, list(LABELS)] = np.nan
    for name in ("p.csv", "p.parquet"):
        found = read_predictions(written(wide, tmp_path / name), "oof")
        assert list(found["slice_id"]) == ["1.2.0", "1.2.2", "1.2.3"] and list(found.index) == [
            0,
            1,
            2,
        ]


def test_a_row_a_slice_and_fold(tmp_path, wide):
    both = pd.concat([wide.assign(fold=0), wide.assign(fold=1, any=0.5)])
    found = read_predictions(written(both, tmp_path / "p.csv"), "test")
    assert len(found) == 8 and found["fold"].tolist() == [0.0] * 4 + [1.0] * 4
    rows = pd.concat([long_of(wide).assign(fold=0), long_of(wide.assign(any=0.5)).assign(fold=1)])
    pd.testing.assert_frame_equal(
        read_predictions(written(rows, tmp_path / "l.csv"), "test")[list(found)], found
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.drop(columns="any"), "lacks the column any"),
        (lambda w: w.drop(columns="SOPInstanceUID"), "lacks the column SOPInstanceUID"),
        (
            lambda w: w.assign(any=[0, 0, 1.5, 0]),
            "any of slice 1.2.2 is '1.5'; it should lie in [0, 1]",
        ),
        (lambda w: w.assign(any=[0, -1e-9, 0, 0]), "any of slice 1.2.1 is"),
        (lambda w: w.assign(subdural=[0, np.nan, 0, 0]), "subdural of slice 1.2.1 is ''"),
        (lambda w: w.assign(subdural=["0", "high", "0", "0"]), "subdural of slice 1.2.1 is 'high'"),
        (lambda w: w.assign(fold=[0, 1, np.nan, 0]), "slice 1.2.2 has no fold"),
        (lambda w: w[:0], "has no rows with probabilities"),
        (lambda w: long_of(w)[1:], "row 1.2.0_epidural is missing"),
        (lambda w: pd.concat([long_of(w), long_of(w)[3:4]]), "row 1.2.0_subarachnoid occurs twice"),
        (
            lambda w: long_of(w).replace("1.2.0_any", "1.2.0_none"),
            "row '1.2.0_none' does not end in one of",
        ),
    ],
)
def test_faults_of_predictions_are_named(tmp_path, wide, change, says):
    path = written(change(wide), tmp_path / "p.csv")
    with pytest.raises(InputError, match=r"^[^\n]*$") as error:
        read_predictions(path, "oof")
    assert says in str(error.value) and f"--oof={path}" in str(error.value)


def test_a_cell_of_a_million_commas_takes_no_million_columns(tmp_path):
    table = slice_list()
    table.loc[3, "WindowCenter"] = "40" + "," * 1_000_000  # of several, the first
    assert (
        read_slice_list(written(table, tmp_path / "s.csv"), KEY)["window_center"].tolist()[3] == 40
    )
    table.loc[3, "ImagePositionPatient"] = "1" + ",1" * 1_000_000
    with pytest.raises(InputError, match="it should be 3 numbers") as caught:
        read_slice_list(written(table, tmp_path / "s.csv"), KEY)
    assert len(str(caught.value)) < 400
