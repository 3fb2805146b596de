"""Unusual geometry of series, counted by hand and by a slow loop."""

import numpy as np
import pandas as pd
import pytest

from ct.checks.series_geometry import count_unusual_geometry, wide_gaps


def series(name, positions, study=None, **facts):
    """A series' rows of a slice table, slices at `positions` in mm."""
    rows = {
        "study_id": study or f"study-{name}",
        "series_id": name,
        "series_slices": len(positions),
        "tilt_deg": 0.0,
        "mixed_orientation": False,
        "rows": 512,
        "cols": 512,
    } | facts
    table = pd.DataFrame(
        [rows] * len(positions), index=[f"{name}{i}" for i in range(len(positions))]
    )
    return table.assign(gap_below_mm=np.diff(np.asarray(positions, np.float32), prepend=np.nan))


def test_each_irregularity_is_counted_once_a_series():
    table = pd.concat(
        [
            series("plain", [0, 5, 10, 15]),
            # the spacing changes once: no slice is missing
            series("halves", [0, 2.5, 5, 10, 15], tilt_deg=20.0),
            series("hole", [0, 5, 10, 20, 25, 35, 40]),  # two gaps, the rest is even
            series("twice", [0, 0, 5, 5], study="study-plain"),
            series("one", [7], rows=430, cols=512, mixed_orientation=True),
            series("two", [0, 50], rows=256, cols=256),  # no spacing to compare with
            series("rounded", [0, 5, 10.01, 15.0], rows=np.nan, cols=np.nan),
        ]
    )
    assert count_unusual_geometry(table) == {
        "series": 7,
        "one_slice": 1,
        "tilted": 1,
        "mixed_orientation": 1,
        "gaps": 1,
        "uneven": 1,
        "shared_places": 1,
        "other_size": 3,
        "not_square": 1,
        "several_series": 1,
    }
    assert list(table.index[wide_gaps(table)]) == ["hole3", "hole5"]


def test_gaps_do_not_cross_series():
    """The spacings of the series before and after are not compared."""
    table = pd.concat([series("a", [0, 5, 10]), series("b", [0, 30]), series("c", [0, 5, 10])])
    assert not wide_gaps(table).any()
    slow = []
    positions = np.cumsum(np.random.default_rng(0).choice([2.5, 5, 12], 60))
    wide = wide_gaps(series("x", positions))
    gaps = np.diff(positions)
    for i, gap in enumerate(gaps):
        adjacent = [gaps[j] for j in (i - 1, i + 1) if 0 <= j < len(gaps)]
        slow.append(gap > 1.5 * max(adjacent))
    assert list(wide[1:]) == slow and any(slow) and not wide[0]


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(rows):
    assert count_unusual_geometry(series("a", [0.0])[:rows])["series"] == rows
