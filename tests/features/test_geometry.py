"""Geometry features: heights within the series, NaN where unknown, nothing that identifies."""

import numpy as np
from tiny_tables import random_table, slice_table

from ct.slices import COLUMNS
from features.geometry import (
    COMPUTED,
    GEOMETRY,
    GROUPS,
    METADATA,
    PLACE,
    SCANNER,
    geometry_features,
    source_columns,
)

NAN = np.nan


def column(table, name):
    columns, names = geometry_features(
        table, [group for group, columns in GROUPS.items() if name in columns]
    )
    return columns[:, names.index(name)]


def test_values_computed_by_hand():
    table = slice_table(
        ("train", "a", [-10, -5, 2.5, 10]), ("train", "b", [100, 104]), tilt_deg=[1, 2, 3, 4, 5, 6]
    )
    columns, names = geometry_features(table)
    assert names == list(GEOMETRY) and columns.shape == (6, 12) and columns.dtype == np.float32
    np.testing.assert_allclose(column(table, "position_rel"), [0, 0.25, 0.625, 1, 0, 1])
    np.testing.assert_allclose(column(table, "from_bottom_mm"), [0, 5, 12.5, 20, 0, 4])
    np.testing.assert_allclose(column(table, "from_top_mm"), [20, 15, 7.5, 0, 4, 0])
    np.testing.assert_allclose(column(table, "gap_below_mm"), [NAN, 5, 7.5, 7.5, NAN, 4])
    np.testing.assert_allclose(column(table, "gap_above_mm"), [5, 7.5, 7.5, NAN, 4, NAN])
    np.testing.assert_allclose(column(table, "series_slices"), [4, 4, 4, 4, 2, 2])
    np.testing.assert_allclose(column(table, "tilt_deg"), [1, 2, 3, 4, 5, 6])


def test_heights_are_within_the_series():
    """The same series id in another study or in the other set is another series."""
    table = slice_table(
        ("train", "a", [0, 10]),
        ("train", "b", [100, 120]),
        ("test", "b", [500, 540]),
        series_id="R",
    )
    np.testing.assert_allclose(column(table, "position_rel"), [0, 1] * 3)
    np.testing.assert_allclose(column(table, "from_bottom_mm"), [0, 10, 0, 20, 0, 40])


def test_a_series_of_one_slice_has_no_height():
    table = slice_table(("train", "a", [7.0]), ("train", "b", [3.0, 3.0]))
    assert np.isnan(column(table, "position_rel")).all()
    assert column(table, "from_bottom_mm").tolist() == [0, 0, 0]


def test_unreadable_slices_keep_their_place():
    table = slice_table(
        ("train", "a", [0, 5, 10]),
        brain_cm2=[80.0, NAN, 90.0],
        blood_share=np.float32([0.1, NAN, 0.2]),
    )
    np.testing.assert_allclose(column(table, "brain_cm2"), [80, NAN, 90])
    np.testing.assert_allclose(column(table, "blood_share"), np.float32([0.1, NAN, 0.2]))
    assert not np.isnan(column(table, "position_rel")).any()


def test_heights_do_not_depend_on_where_the_table_starts():
    table = random_table(np.random.default_rng(0))
    moved = table.assign(position_mm=table["position_mm"] + 300)
    np.testing.assert_allclose(
        geometry_features(moved)[0], geometry_features(table)[0], rtol=1e-5, atol=1e-4
    )


def test_no_name_hints_at_a_site_or_a_scanner():
    hints = (
        "id",
        "path",
        "padding",
        "intercept",
        "bits",
        "window",
        "syntax",
        "split",
        "rows",
        "cols",
        "spacing_mm",
    )
    assert not [
        name
        for name in [*GEOMETRY, *PLACE]
        for word in hints
        if word == name or (word in name.split("_"))
    ]


def test_no_column_identifies_and_all_are_in_the_slice_table():
    assert not set(METADATA) & {
        "patient_id",
        "study_id",
        "series_id",
        "slice_id",
        "path",
        "split",
        "transfer_syntax",
        "place",
    }
    sources = set(source_columns(GROUPS))
    assert sources <= set(COLUMNS) and set(METADATA) - set(COMPUTED) <= sources
    assert len(METADATA) == sum(
        len(columns) for columns in GROUPS.values()
    )  # no column in two groups


def test_the_place_group():
    table = slice_table(
        ("train", "a", [-10, -5, 2.5, 10]), ("train", "b", [7]), brain_cm2=[20, NAN, 80, 40, 0]
    )
    assert column(table, "position_mm").tolist() == [-10, -5, 2.5, 10, 7]
    assert column(table, "to_end_mm").tolist() == [0, 5, 7.5, 0, 0]
    np.testing.assert_allclose(column(table, "brain_share"), [0.25, NAN, 1, 0.5, NAN])


def test_the_padding_group():
    table = slice_table(
        ("train", "a", [0, 5, 10, 15, 20]), padding_hu=[-1024, -1500, -2000, -3024, NAN]
    )
    np.testing.assert_array_equal(column(table, "padded"), [0, 1, 1, 1, NAN])


def test_scanner_columns_are_copied_unchanged():
    values = {name: np.float64([3 + i, 4 + i]) for i, name in enumerate(SCANNER)} | {
        "repaired_intercept": [True, False]
    }
    columns, names = geometry_features(slice_table(("train", "a", [0, 5]), **values), ["scanner"])
    assert names == list(SCANNER) and columns.dtype == np.float32
    for name, column in zip(names, columns.T, strict=True):
        assert column.tolist() == [float(value) for value in values[name]], name
