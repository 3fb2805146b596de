"""Stray files: slices that do not belong to the series whose UID they carry.

An archive's export may hold a localizer, a screen capture or a slice of another reconstruction
under the UID of a good series (PS3.3 section C.7.3.1 asks for one modality and equipment alone).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.slices import ORIENTATION, SERIES, angles_deg, slice_normals

MAJORITY = 0.75  # share of a series that agrees; the others are strays
STRAY_DEG = 30.0  # between slice normals; gantries tilt by up to 30 degrees, heads in a series less


def stray_reasons(table: pd.DataFrame, acquisition: pd.DataFrame) -> pd.Series:
    """Return why each slice does not belong to its series, "" where it does.

    table: header table with SERIES, rows, cols and ORIENTATION; acquisition: as returned by
    read_acquisition, (n,) rows in the same order

    A slice is a stray where at least MAJORITY of its series agree with each other and not with it,
    in size, in orientation, in modality, or in being a localizer.
    """
    reasons = np.full(len(table), "", object)
    properties = pd.DataFrame(
        {
            "size": table["rows"].astype(str) + " x " + table["cols"].astype(str) + " pixels",
            "modality": acquisition["modality"].to_numpy(),
            "localizer": np.where(
                acquisition["image_type"].str.contains("LOCALIZER"), "a localizer", "slices"
            ),
        }
    ).set_axis(range(len(table)))
    orientation = table[list(ORIENTATION)].round(3).set_axis(range(len(table)))
    groups = table.groupby(list(SERIES), sort=False, observed=True).indices
    for rows in groups.values():
        of_series = properties.iloc[rows]
        if of_series.nunique().max() == 1 and orientation.iloc[rows].nunique().max() == 1:
            continue
        for name, values in of_series.items():
            _mark(reasons, rows, values.to_numpy(object), str(name))
        _mark(reasons, rows, _directions(table.iloc[rows]), "orientation")
    return pd.Series(reasons, index=table.index)


def _mark(
    reasons: NDArray[np.object_], rows: Sequence[int], values: NDArray[np.object_], name: str
) -> None:
    """Write the reasons of one property of one series in place, where there is none yet."""
    counts = pd.Series(values).value_counts()
    if len(counts) == 1 or counts.iloc[0] < MAJORITY * len(values):
        return
    usual = counts.index[0]
    for row, value in zip(rows, values, strict=True):
        if value != usual and not reasons[row]:
            own = {"modality": f"modality {value or 'missing'}"}.get(name, value)
            most = {"modality": f"modality {usual or 'missing'}"}.get(name, usual)
            reasons[row] = f"set apart from its series: {own}, most of the series: {most}"


def _directions(table: pd.DataFrame) -> NDArray[np.object_]:
    """Return a name of each slice's direction: that of the median normal, or another."""
    normals = slice_normals(table)
    usual = np.median(normals, axis=0)
    length = np.linalg.norm(usual)
    far = angles_deg(normals, usual / length) > STRAY_DEG if length else np.ones(len(table), bool)
    return np.where(far, "another orientation", "one orientation").astype(object)
