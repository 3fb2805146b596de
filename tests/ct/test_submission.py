"""The submission has exactly the sample's rows in its order; every defect is named."""

import shlex

import numpy as np
import pandas as pd
import pytest

from ct.errors import InputError
from ct.labels import KAGGLE_ORDER, LABELS
from ct.submission import (
    SMALLEST,
    check_submission,
    fill_submission,
    kaggle_command,
    read_sample,
    write_submission,
)

SLICES = ("ID_28fbab7eb", "ID_877923b8b", "ID_a591477cb", "ID_42c898c9c")


def write_rows(path, rows, header="ID,Label"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.fixture
def sample(tmp_path):
    return write_rows(
        tmp_path / "sample.csv", [(f"{s}_{label}", 0.5) for s in SLICES for label in KAGGLE_ORDER]
    )


@pytest.fixture
def probs():
    """A different probability in every cell.

    The slices are in another order than in the sample, and one is not in it.
    """
    values = np.arange(1, 31).reshape(5, 6) / 40
    return pd.DataFrame(
        values, index=["ID_42c898c9c", "ID_a591477cb", "ID_more", *SLICES[:2]], columns=list(LABELS)
    )


def test_rows_and_order_are_the_samples(tmp_path, sample, probs):
    ids, slice_id, label = read_sample(sample)
    write_submission(tmp_path / "s.csv", ids, fill_submission(slice_id, label, probs))
    check_submission(tmp_path / "s.csv", ids)
    lines, expected_lines = (p.read_text().splitlines() for p in (tmp_path / "s.csv", sample))
    assert [line.split(",")[0] for line in lines] == [line.split(",")[0] for line in expected_lines]
    for line in lines[1:]:
        row_id, value = line.split(",")
        slice_, _, name = row_id.rpartition("_")
        assert float(value) == pytest.approx(probs.loc[slice_, name], abs=1e-8)


def test_the_order_of_a_shuffled_sample_is_kept(tmp_path, sample, probs):
    header, *rows = sample.read_text().splitlines()
    rows = [rows[n] for n in np.random.default_rng(0).permutation(len(rows))]
    sample.write_text("\n".join([header, *rows]) + "\n")
    ids, slice_id, label = read_sample(sample)
    assert ids.tolist() == [row.split(",")[0] for row in rows]
    values = fill_submission(slice_id, label, probs)
    assert values.tolist() == [probs.loc[s, name] for s, name in zip(slice_id, label, strict=True)]


def test_the_order_of_the_probabilities_columns_does_not_matter(sample, probs):
    _, slice_id, label = read_sample(sample)
    expected = fill_submission(slice_id, label, probs)
    assert (fill_submission(slice_id, label, probs[list(KAGGLE_ORDER)]) == expected).all()
    with pytest.raises(KeyError, match="any"):
        fill_submission(slice_id, label, probs.drop(columns="any"))


def test_zero_and_one_are_moved_inside_and_stay_there_when_printed(tmp_path, sample, probs):
    ids, slice_id, label = read_sample(sample)
    probs.iloc[0], probs.iloc[1] = 0.0, 1.0
    values = fill_submission(slice_id, label, probs)
    assert values.min() == SMALLEST and values.max() == 1 - SMALLEST
    write_submission(tmp_path / "s.csv", ids, values)
    check_submission(tmp_path / "s.csv", ids)
    assert np.abs(pd.read_csv(tmp_path / "s.csv")["Label"] - values).max() < 1e-8


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.1, 1.1])
def test_a_bad_probability_is_named(sample, probs, value):
    _, slice_id, label = read_sample(sample)
    probs.loc["ID_a591477cb", "subdural"] = value
    with pytest.raises(InputError, match=f"ID_a591477cb_subdural has the probability {value}"):
        fill_submission(slice_id, label, probs)


def test_a_slice_without_prediction_is_named(sample, probs):
    _, slice_id, label = read_sample(sample)
    with pytest.raises(InputError, match="no prediction for ID_877923b8b"):
        fill_submission(slice_id, label, probs.drop(["ID_877923b8b", "ID_42c898c9c"]))


def replace(rows, at, value):
    return [*rows[:at], (rows[at][0], value), *rows[at + 1 :]]


DEFECTS = {  # change of the rows, and what the message must name
    "missing row": (
        lambda r: r[:5] + r[6:],
        r"row 6 is ID_877923b8b_epidural, the sample has ID_28fbab7eb_any there",
    ),
    "missing last row": (
        lambda r: r[:-1],
        r"has 23 rows, the sample 24; the first difference is ID_42c898c9c_any",
    ),
    "extra row": (
        lambda r: [*r, ("ID_x_any", 0.5)],
        r"has 25 rows, the sample 24; the first difference is ID_x_any",
    ),
    "swapped rows": (
        lambda r: [*r[:2], r[3], r[2], *r[4:]],
        r"row 3 is ID_28fbab7eb_subarachnoid, the sample has \S+ventricular",
    ),
    "repeated row": (
        lambda r: [*r[:2], r[1], *r[2:]],
        r"row 3 is ID_28fbab7eb_intraparenchymal, the sample has ID_28fbab7eb",
    ),
    "unknown label": (
        lambda r: [("ID_28fbab7eb_chronic", 0.5), *r[1:]],
        r"row 1 is ID_28fbab7eb_chronic, the sample has",
    ),
    "NaN": (lambda r: replace(r, 7, "nan"), r"ID_877923b8b_intraparenchymal is 'nan'"),
    "empty": (lambda r: replace(r, 7, ""), r"ID_877923b8b_intraparenchymal is ''"),
    "inf": (lambda r: replace(r, 8, "inf"), r"ID_877923b8b_intraventricular is 'inf'"),
    "0": (lambda r: replace(r, 9, 0), r"ID_877923b8b_subarachnoid is '0'"),
    "1": (lambda r: replace(r, 10, "1.00000000"), r"ID_877923b8b_subdural is '1.00000000'"),
    "negative": (lambda r: replace(r, 10, "-0.5"), r"ID_877923b8b_subdural is '-0.5'"),
    "text": (lambda r: replace(r, 11, "half"), r"ID_877923b8b_any is 'half'"),
    "no rows": (
        lambda r: [],
        r"has 0 rows, the sample 24; the first difference is ID_28fbab7eb_epidural",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_are_named(tmp_path, sample, defect):
    ids = read_sample(sample)[0]
    spoil, expected = DEFECTS[defect]
    rows = [(row_id, 0.25) for row_id in ids]
    check_submission(write_rows(tmp_path / "s.csv", rows), ids)
    with pytest.raises(InputError, match=expected):
        check_submission(write_rows(tmp_path / "s.csv", spoil(rows)), ids)


@pytest.mark.parametrize(
    ("header", "tail", "expected"),
    [
        ("id,label", (), "lacks the column ID, Label"),
        ("ID,Probability", (), "lacks the column Label"),
        ("ID,Label,More", (1,), "has the columns ID, Label, More instead of ID,Label"),
        ("Label,ID", (), "has the columns Label, ID instead of ID,Label"),
    ],
)
def test_a_wrong_header_is_named(tmp_path, sample, header, tail, expected):
    ids = read_sample(sample)[0]
    rows = [(row_id, 0.25, *tail) for row_id in ids]
    with pytest.raises(InputError, match=expected):
        check_submission(write_rows(tmp_path / "s.csv", rows, header), ids)


def test_errors_of_the_sample_are_named(tmp_path, sample):
    rows = [tuple(line.split(",")) for line in sample.read_text().splitlines()[1:]]
    bad = tmp_path / "bad.csv"
    for spoiled, expected in (
        ([], "has no rows"),
        ([*rows, ("ID_1_chronic", 0)], "row 'ID_1_chronic' does not end in one of"),
        ([*rows, rows[3]], "row ID_28fbab7eb_subarachnoid occurs twice"),
        (rows[:-1], "slice ID_42c898c9c has 5 rows instead of 6"),
    ):
        with pytest.raises(InputError, match=expected):
            read_sample(write_rows(bad, spoiled))
    with pytest.raises(InputError, match="does not exist"):
        read_sample(tmp_path / "no.csv")


def test_kaggle_command():
    begin = "kaggle competitions submit -c rsna-intracranial-hemorrhage-detection -f"
    assert (
        kaggle_command("r/submission.csv", "ICH-Stack demo")
        == f"{begin} r/submission.csv -m 'ICH-Stack demo'"
    )
    for name in ("a b", "$(touch x)", "`x`", 'a"b', "it's", "ü;x"):
        assert shlex.split(kaggle_command(f"{name}/s.csv", name))[-3:] == [
            f"{name}/s.csv",
            "-m",
            name,
        ]
