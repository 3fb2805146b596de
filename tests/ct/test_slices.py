"""The order of slices, against hand-computed values and a slow loop."""

import ast
import math

import numpy as np
import pandas as pd
import pytest
from tiny_dicom import REAL_DATA

from ct.slices import (
    GEOMETRY_COLUMNS,
    ORIENTATION,
    POSITION,
    SERIES,
    check_slice_table,
    order_slices,
    spans_plane,
)

AXIAL = (1, 0, 0, 0, 1, 0)


def tilted(degrees):
    """Orientation of a gantry tilted about the left-right axis: normal (0, sin, cos)."""
    t = math.radians(degrees)
    return (1, 0, 0, 0, math.cos(t), -math.sin(t))


def series(ids, positions, iop=AXIAL, study="s", name="r", split="train"):
    """Rows of one series.

    positions: z or (x, y, z); iop: one orientation, or one per slice
    """
    positions = [p if isinstance(p, tuple) else (0, 0, p) for p in positions]
    iops = [iop] * len(ids) if isinstance(iop[0], int | float) else iop
    table = pd.DataFrame(
        {"study_id": study, "series_id": name, "split": split}, index=pd.Index(ids, name="slice_id")
    )
    table[list(POSITION)] = np.array(positions, float)
    table[list(ORIENTATION)] = np.array(iops, float)
    return table


def slow_order(table):
    """Order slices with plain loops: {slice_id: (place, position, gap below)}."""
    result = {}
    for _, part in table.groupby(list(SERIES)):
        normals = []
        for row in part[list(ORIENTATION)].to_numpy():
            (a, b, c), (d, e, f) = row[:3], row[3:]
            normal = np.array([b * f - c * e, c * d - a * f, a * e - b * d])
            normals.append(normal / math.sqrt(sum(normal**2)) * (1 if normal[2] > 0 else -1))
        mean = sum(normals) / math.sqrt(sum(sum(normals) ** 2))
        where = {
            i: round(sum(mean * p), 3)
            for i, p in zip(part.index, part[list(POSITION)].to_numpy(), strict=True)
        }
        below = None
        for place, slice_id in enumerate(sorted(where, key=lambda i: (where[i], i))):
            result[slice_id] = (
                place,
                where[slice_id],
                math.nan if below is None else where[slice_id] - below,
            )
            below = where[slice_id]
    return result


def assert_matches_loop(table):
    ordered, expected = order_slices(table), slow_order(table)
    check_slice_table(ordered)
    assert len(ordered) == len(table)
    np.testing.assert_array_equal(ordered["place"], [expected[i][0] for i in ordered.index])
    np.testing.assert_allclose(
        ordered["position_mm"], [expected[i][1] for i in ordered.index], atol=2e-3
    )
    np.testing.assert_allclose(
        ordered["gap_below_mm"], [expected[i][2] for i in ordered.index], atol=2e-3
    )


def test_order_and_gaps_by_hand():
    ordered = order_slices(series(list("cab"), [10, 0, 5.5]))
    assert ordered.index.tolist() == ["a", "b", "c"]
    assert ordered["position_mm"].tolist() == [0, 5.5, 10]
    assert ordered["place"].tolist() == [0, 1, 2]
    assert ordered["series_slices"].tolist() == [3, 3, 3]
    np.testing.assert_array_equal(ordered["gap_below_mm"], [np.nan, 5.5, 4.5])
    np.testing.assert_array_equal(ordered["gap_above_mm"], [5.5, 4.5, np.nan])
    assert ordered["tilt_deg"].tolist() == [0, 0, 0] and not ordered["mixed_orientation"].any()
    assert list(ordered.columns) == [*SERIES, *GEOMETRY_COLUMNS]


def test_order_follows_the_normal_where_it_differs_from_raw_z():
    ordered = order_slices(series(["low", "high"], [(0, 0, 0), (0, 100, -1)], tilted(20)))
    assert ordered.index.tolist() == ["low", "high"]
    assert ordered["position_mm"].tolist() == pytest.approx(
        [0, 100 * math.sin(math.radians(20)) - math.cos(math.radians(20))], abs=1e-3
    )
    assert order_slices(
        series(["low", "high"], [(0, 0, 0), (0, 100, -1)], tilted(-20))
    ).index.tolist() == ["high", "low"]


@pytest.mark.parametrize("degrees", [-30, -0.25, 0, 6, 24])
@pytest.mark.parametrize("turn", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_tilt_and_order_do_not_depend_on_the_sign_of_the_normal(degrees, turn):
    iop = np.array(tilted(degrees)) * np.repeat(turn, 3)
    ordered = order_slices(series(list("ab"), [7, 2], tuple(iop)))
    assert ordered.index.tolist() == ["b", "a"]
    assert ordered["tilt_deg"].tolist() == pytest.approx([abs(degrees)] * 2, abs=1e-4)


def test_mixed_orientations_keep_the_order():
    flipped = (-1, 0, 0, 0, 1, 0)  # the same plane from the other side
    ordered = order_slices(series(list("abcd"), [0, 5, 10, 15], [AXIAL, flipped, flipped, AXIAL]))
    assert ordered.index.tolist() == list("abcd")
    assert ordered["mixed_orientation"].all() and (ordered["tilt_deg"] == 0).all()


@pytest.mark.parametrize(("degrees", "mixed"), [(0.9, False), (1.1, True)])
def test_orientations_that_differ_by_more_than_a_degree_are_mixed(degrees, mixed):
    table = pd.concat(
        [
            series(list("abc"), [0, 5, 10], [AXIAL, tilted(degrees), AXIAL]),
            series(["x"], [1], name="other"),
        ]
    )
    ordered = order_slices(table)
    assert (ordered["mixed_orientation"] == (mixed & (ordered["series_id"] == "r"))).all()


def test_coronal_slices_are_ordered_to_the_back_however_their_tags_are_rounded():
    iops = [(1, 0, 0, 0, sign * 1e-4, -1) for sign in (1, -1, 1, -1, -1)]
    ordered = order_slices(series(list("edcba"), [(0, y, 0) for y in (4, 3, 2, 1, 0)], iops))
    assert ordered["position_mm"].tolist() == pytest.approx([0, 1, 2, 3, 4], abs=1e-3)
    assert ordered.index.tolist() == list("abcde")
    np.testing.assert_allclose(ordered["tilt_deg"], 90, atol=0.01)


def test_duplicate_positions_are_ordered_by_slice_id_in_any_order_of_the_rows():
    table = series(list("dbeac"), [5, 5.0000001, 0, 5, 10])
    for seed in range(5):
        ordered = order_slices(table.sample(frac=1, random_state=seed))
        assert ordered.index.tolist() == ["e", "a", "b", "d", "c"]
        assert ordered["gap_below_mm"].tolist()[1:] == [5, 0, 0, 5]


def test_series_and_splits_never_mix():
    table = pd.concat(
        [
            series(["a1", "a2"], [0, 20], name="r1"),
            series(["b1", "b2"], [10, 30], name="r2"),
            series(["t1"], [15], name="r1", split="test"),
            series(["o1"], [5], study="other", name="r1"),
        ]
    )
    ordered = order_slices(table.sample(frac=1, random_state=0))
    assert ordered.index.tolist() == ["o1", "t1", "a1", "a2", "b1", "b2"]
    assert ordered["place"].tolist() == [0, 0, 0, 1, 0, 1]
    assert ordered["series_slices"].tolist() == [1, 1, 2, 2, 2, 2]
    np.testing.assert_array_equal(ordered["gap_below_mm"], [np.nan, np.nan, np.nan, 20, np.nan, 20])
    np.testing.assert_array_equal(ordered["gap_above_mm"], [np.nan, np.nan, 20, np.nan, 20, np.nan])


def test_random_series_match_a_slow_loop():
    rng = np.random.default_rng(0)
    parts = []
    for number in range(60):
        n = int(rng.integers(1, 30))
        # half steps, duplicates, gaps
        step = rng.choice([2.5, 5.0, 0.0, 12.5], size=n, p=[0.3, 0.5, 0.1, 0.1])
        z = np.cumsum(step)[:: rng.choice([-1, 1])]
        angles = rng.uniform(-30, 30) + (number % 5 == 0) * rng.normal(0, 2, n)
        iops = [
            np.array(tilted(a)) * np.repeat(rng.choice([-1, 1], 2), 3)
            for a in np.broadcast_to(angles, n)
        ]
        ids = [f"{number}-{i}" for i in rng.permutation(n)]
        y = rng.uniform(-200, 200) + rng.uniform(-1, 1) * z
        positions = [(-125.0, b, c) for b, c in zip(y, z, strict=True)]
        parts.append(
            series(
                ids,
                positions,
                iops,
                f"s{number // 2}",
                f"r{number}",
                ["train", "test"][number % 3 == 0],
            )
        )
    assert_matches_loop(pd.concat(parts).sample(frac=1, random_state=1))


def test_other_columns_stay_with_their_slice_and_the_input_is_unchanged():
    table = series(list("cab"), [10, 0, 5]).assign(path=["C", "A", "B"])
    before = table.copy()
    assert order_slices(table)["path"].tolist() == ["A", "B", "C"]
    pd.testing.assert_frame_equal(table, before)


def test_a_table_without_rows():
    ordered = order_slices(series(["a"], [0]).iloc[:0])
    assert len(ordered) == 0 and set(GEOMETRY_COLUMNS) <= set(ordered.columns)
    check_slice_table(ordered)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: t.rename(index={"b": "a"}), "twice"),
        (lambda t: t.iloc[[1, 0, 2, 3]], "place"),
        (lambda t: t.iloc[[0, 3, 1, 2]].assign(place=[0, 0, 1, 2]), "is apart from its series"),
        (lambda t: t.assign(place=[1, 2, 3, 0]), "place"),
        (lambda t: t.assign(position_mm=[0.0, 9.0, 5.0, 0.0]), "below"),
        (lambda t: t.assign(series_slices=4), "series_slices"),
    ],
)
def test_check_slice_table_refuses(change, fault):
    table = order_slices(pd.concat([series(list("abc"), [0, 5, 10]), series(["z"], [1], name="t")]))
    check_slice_table(table)
    with pytest.raises(ValueError, match=fault):
        check_slice_table(change(table))


def test_real_studies_match_a_slow_loop():
    file = REAL_DATA / "stage_two/labelled_studies.csv.gz"
    if not file.is_file():
        pytest.skip(f"{file} is not there (ICH_REAL_DATA names the folder of the real data)")
    rows = pd.read_csv(file, nrows=6000)
    table = rows.rename(
        columns={
            "SOPInstanceUID": "slice_id",
            "StudyInstanceUID": "study_id",
            "SeriesInstanceUID": "series_id",
        }
    )
    table = table[["slice_id", "study_id", "series_id"]].assign(split="train").set_index("slice_id")
    for names, column in (
        (POSITION, "ImagePositionPatient"),
        (ORIENTATION, "ImageOrientationPatient"),
    ):
        table[list(names)] = np.array(
            [[float(v) for v in ast.literal_eval(text)] for text in rows[column]]
        )
    assert_matches_loop(table)
    assert (order_slices(table)["tilt_deg"] > 0.1).mean() == pytest.approx(0.92, abs=0.05)


def test_two_directions_span_a_plane_where_they_are_about_perpendicular_and_of_length_one():
    x, y, slanted = [1.0, 0, 0], [0, 1.0, 0], [0.51, 0.8601, 0]  # the last at 59.3 degrees to x
    tiny, huge = [0, 1e-4, 0], [0, 1e4, 0]
    planes = {True: [x + y, y + x, x + [0, 0.01, 0]], False: [x + x, x + slanted, x + [0.0] * 3]}
    planes[False] += [x + tiny, tiny + x, x + huge, huge + x]
    for expected, orientations in planes.items():
        assert [bool(spans_plane(each)) for each in orientations] == [expected] * len(orientations)
        columns = np.array(orientations).T
        assert spans_plane(list(columns)).tolist() == [expected] * len(orientations)
