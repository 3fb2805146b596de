"""Rows of a slice table by series and study, and rows grouped by place in the series.

Here and in the feature families, a slice table may also be a dict of its columns, (n,) each.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SliceTable: TypeAlias = pd.DataFrame | Mapping[str, NDArray[Any]]


def series_bounds(slices: SliceTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row of each row's series, and one past its last row; int (n,) each.

    slices: sorted by series and place
    """
    place = np.asarray(slices["place"], np.int64)
    first = np.arange(len(place)) - place
    return first, first + np.asarray(slices["series_slices"], np.int64)


def study_starts(slices: SliceTable) -> NDArray[np.int64]:
    """Return the first row of each study, int (s,). A study in train and in test counts as two."""
    study, split = np.asarray(slices["study_id"]), np.asarray(slices["split"])
    new = np.ones(len(study), dtype=bool)
    new[1:] = (study[1:] != study[:-1]) | (split[1:] != split[:-1])
    return np.flatnonzero(new)


def rows_by_place(
    slices: SliceTable, from_top: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group rows by place, so that a recurrence steps through all series at once.

    Returns (order, bounds). order[bounds[p] : bounds[p + 1]] are the rows at place p, those of
    longer series first; the i-th of them is in the same series as the i-th at place p - 1.
    from_top: places are counted from the highest slice instead of the lowest.
    """
    starts = np.flatnonzero(np.asarray(slices["place"]) == 0)
    lengths = np.asarray(slices["series_slices"], np.int64)[starts]
    longest_first = np.argsort(-lengths, kind="stable")
    starts, lengths = starts[longest_first], lengths[longest_first]
    places = lengths[0] if len(lengths) else 0
    # number of series with more than p slices, for each p
    counts = np.searchsorted(-lengths, -np.arange(places), side="left")
    rows = [np.empty(0, np.int64)]
    for p, count in enumerate(counts):
        offset = lengths[:count] - 1 - p if from_top else p
        rows.append(starts[:count] + offset)
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return np.concatenate(rows), bounds
