"""The inner split of a search: patients outside one fold, some of them held out."""

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.errors import InputError, number_of
from ct.labels import LABELS
from ct.patient_folds import assign_folds, fold_groups
from stage1_cnn.batches.dataset import fold_rows
from stage1_cnn.train_loop import CURVE_SLICES

PARTS = 4  # of the patients outside the fold, one part is held out


def inner_split(
    slices: pd.DataFrame, fold: NDArray[np.int8], k: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row numbers (training, held out) of the train slices outside fold `k`.

    fold: (n,) of each slice. About a quarter of the patients is held out; those of one group
    (`ct.patient_folds.fold_groups`) stay together. Held out are only their readable slices with
    labels, CURVE_SLICES at most. Raises InputError where fewer than two groups are left.
    """
    rows = np.flatnonzero((slices["split"] == "train").to_numpy() & (fold != k))
    outside = slices.iloc[rows]
    groups = len(set(fold_groups(outside)))
    if groups < 2:
        raise InputError(
            f"search: {number_of(groups, 'patient')} outside fold {k}, 2 are needed; "
            "add data, or raise folds.k"
        )
    train, held_out = fold_rows(outside, _assign_parts(outside, min(PARTS, groups), seed), 0)
    scored = (outside[list(LABELS)].notna().all(axis=1) & outside["readable"]).to_numpy(bool)
    held_out = held_out[scored[held_out]]
    if not len(held_out):
        raise InputError(
            f"search: no readable slice with labels is held out of those outside fold {k}; add data"
        )
    return rows[train], rows[held_out[:: math.ceil(len(held_out) / CURVE_SLICES)]]


def _assign_parts(slices: pd.DataFrame, parts: int, seed: int) -> pd.Series:
    """Return the part of every slice, by patient.

    There are fewer `parts` where so few patients would leave one of them empty.
    """
    try:
        return assign_folds(slices, parts, seed)
    except InputError:
        if parts > 2:
            return _assign_parts(slices, parts - 1, seed)
        raise InputError(
            "search: the patients outside the fold are too few to hold some out; add data"
        ) from None
