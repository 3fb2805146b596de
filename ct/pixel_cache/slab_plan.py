"""Slabs: thin slices averaged along the normal into slices as far apart as the training data's.

A slice of 1 mm is noisier than one of 5 mm, and its neighbours are nearer: the mean over 5 mm is
what a scanner's 5 mm reconstruction of the same data shows. This module decides which slices make
which slab, with which weights; slab_pixels.py averages their pixels.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.slices import ORIENTATION, POSITION

LEAST_COVER = 0.25  # share of a slab's thickness that slices cover at least; else it is a gap
# decimals, mm, of distances that are compared: of slices equally near the lower one counts
TIE_DIGITS = 2
IN_PLANE = ("left_mm", "back_mm")  # columns of `in_plane_positions`


class Member(NamedTuple):
    """One slice of a slab."""

    path: str
    weight: float  # share of the slab, of 1
    down: float  # pixels by which the slice has to move down to lie over the slab
    right: float  # pixels by which it has to move to the right


def in_plane_positions(table: pd.DataFrame) -> pd.DataFrame:
    """Return where each slice begins along the patient's left and back axes within its plane, mm.

    table: with POSITION and ORIENTATION

    A tilted gantry shifts each slice against the one below it, since the table moves along the
    patient's axis and the slices are not perpendicular to it. Rows of the picture that read_hu
    returns point to the patient's left, columns to the back, whatever the file's own order.
    """
    position = table[list(POSITION)].to_numpy(np.float64)
    vectors = [table[list(ORIENTATION[at : at + 3])].to_numpy(np.float64) for at in (0, 3)]
    along_x = np.abs(vectors[0][:, 0]) >= np.abs(vectors[1][:, 0])  # which of the two is more so
    columns = {}
    for name, axis, first in (("left_mm", 0, along_x), ("back_mm", 1, ~along_x)):
        vector = np.where(first[:, None], *vectors)
        vector = vector * np.where(vector[:, [axis]] < 0, -1.0, 1.0)
        columns[name] = (position * vector).sum(axis=1)
    return pd.DataFrame(columns, index=table.index)


def slab_table(
    slices: pd.DataFrame, in_plane: pd.DataFrame, spacing_mm: float, thickness_mm: float = np.nan
) -> tuple[pd.DataFrame, pd.Series]:
    """Return (slabs, slab of each slice) of one series.

    slices: (n rows) slice table of one series, in order; in_plane: as returned by
    `in_plane_positions`, with the same index; spacing_mm: between the slabs, their thickness too;
    thickness_mm: of a slice, NaN where unknown. Slices thicker than their distance overlap, and
    fewer of them make a slab as thick.

    slabs: slice table indexed by the slice nearest to each slab's middle, whose header columns they
    have; GEOMETRY_COLUMNS are the slabs' own; `members` is a tuple of Member. Series: indexed like
    `slices`, the index of the slab that a slice has most of itself in, or of the nearest one.
    """
    position = slices["position_mm"].to_numpy(np.float64)
    low, high, share = _extents(position, spacing_mm)
    bottom, top = low.min(), high.max()
    count = max(1, round((top - bottom) / spacing_mm))
    centres = (bottom + top) / 2 + spacing_mm * (np.arange(count) - (count - 1) / 2)
    reach = _width(position, spacing_mm, thickness_mm) / 2
    overlap = np.minimum(high[:, None], centres + reach) - np.maximum(low[:, None], centres - reach)
    weights = np.maximum(overlap, 0) * share[:, None]  # mm of each slice in each slab, (n, slabs)
    nearest = np.abs(position[:, None] - centres).round(TIE_DIGITS)
    home = np.lexsort([nearest, -weights.round(TIE_DIGITS)], axis=1)[:, 0]
    covered = (weights.sum(axis=0) >= LEAST_COVER * 2 * reach) & np.isin(range(count), home)
    if not covered.any():
        covered = np.isin(range(count), home)
    weights, nearest, centres = weights[:, covered], nearest[:, covered], centres[covered]
    home = np.lexsort([nearest, -weights.round(TIE_DIGITS)], axis=1)[:, 0]
    middles = [_middle(nearest[:, slab], home == slab) for slab in range(len(centres))]
    kept = [number for number, middle in enumerate(middles) if middle >= 0]
    middle = np.array([middles[number] for number in kept])
    slabs = _geometry(slices.iloc[middle], centres[kept])
    slabs["members"] = [
        _members(slices, in_plane, weights[:, number], middles[number]) for number in kept
    ]
    place = np.searchsorted(kept, home).clip(0, len(kept) - 1)
    return slabs, pd.Series(slabs.index.to_numpy()[place], index=slices.index)


def _width(position: NDArray[np.float64], spacing_mm: float, thickness_mm: float) -> float:
    """Return over how many mm slices are averaged, so that the mean is `spacing_mm` thick."""
    distances = np.diff(np.unique(position))
    step = float(np.median(distances)) if len(distances) else spacing_mm
    overlap = max(thickness_mm - step, 0.0) if thickness_mm > 0 else 0.0
    return min(max(spacing_mm - overlap, step), spacing_mm)


def _extents(
    position: NDArray[np.float64], spacing_mm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return (lower end, upper end, share) of what each slice stands for, (n,) each.

    The ends lie halfway to the next position, half a slab away at most; slices at one position
    share it.
    """
    places, code, counts = np.unique(position, return_inverse=True, return_counts=True)
    half = np.minimum(np.diff(places), spacing_mm) / 2
    if not len(half):
        half = np.array([spacing_mm / 2])
    low = places - np.concatenate([half[:1], half])[: len(places)]
    high = places + np.concatenate([half, half[-1:]])[: len(places)]
    return low[code], high[code], 1 / counts[code]


def _middle(distance: NDArray[np.float64], own: NDArray[np.bool_]) -> int:
    """Return the row of the nearest of a slab's own slices, -1 where it has none."""
    return int(np.where(own, distance, np.inf).argmin()) if own.any() else -1


def _geometry(middle: pd.DataFrame, centres: NDArray[np.float64]) -> pd.DataFrame:
    """Return the rows of the middle slices with the geometry of their slabs."""
    gaps = np.diff(centres).astype(np.float32)
    nan = np.float32("nan")
    return middle.assign(
        position_mm=centres.round(3),
        place=np.arange(len(centres), dtype=np.int32),
        series_slices=np.int32(len(centres)),
        gap_below_mm=np.append(nan, gaps),
        gap_above_mm=np.append(gaps, nan),
    )


def _members(
    slices: pd.DataFrame, in_plane: pd.DataFrame, weights: NDArray[np.float64], middle: int
) -> tuple[Member, ...]:
    """Return the Members of one slab. weights: (n,) mm of each slice in it"""
    rows = np.flatnonzero(weights)
    rows = rows if len(rows) else np.array([middle])
    share = weights[rows] / weights[rows].sum() if weights[rows].sum() else np.ones(1)
    starts = in_plane[list(IN_PLANE)].to_numpy()
    moves = np.nan_to_num((starts[rows] - starts[middle]) / slices["pixel_spacing_mm"].iloc[middle])
    paths = slices["path"].iloc[rows].tolist()
    return tuple(
        Member(path, float(part), float(down), float(right))
        for path, part, (right, down) in zip(paths, share, moves, strict=True)
    )
