"""The predictions of a model trained elsewhere: wide and long tables, a message for every fault."""

import numpy as np
import pandas as pd
import pytest
from test_slice_list import written

from ct.errors import InputError
from ct.labels import KAGGLE_ORDER, LABELS
from ct.tables.prediction_table import read_predictions


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
def test_wide_and_long_tables_give_the_same_predictions(tmp_path, wide, name):
    expected = wide[list(LABELS)].to_numpy()
    named = wide.rename(columns={"SOPInstanceUID": "slice_id"})
    shuffled = long_of(wide).sample(frac=1, random_state=0)
    for table in (wide, named, long_of(wide), shuffled):
        predictions = read_predictions(written(table, tmp_path / name), "oof").sort_values(
            "slice_id"
        )
        np.testing.assert_allclose(predictions[list(LABELS)].to_numpy(), expected, rtol=1e-12)
        assert list(predictions["slice_id"]) == ["1.2.0", "1.2.1", "1.2.2", "1.2.3"]
    indexed = named.set_index("slice_id")  # as stage2/oof.parquet is
    indexed.to_parquet(tmp_path / "i.parquet")
    np.testing.assert_allclose(
        read_predictions(tmp_path / "i.parquet", "oof")[list(LABELS)].to_numpy(), expected
    )


def test_a_row_of_empty_cells_is_left_out(tmp_path, wide):
    # as in our own tables, for slices whose pixels do not decode
    wide.loc[1, list(LABELS)] = np.nan
    for name in ("p.csv", "p.parquet"):
        predictions = read_predictions(written(wide, tmp_path / name), "oof")
        assert list(predictions["slice_id"]) == ["1.2.0", "1.2.2", "1.2.3"]
        assert list(predictions.index) == [0, 1, 2]


def test_a_table_may_have_a_row_per_slice_and_fold(tmp_path, wide):
    both = pd.concat([wide.assign(fold=0), wide.assign(fold=1, any=0.5)])
    predictions = read_predictions(written(both, tmp_path / "p.csv"), "test")
    assert len(predictions) == 8 and predictions["fold"].tolist() == [0.0] * 4 + [1.0] * 4
    rows = pd.concat([long_of(wide).assign(fold=0), long_of(wide.assign(any=0.5)).assign(fold=1)])
    pd.testing.assert_frame_equal(
        read_predictions(written(rows, tmp_path / "l.csv"), "test")[list(predictions)], predictions
    )


@pytest.mark.parametrize(
    ("change", "expected"),
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
def test_faults_of_predictions_are_named(tmp_path, wide, change, expected):
    path = written(change(wide), tmp_path / "p.csv")
    with pytest.raises(InputError, match=r"^[^\n]*$") as error:
        read_predictions(path, "oof")
    assert expected in str(error.value) and f"--oof={path}" in str(error.value)
