"""Where a slice lies, what its pixels hold, and what its file says of the scanner, whatever the
CNNs think.
"""

import numpy as np

from features.series import series_starts
from features.study import relative_height

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
PLACE = {  # more of the same
    "position_mm": "height along the slice normal in the scanner's frame, mm",
    "to_end_mm": "mm to the nearer end of the series",
    "brain_share": "brain's area over the largest of the series",
}
PADDING = {
    "padded": "1: the slice is padded beyond the scanner's circle (smallest value -1500 HU or below)"
}
# tells one scanner or site from another: a signal that may not hold where the test slices come from
SCANNER = {
    "slope": "RescaleSlope",
    "intercept": "RescaleIntercept as the file says it, HU",
    "bits_stored": "BitsStored",
    "pixel_representation": "PixelRepresentation, 0 unsigned, 1 signed",
    "window_center": "first WindowCenter, HU",
    "window_width": "first WindowWidth, HU",
    "rows": "rows of the file's picture, pixels",
    "cols": "columns of the file's picture, pixels",
    "pixel_spacing_mm": "mm between rows",
    "repaired_intercept": "1: the 12-bit intercept defect was found and mended",
}
SWITCHES = {
    "geometry": GEOMETRY,
    "place": PLACE,
    "padding": PADDING,
    "scanner": SCANNER,
}  # all that enters, by FeatureConfig field
METADATA = {name: about for columns in SWITCHES.values() for name, about in columns.items()}
PADDED_HU = -1500


def geometry_features(slices, switches=("geometry",)):
    """Return the columns of SWITCHES that are on of the slice table (n rows), float32, and their
    names; NaN where unknown.
    """
    names = [name for switch in switches for name in SWITCHES[switch]]
    columns = [
        DERIVED[name](slices) if name in DERIVED else np.asarray(slices[name]) for name in names
    ]
    made = np.empty((len(names), len(slices["place"])), np.float32)
    for row, column in zip(made, columns, strict=True):
        row[:] = column
    return made.T, names


def source_columns(switches):
    """Return the columns of the slice table that the features of the switches that are on are made
    of, besides places.
    """
    made_of = {"padded": "padding_hu", "brain_share": "brain_cm2"}
    names = [made_of.get(name, name) for switch in switches for name in SWITCHES[switch]]
    return [name for name in dict.fromkeys(names) if name not in DERIVED]


def _from_bottom(slices):
    position = np.asarray(slices["position_mm"])
    return position - position[series_starts(slices)[0]]


def _from_top(slices):
    position = np.asarray(slices["position_mm"])
    return position[series_starts(slices)[1] - 1] - position


def _brain_share(slices):
    area, starts = np.asarray(slices["brain_cm2"]), np.flatnonzero(np.asarray(slices["place"]) == 0)
    if not len(starts):
        return area
    largest = np.fmax.reduceat(area, starts)
    return area / np.repeat(
        np.where(largest > 0, largest, np.nan), np.asarray(slices["series_slices"])[starts]
    )


def _padded(slices):
    smallest = np.asarray(slices["padding_hu"])
    return np.where(np.isnan(smallest), np.nan, smallest <= PADDED_HU)


DERIVED = {
    "position_rel": relative_height,
    "from_bottom_mm": _from_bottom,
    "from_top_mm": _from_top,
    "to_end_mm": lambda slices: np.minimum(_from_bottom(slices), _from_top(slices)),
    "brain_share": _brain_share,
    "padded": _padded,
}
