"""Features that need no CNN: position in the series, areas and HU of the slice, header values."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from features.neighbours import Features
from features.series import SliceTable, series_bounds
from features.study import relative_height

GEOMETRY = {  # name -> description; none of them identifies a patient, a site or a scanner
    "position_rel": "relative height in the series, 0 lowest slice, 1 highest",
    "from_bottom_mm": "distance to the lowest slice of the series, mm",
    "from_top_mm": "distance to the highest slice of the series, mm",
    "series_slices": "number of slices in the series",
    "gap_below_mm": "distance to the slice below, mm",
    "gap_above_mm": "distance to the slice above, mm",
    "tilt_deg": "angle between slice normal and patient axis, degrees",
    "brain_cm2": "area at 0 to 80 HU (brain), cm2",
    "skull_cm2": "area above 300 HU (bone), cm2",
    "brain_mean_hu": "mean HU of the brain area",
    "brain_std_hu": "standard deviation of HU in the brain area",
    "blood_share": "fraction of the brain area at 50 to 80 HU",
}
PLACE = {
    "position_mm": "position along the slice normal in scanner coordinates, mm",
    "to_end_mm": "distance to the nearer end of the series, mm",
    "brain_share": "brain area relative to the largest in the series",
}
PADDING = {"padded": "1 if padded outside the scan circle (minimum of -1500 HU or less), else 0"}
# These differ between scanners and sites. What a model learns from them may not hold for test
# slices of other scanners.
SCANNER = {
    "slope": "RescaleSlope",
    "intercept": "RescaleIntercept in the file, HU",
    "bits_stored": "BitsStored",
    "pixel_representation": "PixelRepresentation, 0 unsigned, 1 signed",
    "window_center": "first WindowCenter, HU",
    "window_width": "first WindowWidth, HU",
    "rows": "Rows of the image, pixels",
    "cols": "Columns of the image, pixels",
    "pixel_spacing_mm": "distance between pixel rows, mm",
    "repaired_intercept": "1 if the 12-bit intercept defect was found and repaired, else 0",
}
GROUPS = {  # switch of FeatureConfig -> the columns it turns on
    "geometry": GEOMETRY,
    "place": PLACE,
    "padding": PADDING,
    "scanner": SCANNER,
}
METADATA = {name: text for group in GROUPS.values() for name, text in group.items()}
PADDED_HU = -1500  # a minimum at or below this comes from padding: air has -1000 HU


def geometry_features(slices: SliceTable, groups: Sequence[str] = ("geometry",)) -> Features:
    """Return the columns of some of GROUPS, float32 (n, f), and their names; NaN where unknown.

    slices: (n rows) the slice table, sorted by series and place
    """
    names = [name for group in groups for name in GROUPS[group]]
    columns = np.empty((len(names), len(slices["place"])), np.float32)
    for column, name in zip(columns, names, strict=True):
        column[:] = COMPUTED[name](slices) if name in COMPUTED else np.asarray(slices[name])
    return columns.T, names


def source_columns(groups: Sequence[str]) -> list[str]:
    """Return the columns of the slice table that the features of `groups` are computed from.

    Computed features also read COMMON_COLUMNS of features/build.py.
    """
    sources = {"padded": "padding_hu", "brain_share": "brain_cm2"}
    names = [sources.get(name, name) for group in groups for name in GROUPS[group]]
    return [name for name in dict.fromkeys(names) if name not in COMPUTED]


def _from_bottom(slices: SliceTable) -> NDArray:
    position = np.asarray(slices["position_mm"])
    return position - position[series_bounds(slices)[0]]


def _from_top(slices: SliceTable) -> NDArray:
    position = np.asarray(slices["position_mm"])
    return position[series_bounds(slices)[1] - 1] - position


def _to_end(slices: SliceTable) -> NDArray:
    return np.minimum(_from_bottom(slices), _from_top(slices))


def _brain_share(slices: SliceTable) -> NDArray:
    area, starts = np.asarray(slices["brain_cm2"]), np.flatnonzero(np.asarray(slices["place"]) == 0)
    if not len(starts):
        return area
    largest = np.fmax.reduceat(area, starts)
    counts = np.asarray(slices["series_slices"])[starts]
    return area / np.repeat(np.where(largest > 0, largest, np.nan), counts)


def _padded(slices: SliceTable) -> NDArray:
    minimum = np.asarray(slices["padding_hu"])
    return np.where(np.isnan(minimum), np.nan, minimum <= PADDED_HU)


# feature -> function from the slice table (n rows) to (n,) numbers; the other names of METADATA are
# columns of the slice table itself
COMPUTED: dict[str, Callable[[SliceTable], NDArray]] = {
    "position_rel": relative_height,
    "from_bottom_mm": _from_bottom,
    "from_top_mm": _from_top,
    "to_end_mm": _to_end,
    "brain_share": _brain_share,
    "padded": _padded,
}
