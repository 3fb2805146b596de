"""What is odd about how the series of a slice table lie in space. Nothing here is a fault; all of
it is worth knowing.
"""

import numpy as np

# times both neighbouring distances: a slice is missing. Not of half steps, whose distance changes
# once
GAP = 1.5
EVEN = 0.05  # share by which the distances of a series may differ: tags are rounded
TILTED_DEG = 1.0  # slices that lie nearer to axial count as not tilted
USUAL = 512  # rows and columns of a CT slice


def wide_gaps(slices):
    """Say of each row of a slice table whether slices seem to be missing below it. Returns bool
    (n,).
    """
    # NaN at the bottom of each series, which parts it from the others
    gap = slices["gap_below_mm"].to_numpy(np.float64)
    step = np.where(gap > 0, gap, np.nan)  # beside slices at one place nobody knows
    beside = np.fmax(np.append(np.nan, step[:-1]), np.append(step[1:], np.nan))
    return gap > GAP * beside


def count_unusual_geometry(slices):
    """Count what is odd in a slice table: {name: number of series, studies or slices}; what is not
    known counts as usual.
    """
    gap, wide = slices["gap_below_mm"], wide_gaps(slices)
    series = slices["series_id"].to_numpy() != slices["series_id"].shift().to_numpy()
    series = np.cumsum(
        series | (slices["study_id"].to_numpy() != slices["study_id"].shift().to_numpy())
    )
    steps = gap.where((gap > 0) & ~wide).groupby(series)
    rows, cols = slices["rows"], slices["cols"]
    first = ~slices.duplicated(["study_id", "series_id"])

    def number_of(odd):
        return int(np.unique(series[np.asarray(odd)]).size)

    return {
        "series": number_of(np.ones(len(slices), bool)),
        "one_slice": number_of(slices["series_slices"] == 1),
        "tilted": number_of(slices["tilt_deg"] > TILTED_DEG),
        "mixed_orientation": number_of(slices["mixed_orientation"]),
        "gaps": number_of(wide),
        "uneven": int((steps.max() > (1 + EVEN) * steps.min()).sum()),
        "shared_places": number_of(gap == 0),
        "other_size": int(((rows != USUAL) & rows.notna() | (cols != USUAL) & cols.notna()).sum()),
        "not_square": int((rows.notna() & cols.notna() & (rows != cols)).sum()),
        "several_series": int((slices[first].groupby("study_id").size() > 1).sum()),
    }
