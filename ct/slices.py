"""The slice table: one row per slice, sorted by study, series and place along the slice normal.

It is indexed by `slice_id`. HEADER_COLUMNS, GEOMETRY_COLUMNS and PIXEL_COLUMNS describe its
columns; the six LABELS follow them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SPACINGS_MM = (1e-3, 1e3)  # a PixelSpacing outside counts as missing
HEADER_COLUMNS = {  # from the header
    "split": "train or test",
    "patient_id": "pseudonym, or the competition's own ID_…",
    "study_id": "the same",
    "series_id": "the same",
    "path": "relative to the data folder",
    "rows": "pixels",
    "cols": "pixels",
    "pixel_spacing_mm": "mm between rows; NaN where the tag is missing or not in SPACINGS_MM",
    "slope": "RescaleSlope",
    "intercept": "RescaleIntercept of the file, HU",
    "bits_stored": "bits per pixel that hold the value",
    "pixel_representation": "0 unsigned, 1 signed",
    "window_center": "HU, the first value; NaN where missing",
    "window_width": "HU, the first value; NaN where missing",
    "transfer_syntax": "UID",
}
GEOMETRY_COLUMNS = {  # from the positions and orientations of a series together
    "position_mm": "along the series' slice normal, increasing towards the head",
    "place": "0 ... series_slices - 1 in that order",
    "series_slices": "number of slices of the series",
    "gap_below_mm": "mm to the slice before; NaN for the first",
    "gap_above_mm": "mm to the slice after; NaN for the last",
    "tilt_deg": "angle between the slice normal and the patient's axis, degrees",
    "mixed_orientation": "orientations in the series differ by more than 1 degree",
}
PIXEL_COLUMNS = {  # from the pixels
    "readable": "whether the pixels decode; if not, the values below are NaN",
    "repaired_intercept": "the 12-bit intercept defect was found and repaired",
    "padding_hu": "smallest HU of the slice before clipping; -2000 or -3024 means padded",
    "brain_cm2": "area of 0 to 80 HU inside the slice, cm2 (pixels where the spacing is unknown)",
    "skull_cm2": "area above 300 HU, in the same unit",
    "brain_mean_hu": "mean HU of the brain's area; NaN where there is none",
    "brain_std_hu": "standard deviation in the brain's area, HU",
    "blood_share": "share of the brain's area at 50 to 80 HU",
}
# followed by the six LABELS, float32, NaN where unknown
COLUMNS = {**HEADER_COLUMNS, **GEOMETRY_COLUMNS, **PIXEL_COLUMNS}

# ImagePositionPatient, mm: the centre of the first pixel; +x left, +y back, +z head
POSITION = ("ipp_x", "ipp_y", "ipp_z")
# ImageOrientationPatient: along a row, down a column
ORIENTATION = ("row_x", "row_y", "row_z", "col_x", "col_y", "col_z")
# together they name one series, which never mixes train and test
SERIES = ("study_id", "series_id", "split")
MIXED_DEG = 1.0
MAX_AXIAL_DEG = 45.0  # slices further from axial are coronal or sagittal


def order_slices(table: pd.DataFrame) -> pd.DataFrame:
    """Place every slice in its series and sort the table by SERIES and place.

    table: indexed by slice_id, with the columns SERIES, POSITION and ORIENTATION

    Returns a new table with GEOMETRY_COLUMNS instead of POSITION and ORIENTATION. The order is
    along the mean of the series' slice normals (DICOM PS3.3 section C.7.6.2.1.1). Positions are
    rounded to a micrometre, so that positions written with few digits can tie; ties are broken by
    slice_id.
    """
    table = table.sort_values([*SERIES, "slice_id"])
    series, starts = _number_series(table)
    positions = table[list(POSITION)].to_numpy(np.float64)
    rows, cols = _directions(table)
    normals = _normals(rows, cols)
    mean_normals = _unit(np.add.reduceat(normals, starts)) if len(table) else normals
    along_normal = (positions * mean_normals[series]).sum(axis=1).round(3) + 0.0  # + 0.0: no -0
    turned = np.maximum(  # from the first slice of the series, degrees
        angles_deg(rows, rows[starts][series]), angles_deg(cols, cols[starts][series])
    )
    mixed = np.isin(series, series[turned > MIXED_DEG])
    tilt = angles_deg(normals, np.array([0.0, 0.0, 1.0]))
    # stable: equal positions stay in the order of slice_id
    order = np.lexsort([along_normal, series])
    ordered = table.drop(columns=[*POSITION, *ORIENTATION]).iloc[order]
    return ordered.assign(
        position_mm=along_normal[order],
        place=(np.arange(len(table)) - starts[series]).astype(np.int32),
        series_slices=np.bincount(series)[series].astype(np.int32),
        **_gaps(along_normal[order], starts),
        tilt_deg=tilt[order].astype(np.float32),
        mixed_orientation=mixed,
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


def slice_normals(table: pd.DataFrame) -> NDArray[np.float64]:
    """Return the unit normals of the slices, (n, 3), pointing towards the head.

    table: with the columns ORIENTATION
    """
    return _normals(*_directions(table))


def angles_deg(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angles between unit vectors, degrees (n,).

    a: (n, 3); b: (n, 3) or (3,). Exact for small angles, where the arc cosine is not.
    """
    return np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=-1) / 2, 0, 1)))


def _number_series(table: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return each row's series number, (n,), and the first row of each series.

    table: sorted by series
    """
    first = ~table.duplicated(list(SERIES)).to_numpy()
    return np.cumsum(first) - 1, np.flatnonzero(first)


def _directions(table: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the unit vectors along a row and down a column of each slice, both (n, 3)."""
    row, col = ORIENTATION[:3], ORIENTATION[3:]
    return (
        _unit(table[list(row)].to_numpy(np.float64)),
        _unit(table[list(col)].to_numpy(np.float64)),
    )


def _normals(rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unit normals (n, 3) of slices, towards the head."""
    return _towards_head(_unit(np.cross(rows, cols)))


def _gaps(
    position: NDArray[np.float64], starts: NDArray[np.intp]
) -> dict[str, NDArray[np.float32]]:
    """Return the distances in mm, (n,), to the slice before and the slice after in the series.

    position: (n,), sorted; starts: the first row of each series
    """
    below = np.diff(position, prepend=np.nan).astype(np.float32)
    below[starts] = np.nan
    return {
        "gap_below_mm": below,
        "gap_above_mm": np.append(below[1:], np.float32("nan"))[: len(below)],
    }


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return vectors (n, 3) scaled to length 1; a vector of length 0 stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _towards_head(normals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return normals (n, 3), flipped where needed to point towards the head.

    Normals across the body's axis point to the back, or else to the left.
    """
    x, y, z = normals.T
    # 0.1: rounding must not flip a normal
    leading = np.where(np.abs(z) > 0.1, z, np.where(np.abs(y) > 0.1, y, x))
    return np.where(leading < 0, -1.0, 1.0)[:, None] * normals


def check_slice_table(table: pd.DataFrame) -> None:
    """Raise ValueError unless each slice occurs once and each series is one ordered block.

    A series is ordered by place and by position.
    """
    if not table.index.is_unique:
        raise ValueError(f"slice {table.index[table.index.duplicated()][0]} occurs twice")
    first = ~table.duplicated(list(SERIES)).to_numpy()
    series, starts = _number_series(table)
    names = table[list(SERIES)]
    faults = {
        "its place does not follow the one before": table["place"]
        != np.arange(len(table)) - starts[series],
        "it is apart from its series": ~first & (names != names.shift()).any(axis=1),
        "it lies below the one before": ~first
        & (table["position_mm"] < table["position_mm"].shift()),
        "series_slices is not the number of slices in its series": table["series_slices"]
        != np.bincount(series)[series],
    }
    for fault, rows in faults.items():
        if rows.any():
            raise ValueError(f"slice {table.index[rows][0]}: {fault}")
