"""Rolling extremes and one-sided means against slow loops; nothing crosses a series."""

import numpy as np
import pytest
from tiny_tables import random_table, slice_table

from features.rolling_windows import rolling_features, sided_features

NAN = np.nan


def series_of(table):
    return list(zip(table["split"], table["study_id"], table["series_id"], strict=True))


@pytest.fixture(params=range(3))
def case(request):
    rng = np.random.default_rng(request.param)
    table = random_table(rng)
    logits = rng.normal(size=(len(table), 2)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.25] = NAN
    return table, logits


def test_rolling_against_a_slow_loop(case):
    table, logits = case
    columns, names = rolling_features(table, logits, ("a", "b"), (3, 1))
    assert names == ["a_min3", "b_min3", "a_max3", "b_max3", "a_min1", "b_min1", "a_max1", "b_max1"]
    assert columns.dtype == np.float32
    series, place, expected = (
        series_of(table),
        table["place"].to_numpy(),
        np.full(columns.shape, NAN, np.float32),
    )
    for n in range(len(table)):
        for i, (kind, width) in enumerate([(min, 3), (max, 3), (min, 1), (max, 1)]):
            for c in range(2):
                near = [
                    logits[m, c]
                    for m in range(len(table))
                    if series[m] == series[n] and abs(place[m] - place[n]) <= width
                ]
                expected[n, 2 * i + c] = kind(
                    [value for value in near if not np.isnan(value)], default=NAN
                )
    np.testing.assert_array_equal(columns, expected)


def test_one_sided_against_a_slow_loop(case):
    table, logits = case
    columns, names = sided_features(table, logits, ("a", "b"))
    assert names[::2] == ["a_below_mean", "a_below_std", "a_above_mean", "a_above_std"]
    assert columns.dtype == np.float32
    series, place, expected = (
        series_of(table),
        table["place"].to_numpy(),
        np.full(columns.shape, NAN),
    )
    for n in range(len(table)):
        for i, side in enumerate((np.less, np.greater)):
            for c in range(2):
                side_rows = [
                    m
                    for m in range(len(table))
                    if series[m] == series[n] and side(place[m], place[n])
                ]
                known = [float(logits[m, c]) for m in side_rows if not np.isnan(logits[m, c])]
                if known:
                    expected[n, 4 * i + c], expected[n, 4 * i + 2 + c] = (
                        np.mean(known),
                        np.std(known),
                    )
    np.testing.assert_allclose(columns, expected, rtol=1e-5, atol=1e-6)


def test_values_computed_by_hand():
    table = slice_table(("train", "a", [0, 5, 10]), ("train", "b", [0]), ("test", "a", [0, 5]))
    columns, names = sided_features(table, np.float32([[1], [3], [8], [7], [5], [6]]), ("any",))
    by_name = dict(zip(names, columns.T, strict=True))
    # the slice itself left out
    np.testing.assert_array_equal(by_name["any_below_mean"], [NAN, 1, 2, NAN, NAN, 5])
    np.testing.assert_array_equal(by_name["any_above_mean"], [5.5, 8, NAN, NAN, 6, NAN])
    np.testing.assert_array_equal(by_name["any_below_std"], [NAN, 0, 1, NAN, NAN, 0])
    columns, _ = rolling_features(table, np.float32([[1], [3], [8], [7], [5], [6]]), ("any",), (9,))
    np.testing.assert_array_equal(columns, [[1, 8], [1, 8], [1, 8], [7, 7], [5, 6], [5, 6]])


def test_no_widths_and_no_rows():
    table = slice_table(("train", "a", [0, 5]))
    columns, names = rolling_features(table, np.zeros((2, 1), np.float32), ("any",), ())
    assert columns.shape == (2, 0) and names == []
    columns, _ = sided_features(table.iloc[:0], np.zeros((0, 1), np.float32), ("any",))
    assert columns.shape == (0, 4)
