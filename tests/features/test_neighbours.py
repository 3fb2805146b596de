"""Neighbours and Gaussian means against slow loops; nothing crosses a series or wraps."""

import numpy as np
import pytest
from tiny_tables import random_table, slice_table

from ct.labels import LABELS
from ct.slices import check_slice_table
from features.neighbours import (
    BEST_MM,
    best_smooth_features,
    difference_features,
    neighbour_features,
    shift,
    smooth_features,
)
from features.series import series_bounds

NAN = np.nan


def slow_neighbours(table, logits, reach):
    """The logits of the neighbours, each found by its series and place."""
    keys = list(
        zip(table["split"], table["study_id"], table["series_id"], table["place"], strict=True)
    )
    row = {key: n for n, key in enumerate(keys)}
    columns = []
    for distance in range(1, reach + 1):
        for step in (-distance, distance):
            columns += [
                [
                    logits[row[(*k[:3], k[3] + step)], c] if (*k[:3], k[3] + step) in row else NAN
                    for k in keys
                ]
                for c in range(logits.shape[1])
            ]
    return np.array(columns).T


def slow_smooth(table, logits, width):
    """The Gaussian means, slice by slice over the whole series."""
    result = np.full(logits.shape, NAN)
    for n in range(len(table)):
        here = table.iloc[n]
        same = (
            (
                table[["split", "study_id", "series_id"]]
                == here[["split", "study_id", "series_id"]]
            ).all(axis=1)
        ).to_numpy()
        distance = (table["position_mm"].to_numpy() - here["position_mm"]).round(6)
        for c in range(logits.shape[1]):
            used = same & (np.abs(distance) <= 3 * width) & ~np.isnan(logits[:, c])
            if used.any():
                result[n, c] = np.average(
                    logits[used, c], weights=np.exp(-(distance[used] ** 2) / (2 * width**2))
                )
    return result


@pytest.fixture
def pair():
    """Two series of three slices, one of a single slice between them, and distinct logits."""
    table = slice_table(("train", "a", [0, 5, 10]), ("train", "b", [3]), ("train", "c", [0, 5, 10]))
    return table, np.float32([10, 11, 12, 20, 30, 31, 32])[:, None] * [1, -1]


def test_the_sign_of_a_step(pair):
    table, logits = pair
    columns, names = neighbour_features(table, logits.astype(np.float32), ("any", "epidural"), 1)
    assert names == ["any_z-1", "epidural_z-1", "any_z+1", "epidural_z+1"]
    by_name = dict(zip(names, columns.T, strict=True))
    # the slice below
    np.testing.assert_array_equal(by_name["any_z-1"], [NAN, 10, 11, NAN, NAN, 30, 31])
    # the slice above
    np.testing.assert_array_equal(by_name["any_z+1"], [11, 12, NAN, NAN, 31, 32, NAN])
    np.testing.assert_array_equal(by_name["epidural_z-1"], -by_name["any_z-1"])
    assert columns.dtype == np.float32


def test_past_an_end_is_nan_never_the_other_end(pair):
    table, logits = pair
    for step in (-4, -3, 3, 4, 100, -100):
        assert np.isnan(shift(logits.astype(np.float32), table, step)).all()
    np.testing.assert_array_equal(
        shift(logits.astype(np.float32), table, 2)[:, 0], [12, NAN, NAN, NAN, 32, NAN, NAN]
    )


def test_order_of_names(pair):
    table, logits = pair
    _, names = neighbour_features(table, logits, ("x", "y"), 2)
    assert names == ["x_z-1", "y_z-1", "x_z+1", "y_z+1", "x_z-2", "y_z-2", "x_z+2", "y_z+2"]
    columns, names = neighbour_features(table, logits, ("x", "y"), 0)
    assert columns.shape == (7, 0) and columns.dtype == np.float32 and names == []


def test_splits_of_one_series_are_apart():
    """A patient, study or series in both sets has no neighbours across the sets."""
    table = slice_table(("train", "a", [0, 5]), ("test", "a", [0, 5]))
    columns, _ = neighbour_features(table, np.float32([[1], [2], [3], [4]]), ("any",), 1)
    np.testing.assert_array_equal(columns, [[NAN, 2], [1, NAN], [NAN, 4], [3, NAN]])
    smooth, _ = smooth_features(table, np.float32([[1], [1], [9], [9]]), ("any",), (8.0,))
    np.testing.assert_allclose(smooth.ravel(), [1, 1, 9, 9])


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_against_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    table = random_table(rng)
    check_slice_table(table)
    logits = rng.normal(size=(len(table), 3)).astype(np.float32)
    logits[rng.random(len(table)) < 0.1] = NAN  # unreadable slices
    columns, names = neighbour_features(table, logits, ("a", "b", "c"), 3)
    assert columns.shape == (len(table), len(names)) == (len(table), 18)
    np.testing.assert_array_equal(columns, slow_neighbours(table, logits, 3).astype(np.float32))


def test_names_end_in_the_suffix_of_the_model(pair):
    table, logits = pair
    columns, names = neighbour_features(
        table, logits.astype(np.float32), ("any", "epidural"), 1, "_by_vgg"
    )
    assert names == [
        "any_z-1_by_vgg",
        "epidural_z-1_by_vgg",
        "any_z+1_by_vgg",
        "epidural_z+1_by_vgg",
    ]
    np.testing.assert_array_equal(
        columns, neighbour_features(table, logits.astype(np.float32), ("a", "b"), 1)[0]
    )


def test_differences_are_the_slice_minus_its_neighbour(pair):
    table, logits = pair
    logits = (logits**2).astype(np.float32)
    logits[5] = NAN
    columns, names = difference_features(table, logits, ("any", "epidural"), 2)
    assert names[::2] == ["any_dz-1", "any_dz+1", "any_dz-2", "any_dz+2"]
    assert columns.dtype == np.float32
    by_name = dict(zip(names, columns.T, strict=True))
    np.testing.assert_array_equal(
        by_name["any_dz-1"], [NAN, 121 - 100, 144 - 121, NAN, NAN, NAN, NAN]
    )
    np.testing.assert_array_equal(
        by_name["any_dz+1"], [100 - 121, 121 - 144, NAN, NAN, NAN, NAN, NAN]
    )
    np.testing.assert_array_equal(
        by_name["any_dz+2"], [100 - 144, NAN, NAN, NAN, 900 - 1024, NAN, NAN]
    )


def test_each_label_is_smoothed_at_its_own_width():
    rng = np.random.default_rng(0)
    table = random_table(rng)
    logits = rng.normal(size=(len(table), len(LABELS))).astype(np.float32)
    columns, names = best_smooth_features(table, logits, LABELS)
    assert names == [f"{label}_smooth_best" for label in LABELS] and set(BEST_MM) == set(LABELS)
    for j, label in enumerate(LABELS):
        expected, _ = smooth_features(table, logits[:, [j]], (label,), (BEST_MM[label],))
        np.testing.assert_array_equal(columns[:, j], expected[:, 0])
    # slices of 5 mm
    assert BEST_MM["epidural"] == pytest.approx(14.5)
    assert BEST_MM["intraventricular"] == pytest.approx(2.75)


def test_series_starts(pair):
    first, end = series_bounds(pair[0])
    assert first.tolist() == [0, 0, 0, 3, 4, 4, 4] and end.tolist() == [3, 3, 3, 4, 7, 7, 7]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [2.5, 5.0])
def test_smoothing_against_a_slow_loop(seed, width):
    rng = np.random.default_rng(seed)
    table = random_table(rng)
    logits = rng.normal(size=(len(table), 2)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.2] = NAN
    columns, names = smooth_features(table, logits, ("a", "b"), (width,))
    assert names == [f"a_smooth{width:g}mm", f"b_smooth{width:g}mm"] and columns.dtype == np.float32
    np.testing.assert_allclose(columns, slow_smooth(table, logits, width), rtol=1e-5, atol=1e-6)


def test_smoothing_weights_by_mm_not_by_places():
    """Half steps: 2.5 mm away counts more than 5 mm away on the other side."""
    table = slice_table(("train", "a", [0.0, 5.0, 7.5]))
    columns, _ = smooth_features(table, np.float32([[1], [0], [0]]), ("any",), (5.0,))
    w = {d: np.exp(-0.5 * (d / 5) ** 2) for d in (0, 2.5, 5, 7.5)}
    expected = [
        w[0] / (w[0] + w[5] + w[7.5]),
        w[5] / (w[5] + w[0] + w[2.5]),
        w[7.5] / (w[7.5] + w[2.5] + w[0]),
    ]
    np.testing.assert_allclose(columns[:, 0], expected, rtol=1e-6)
    other, _ = smooth_features(table, np.float32([[0], [0], [1]]), ("any",), (5.0,))
    assert other[1, 0] > columns[1, 0]


def test_smoothing_is_cut_at_three_widths_wherever_the_series_lies():
    """A slice exactly 3 w away counts, whatever the rounding of its position."""
    expected = None
    for origin in (0.0, 41.389, -512.346, 1234.567):
        table = slice_table(
            ("train", "a", [origin, round(origin + 9.0, 3), round(origin + 18.1, 3)])
        )
        columns, _ = smooth_features(table, np.float32([[0], [1], [100]]), ("any",), (3.0,))
        expected = columns if expected is None else expected
        np.testing.assert_allclose(columns, expected, rtol=1e-6)
    assert expected[0, 0] == pytest.approx(np.exp(-4.5) / (1 + np.exp(-4.5)), rel=1e-5)
    assert expected[2, 0] == 100.0  # its neighbour is 9.1 mm away


def test_smoothing_with_missing_logits():
    table = slice_table(("train", "a", [0, 5, 10]), ("train", "b", [0, 5]))
    logits = np.float32([[NAN], [3], [NAN], [NAN], [NAN]])
    columns, _ = smooth_features(table, logits, ("any",), (5.0, 8.0))
    np.testing.assert_allclose(
        columns[:3], 3.0
    )  # a slice without a logit gets its neighbours' mean
    assert np.isnan(columns[3:]).all()
    columns, names = smooth_features(table, logits, ("any",), ())
    assert columns.shape == (5, 0) and names == []


def test_duplicate_positions_have_equal_weights():
    table = slice_table(("train", "a", [0, 0, 5]))
    columns, _ = smooth_features(table, np.float32([[1], [3], [2]]), ("any",), (2.0,))
    assert columns[0, 0] == columns[1, 0] == pytest.approx(2.0)


def test_a_constant_stays_constant_within_each_series():
    rng = np.random.default_rng(5)
    table = random_table(rng)
    own = (
        table.groupby("study_id", sort=False)
        .ngroup()
        .to_numpy()
        .astype(np.float32)[:, None]
        .repeat(len(LABELS), axis=1)
    )
    for columns, _ in (
        neighbour_features(table, own, LABELS, 4),
        smooth_features(table, own, LABELS, (3.0, 8.0)),
    ):
        each = columns.reshape(len(table), -1)
        same = np.isclose(each, own[:, :1], rtol=1e-5) | np.isnan(each)
        assert same.all()


@pytest.mark.parametrize(
    ("step_places", "step", "expected"),
    [
        (1.0, 1, [1, 2, 3, 4, NAN]),
        (0.5, 1, [1, 2, 3, 4, NAN]),  # 10 mm apart, 5 in training: the outer one of two
        (0.5, 2, [1, 2, 3, 4, NAN]),
        (0.5, 3, [2, 3, 4, NAN, NAN]),
        (0.4, 1, [0, 1, 2, 3, 4]),  # no other slice is nearer to 5 mm
        (2.0, -1, [NAN, NAN, 0, 1, 2]),  # 2.5 mm apart
        (1.6, -1, [NAN, NAN, 0, 1, 2]),
        (1.6, -2, [NAN, NAN, NAN, 0, 1]),
    ],
)
def test_neighbours_at_another_spacing_are_found_by_millimetres(step_places, step, expected):
    """In one series alone: the other one keeps its own steps, and nothing crosses."""
    table = slice_table(("test", 1, range(5)), ("test", 2, range(5)))
    table["step_places"] = [step_places] * 5 + [1.0] * 5
    values = np.array([*range(5), *range(5)], np.float32)[:, None]
    shifted = shift(values, table, step)
    assert shifted.dtype == np.float32
    np.testing.assert_array_equal(shifted[:5, 0], expected)
    plain = shift(values, table.drop(columns="step_places"), step)
    np.testing.assert_array_equal(shifted[5:], plain[5:])


def test_steps_of_one_place_change_nothing():
    table = random_table(np.random.default_rng(3))
    values = np.random.default_rng(4).random((len(table), 6)).astype(np.float32)
    for step in (-2, 1, 3):
        np.testing.assert_array_equal(
            shift(values, table.assign(step_places=1.0), step), shift(values, table, step)
        )
