"""Unusual but valid geometry of series: gaps, tilt, uneven spacing, shared positions."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

# A slice is missing where a distance exceeds the distances before and after it by this factor.
# Half steps do not: there the spacing changes only once.
GAP_FACTOR = 1.5
SPACING_TOLERANCE = 0.05  # relative difference of spacings that count as equal; tags are rounded
TILTED_DEG = 1.0  # slices closer to axial count as not tilted
USUAL_SIZE = 512  # rows and columns of a CT slice


def wide_gaps(slices: pd.DataFrame) -> NDArray[np.bool_]:
    """Return, (n,), whether slices seem to be missing below each row of a slice table."""
    # NaN for the lowest slice of each series, which separates it from the series before
    gap = slices["gap_below_mm"].to_numpy(np.float64)
    step = np.where(gap > 0, gap, np.nan)  # slices at one position give no spacing to compare
    adjacent = np.fmax(np.append(np.nan, step[:-1]), np.append(step[1:], np.nan))
    return gap > GAP_FACTOR * adjacent


def count_unusual_geometry(slices: pd.DataFrame) -> dict[str, int]:
    """Count unusual geometry in a slice table: {name: number of series, studies or slices}.

    Unknown values count as usual.
    """
    gap, wide = slices["gap_below_mm"], wide_gaps(slices)
    series_id, study_id = slices["series_id"], slices["study_id"]
    starts = series_id.to_numpy() != series_id.shift().to_numpy()
    series = np.cumsum(starts | (study_id.to_numpy() != study_id.shift().to_numpy()))
    steps = gap.where((gap > 0) & ~wide).groupby(series)
    rows, cols = slices["rows"], slices["cols"]
    first = ~slices.duplicated(["study_id", "series_id"])

    def series_with(mask: ArrayLike) -> int:
        return int(np.unique(series[np.asarray(mask)]).size)

    other_size = (rows != USUAL_SIZE) & rows.notna() | (cols != USUAL_SIZE) & cols.notna()
    return {
        "series": series_with(np.ones(len(slices), bool)),
        "one_slice": series_with(slices["series_slices"] == 1),
        "tilted": series_with(slices["tilt_deg"] > TILTED_DEG),
        "mixed_orientation": series_with(slices["mixed_orientation"]),
        "gaps": series_with(wide),
        "uneven": int((steps.max() > (1 + SPACING_TOLERANCE) * steps.min()).sum()),
        "shared_places": series_with(gap == 0),
        "other_size": int(other_size.sum()),
        "not_square": int((rows.notna() & cols.notna() & (rows != cols)).sum()),
        "several_series": int((slices[first].groupby("study_id").size() > 1).sum()),
    }
