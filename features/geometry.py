"""Where a slice lies and what its pixels hold, whatever the CNNs think."""

import numpy as np

from ct.slices import SERIES

GEOMETRY = {  # name -> what it is; nothing here identifies a patient, a site or a scanner
    "position_rel": "height in the series, 0 lowest slice, 1 highest",
    "from_bottom_mm": "mm from the lowest slice of the series",
    "from_top_mm": "mm to the highest slice of the series",
    "series_slices": "number of slices of the series",
    "gap_below_mm": "mm to the slice below",
    "gap_above_mm": "mm to the slice above",
    "tilt_deg": "angle between slice normal and patient's axis, degrees",
    "brain_cm2": "area of 0 to 80 HU, cm2",
    "skull_cm2": "area above 300 HU, cm2",
    "brain_mean_hu": "mean HU of the brain's area",
    "brain_std_hu": "spread of HU of the brain's area",
    "blood_share": "share of the brain's area at 50 to 80 HU",
}


def geometry_features(slices):
    """Return the columns GEOMETRY of the slice table (n rows), float32 (n, 12), and their names; NaN where unknown."""
    position = slices["position_mm"].to_numpy()
    by_series = slices.groupby(list(SERIES), sort=False, observed=True)["position_mm"]
    low, high = by_series.transform("min").to_numpy(), by_series.transform("max").to_numpy()
    length = np.where(high > low, high - low, np.nan)  # one-slice series: no height
    derived = {
        "position_rel": (position - low) / length,
        "from_bottom_mm": position - low,
        "from_top_mm": high - position,
    }
    columns = [derived[name] if name in derived else slices[name].to_numpy() for name in GEOMETRY]
    return np.column_stack(columns).astype(np.float32), list(GEOMETRY)
