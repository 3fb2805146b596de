"""Features over a range of slices: rolling minimum and maximum, one-sided mean and deviation."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.neighbours import Features, shift, stack_columns
from features.series import SliceTable, rows_by_place

SIDES = ("below", "above")
SIDED_KINDS = tuple(f"{side}_{kind}" for side in SIDES for kind in ("mean", "std"))


def rolling_features(
    slices: SliceTable,
    logits: NDArray[np.float32],
    labels: Sequence[str],
    widths: Sequence[int],
) -> Features:
    """Return the minimum and maximum logit within `widths` slices on either side, in the series.

    logits: (n, c) float32. The slice itself is included; NaN logits are left out.

    Returns (n, 2 * c * len(widths)) float32 and names: "any_min2", "any_max2". NaN where there is
    no logit within reach.
    """
    low, high = logits, logits
    extremes = {}  # width -> (minimum, maximum)
    for distance in range(1, max(widths, default=0) + 1):
        for step in (-distance, distance):
            neighbour = shift(logits, slices, step)
            low, high = np.fmin(low, neighbour), np.fmax(high, neighbour)
        extremes[distance] = (low, high)
    columns = [part for width in widths for part in extremes[width]]
    names = []
    for width in widths:
        for kind in ("min", "max"):
            names += [f"{label}_{kind}{width}" for label in labels]
    return stack_columns(columns, len(logits)), names


def sided_features(
    slices: SliceTable, logits: NDArray[np.float32], labels: Sequence[str]
) -> Features:
    """Return mean and standard deviation of all logits below, and of all above, in the series.

    logits: (n, c) float32. The slice itself and NaN logits are left out.

    Returns (n, 4 * c) float32 and names: "any_below_mean", ... NaN where that side has no logit.
    """
    columns: list[NDArray[np.float32]] = []
    for side in SIDES:
        columns += _expanding_statistics(slices, logits, from_top=side == "above")
    names = [f"{label}_{kind}" for kind in SIDED_KINDS for label in labels]
    return stack_columns(columns, len(logits)), names


def _expanding_statistics(
    slices: SliceTable, logits: NDArray[np.float32], from_top: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mean and standard deviation, (n, c) each, of the logits of all slices below a slice.

    from_top: of all slices above instead. Welford's recurrence (Technometrics 4(3), 1962); one step
    is one place of all series.
    """
    order, bounds = rows_by_place(slices, from_top)
    values = logits.T[:, order].astype(np.float64)  # (c, n), by place
    means, deviations = np.full(values.shape, np.nan), np.full(values.shape, np.nan)
    # state of the recurrence for each label and series
    series = bounds[min(1, len(bounds) - 1)]
    count, mean, squares = (np.zeros((len(values), series)) for _ in range(3))
    for start, end in zip(bounds[:-1], bounds[1:], strict=True):
        here = slice(start, end)
        count, mean, squares = (state[:, : end - start] for state in (count, mean, squares))
        has_logit = count > 0
        np.copyto(means[:, here], mean, where=has_logit)
        np.divide(squares, count, where=has_logit, out=deviations[:, here])
        np.sqrt(deviations[:, here], out=deviations[:, here])
        value = values[:, here]
        known = ~np.isnan(value)
        difference = np.where(known, value - mean, 0)
        count += known
        mean += difference / np.maximum(count, 1)
        squares += difference * np.where(known, value - mean, 0)
    result = np.empty((2, *values.shape), np.float32)
    result[0][:, order], result[1][:, order] = means, deviations
    return result[0].T, result[1].T
