"""The slice table: one row a slice, indexed by `slice_id`, sorted by study, series and place along
the slice normal.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

HEADER_COLUMNS = {  # from the header
    "split": "train or test",
    "patient_id": "pseudonym, or the competition's own ID_…",
    "study_id": "likewise",
    "series_id": "likewise",
    "path": "relative to the data folder",
    "rows": "pixels",
    "cols": "pixels",
    "pixel_spacing_mm": "mm between rows; NaN where the tag is missing",
    "slope": "RescaleSlope",
    "intercept": "RescaleIntercept, HU, as the file says it",
    "bits_stored": "",
    "pixel_representation": "0 unsigned, 1 signed",
    "window_center": "HU, the first value; NaN where missing",
    "window_width": "HU, the first value; NaN where missing",
    "transfer_syntax": "UID",
}
GEOMETRY_COLUMNS = {  # from the positions and orientations of a series together
    "position_mm": "along the series' slice normal, rising towards the head",
    "place": "0 ... series_slices - 1 in that order",
    "series_slices": "number of slices of the series",
    "gap_below_mm": "mm to the slice before; NaN for the first",
    "gap_above_mm": "mm to the slice after; NaN for the last",
    "tilt_deg": "angle between the slice normal and the patient's axis, degrees",
    "mixed_orientation": "the series holds slices of differing orientation (more than 1 degree)",
}
PIXEL_COLUMNS = {  # from the pixels
    "readable": "the pixels decode; where not, the facts below are NaN",
    "repaired_intercept": "the 12-bit intercept defect was found and mended",
    "padding_hu": "smallest HU of the slice before clipping; -2000 or -3024 means padded",
    "brain_cm2": "area of 0 to 80 HU inside the slice, cm2 (pixels where the spacing is unknown)",
    "skull_cm2": "area above 300 HU, likewise",
    "brain_mean_hu": "mean HU of the brain's area; NaN where there is none",
    "brain_std_hu": "its spread, HU",
    "blood_share": "share of the brain's area at 50 to 80 HU",
}
# and the six LABELS, float32, NaN where unknown
COLUMNS = {**HEADER_COLUMNS, **GEOMETRY_COLUMNS, **PIXEL_COLUMNS}

# ImagePositionPatient, mm: the centre of the first pixel; +x left, +y back, +z head
POSITION = ("ipp_x", "ipp_y", "ipp_z")
# ImageOrientationPatient: along a row, down a column
ORIENTATION = ("row_x", "row_y", "row_z", "col_x", "col_y", "col_z")
# together they name one series, which so never mixes train and test
SERIES = ("study_id", "series_id", "split")
MIXED_DEG = 1.0


def order_slices(table):
    """Place every slice in its series and sort the table by SERIES and place.

    table: indexed by slice_id, with the columns SERIES, POSITION and ORIENTATION

    Returns a new table with GEOMETRY_COLUMNS instead of POSITION and ORIENTATION. Order is along
    the mean of the series' slice normals (PS3.3 section C.7.6.2.1.1); positions are rounded to a
    micrometre, so that tags of few digits can tie, and ties are broken by slice_id.
    """
    table = table.sort_values([*SERIES, "slice_id"])
    first = ~table.duplicated(list(SERIES)).to_numpy()
    # each slice's series number; each series' first row
    series, starts = np.cumsum(first) - 1, np.flatnonzero(first)
    ipp, (rows, cols) = table[list(POSITION)].to_numpy(np.float64), _directions(table)
    normals = _normals(rows, cols)
    mean = _unit(np.add.reduceat(normals, starts)) if len(table) else normals
    position = (ipp * mean[series]).sum(axis=1).round(3) + 0.0  # + 0.0 makes a -0 a 0
    turned = (
        np.maximum(angles_deg(rows, rows[starts][series]), angles_deg(cols, cols[starts][series]))
        > MIXED_DEG
    )
    axis = np.array([0.0, 0.0, 1.0])
    order = np.lexsort([position, series])  # stable: equal positions stay in the order of slice_id
    placed = table.drop(columns=[*POSITION, *ORIENTATION]).iloc[order]
    return placed.assign(
        position_mm=position[order],
        place=(np.arange(len(table)) - starts[series]).astype(np.int32),
        series_slices=np.bincount(series)[series].astype(np.int32),
        **_gaps(position[order], starts),
        tilt_deg=angles_deg(normals, axis)[order].astype(np.float32),
        mixed_orientation=np.isin(series, series[turned]),
    )


def spans_plane(orientation: Sequence[Any]) -> Any:
    """Return whether two directions span a plane: of length about 1, and about perpendicular.

    orientation: the six numbers of ImageOrientationPatient, or six arrays (n,), as in ORIENTATION

    Returns a bool, or bool (n,). The bounds are wide, for rounded tags: lengths of 0.001 to 1000,
    angles of 60 to 120 degrees.
    """
    row_x, row_y, row_z, col_x, col_y, col_z = orientation
    row = row_x * row_x + row_y * row_y + row_z * row_z
    col = col_x * col_x + col_y * col_y + col_z * col_z
    dot = row_x * col_x + row_y * col_y + row_z * col_z
    lengths = (row > 1e-6) & (row < 1e6) & (col > 1e-6) & (col < 1e6)  # squared
    return lengths & (abs(dot) <= 0.5 * np.sqrt(row * col))


def slice_normals(table):
    """Return the unit normals of the slices of a table with ORIENTATION, (n, 3), turned to point to
    the head.
    """
    return _normals(*_directions(table))


def angles_deg(a, b):
    """Angle between unit vectors (n, 3) and (n, 3) or (3,), in degrees; exact for small angles,
    where the cosine is not.
    """
    return np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=-1) / 2, 0, 1)))


def _directions(table):
    """Return the unit vectors along a row and down a column of each slice, (n, 3) both."""
    return [
        _unit(table[list(names)].to_numpy(np.float64))
        for names in (ORIENTATION[:3], ORIENTATION[3:])
    ]


def _normals(rows, cols):
    return _towards_head(_unit(np.cross(rows, cols)))


def _gaps(position, starts):
    """Distances (n,), mm, of each slice from those before and after it in its series; starts: the
    series' first rows.
    """
    below = np.diff(position, prepend=np.nan).astype(np.float32)
    below[starts] = np.nan
    return {
        "gap_below_mm": below,
        "gap_above_mm": np.append(below[1:], np.float32("nan"))[: len(below)],
    }


def _unit(vectors):
    """Vectors (n, 3) at length 1; one of length 0 stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _towards_head(normals):
    """Normals (n, 3) turned to point to the head; those that lie across the body's axis to the
    back, or else to the left.
    """
    x, y, z = normals.T
    # a mere rounding must not turn a normal
    leading = np.where(np.abs(z) > 0.1, z, np.where(np.abs(y) > 0.1, y, x))
    return np.where(leading < 0, -1.0, 1.0)[:, None] * normals


def check_slice_table(table):
    """Raise ValueError unless every slice occurs once and every series is one block, in the order
    of place and position.
    """
    if not table.index.is_unique:
        raise ValueError(f"slice {table.index[table.index.duplicated()][0]} occurs twice")
    first = ~table.duplicated(list(SERIES)).to_numpy()
    series, starts = np.cumsum(first) - 1, np.flatnonzero(first)
    wrong = {
        "its place does not follow the one before": table["place"]
        != np.arange(len(table)) - starts[series],
        "it is torn from its series": ~first
        & (table[list(SERIES)] != table[list(SERIES)].shift()).any(axis=1),
        "it lies below the one before": ~first
        & (table["position_mm"] < table["position_mm"].shift()),
        "series_slices is not the number of its series' slices": table["series_slices"]
        != np.bincount(series)[series],
    }
    for fault, rows in wrong.items():
        if rows.any():
            raise ValueError(f"slice {table.index[rows][0]}: {fault}")
