"""What a stretch of the series says: the extremes around a slice, and all that lies below or above
it.
"""

import numpy as np

from features.neighbours import shift, stack_columns
from features.series import rows_by_place

SIDES = ("below", "above")
SIDED_KINDS = tuple(f"{side}_{kind}" for side in SIDES for kind in ("mean", "std"))


def rolling_features(slices, logits, names, widths):
    """Smallest and largest logit within `widths` slices on either side, the slice itself included,
    in the same series.

    Returns (n, 2 * c * len(widths)) float32 and its names: "any_min2", "any_max2". Past an end and
    where a logit is unknown there is nothing to compare; without any logit within reach: NaN.
    """
    low, high, found = logits, logits, {}
    for distance in range(1, max(widths, default=0) + 1):
        for step in (-distance, distance):
            there = shift(logits, slices, step)
            low, high = np.fmin(low, there), np.fmax(high, there)
        found[distance] = (low, high)
    columns = [part for width in widths for part in found[width]]
    return stack_columns(columns, len(logits)), [
        f"{n}_{kind}{w}" for w in widths for kind in ("min", "max") for n in names
    ]


def sided_features(slices, logits, names):
    """Mean and spread of the logits of all slices below, and of all above, in the same series; the
    slice itself left out.

    Returns (n, 4 * c) float32 and its names: "any_below_mean", ... Where there is no logit on that
    side: NaN.
    """
    columns = [
        part for side in SIDES for part in _running(slices, logits, from_top=side == "above")
    ]
    return stack_columns(columns, len(logits)), [
        f"{name}_{kind}" for kind in SIDED_KINDS for name in names
    ]


def _running(slices, logits, from_top):
    """Return mean and spread (n, c) of the slices that the walk has passed before each (Welford's
    recurrence).
    """
    order, bounds = rows_by_place(slices, from_top)
    walked = logits.T[:, order].astype(np.float64)
    means, spreads = np.full(walked.shape, np.nan), np.full(walked.shape, np.nan)
    count, mean, squares = (
        np.zeros((len(walked), bounds[min(1, len(bounds) - 1)])) for _ in range(3)
    )
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        count, mean, squares = (state[:, : end - start] for state in (count, mean, squares))
        met = count > 0
        np.copyto(means[:, start:end], mean, where=met)
        np.sqrt(
            np.divide(squares, count, where=met, out=spreads[:, start:end]),
            out=spreads[:, start:end],
        )
        value = walked[:, start:end]
        known = ~np.isnan(value)
        off = np.where(known, value - mean, 0)
        count += known
        mean += off / np.maximum(count, 1)
        squares += off * np.where(known, value - mean, 0)
    result = np.empty((2, *walked.shape), np.float32)
    result[0][:, order], result[1][:, order] = means, spreads
    return result[0].T, result[1].T
