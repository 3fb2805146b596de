"""Features from the neighbouring slices: shifted logits, differences, Gaussian means.

Neighbours are those along the slice normal in the same series; past its ends there are none. The
optional column `step_places` of a slice table is the number of places that one step takes, where
the slices are not as far apart as in training.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.series import SliceTable

# Width (sigma) of the Gaussian mean that was best for each label in public solutions of the
# competition, which state it in slices of about 5 mm.
BEST_MM = {
    "any": 0.7 * 5,
    "epidural": 2.9 * 5,
    "intraparenchymal": 0.6 * 5,
    "intraventricular": 0.55 * 5,
    "subarachnoid": 1.1 * 5,
    "subdural": 1.5 * 5,
}
STEP_PLACES = "step_places"
MAX_STEPS = 12  # slices on each side that a Gaussian mean includes at most

Features = tuple[NDArray[np.float32], list[str]]  # columns (n, f) and their names


def outside(slices: SliceTable, step: int) -> NDArray[np.bool_]:
    """Return, (n,), whether the slice `step` places above (negative: below) is past the series."""
    target = np.asarray(slices["place"]) + step
    return (target < 0) | (target >= np.asarray(slices["series_slices"]))


def shift(values: NDArray[np.floating], slices: SliceTable, step: int) -> NDArray[np.floating]:
    """Return the values of the slice `step` places above (negative: below) in the same series.

    values: (n, c). Returns (n, c), NaN past an end of the series. With `step_places`, a step of k
    is the slice nearest to k of them, the outer one of two.
    """
    if STEP_PLACES in slices:
        return _shift_by_places(values, slices, step)
    columns = values.T
    shifted = np.empty(columns.shape, columns.dtype)
    rows, shifted_rows = _overlap(len(values), step)
    shifted[:, rows] = columns[:, shifted_rows]
    np.copyto(shifted, np.nan, where=outside(slices, step))
    return shifted.T


def _shift_by_places(
    values: NDArray[np.floating], slices: SliceTable, step: int
) -> NDArray[np.floating]:
    """Return what `shift` returns, of the slice `step` times `step_places` away."""
    distance = np.abs(step) * np.asarray(slices[STEP_PLACES], np.float64)
    # rounded, so that float errors do not decide between two slices
    places = np.sign(step) * np.floor(np.round(distance, 6) + 0.5).astype(np.int64)
    target = np.asarray(slices["place"], np.int64) + places
    past_end = (target < 0) | (target >= np.asarray(slices["series_slices"]))
    rows = np.arange(len(values)) + np.where(past_end, 0, places)
    return np.where(past_end[:, None], np.nan, values[rows]).astype(values.dtype)


def steps_within(reach: int) -> list[int]:
    """Return the steps to the neighbours within `reach`, the nearest first: -1, 1, -2, 2, ..."""
    return [step for distance in range(1, reach + 1) for step in (-distance, distance)]


def neighbour_features(
    slices: SliceTable,
    logits: NDArray[np.float32],
    labels: Sequence[str],
    reach: int,
    suffix: str = "",
) -> Features:
    """Return the logits of the slices within `reach` places of each slice, in the same series.

    slices: (n rows) the slice table, sorted by series and `place`, which rises along the normal
    logits: (n, c) float32, one column per label
    suffix: ends the names, such as "_by_vgg"

    Returns (n, 2 * c * reach) float32 and names: "any_z-1" is the slice below, "any_z+2" the one
    two places above. NaN past an end of the series.
    """
    steps = steps_within(reach)
    columns = [shift(logits, slices, step) for step in steps]
    names = [f"{label}_z{step:+d}{suffix}" for step in steps for label in labels]
    return stack_columns(columns, len(logits)), names


def difference_features(
    slices: SliceTable, logits: NDArray[np.float32], labels: Sequence[str], reach: int
) -> Features:
    """Return the logit of each slice minus that of each slice within `reach` places.

    Returns (n, 2 * c * reach) float32 and names: "any_dz+1" is the slice's logit minus the logit
    of the slice above. NaN past an end of the series, and where one of the two is NaN.
    """
    steps = steps_within(reach)
    columns = [logits - shift(logits, slices, step) for step in steps]
    names = [f"{label}_dz{step:+d}" for step in steps for label in labels]
    return stack_columns(columns, len(logits)), names


def smooth_features(
    slices: SliceTable,
    logits: NDArray[np.float32],
    labels: Sequence[str],
    widths_mm: Sequence[float],
) -> Features:
    """Return Gaussian means of the logits along the slice normal, in the same series.

    The weight at a distance of d mm is exp(-d^2 / (2 w^2)), and 0 beyond 3 w or MAX_STEPS slices.
    The slice itself is included; NaN logits have no weight.

    Returns (n, c * len(widths_mm)) float32 and names: "any_smooth5mm". NaN where there is no logit
    within reach.
    """
    columns = _gaussian_means(slices, logits, widths_mm)
    names = [f"{label}_smooth{width:g}mm" for width in widths_mm for label in labels]
    return stack_columns(columns, len(logits)), names


def best_smooth_features(
    slices: SliceTable, logits: NDArray[np.float32], labels: Sequence[str]
) -> Features:
    """Return the Gaussian mean of each label at its width in BEST_MM, (n, c) float32, and names."""
    columns = []
    for j, label in enumerate(labels):
        columns += _gaussian_means(slices, logits[:, [j]], [BEST_MM[label]])
    return stack_columns(columns, len(logits)), [f"{label}_smooth_best" for label in labels]


def stack_columns(columns: Sequence[NDArray[np.floating]], rows: int) -> NDArray[np.float32]:
    """Stack arrays (rows, c) side by side: float32 (rows, sum of c), Fortran order."""
    transposed = [np.empty((0, rows), np.float32), *(part.T for part in columns)]
    return np.concatenate(transposed, dtype=np.float32).T


def _gaussian_means(
    slices: SliceTable, logits: NDArray[np.float32], widths_mm: Sequence[float]
) -> list[NDArray[np.float32]]:
    """Return the Gaussian means at each width, (n, c) each."""
    rows, position = len(logits), np.asarray(slices["position_mm"])
    known = ~np.isnan(logits.T)  # (c, n)
    value = np.where(known, logits.T, 0).astype(np.float64)
    if (known == known[:1]).all():  # the usual case: a slice has logits of all labels or of none
        known = known[:1]
    sums = [np.zeros(value.shape) for _ in widths_mm]
    weights = [np.zeros(known.shape) for _ in widths_mm]
    for step in range(-MAX_STEPS, MAX_STEPS + 1):
        here, there = _overlap(rows, step)
        # rounded, so that float errors do not decide whether 3 w is reached
        distance = np.round(position[there] - position[here], 3)
        distance[outside(slices, step)[here]] = np.inf
        for width, width_sum, width_weight in zip(widths_mm, sums, weights, strict=True):
            near = np.abs(distance) <= 3 * width
            if near.any():
                w = np.exp(-0.5 * (np.where(near, distance, 0) / width) ** 2) * near
                width_sum[:, here] += w * value[:, there]
                width_weight[:, here] += w * known[:, there]
    means = []
    with np.errstate(invalid="ignore"):
        for width_sum, width_weight in zip(sums, weights, strict=True):
            means.append((width_sum / width_weight).T.astype(np.float32))
    return means


def _overlap(rows: int, step: int) -> tuple[slice, slice]:
    """Return the rows that have another row `step` rows further on, and those other rows."""
    low = max(0, -step)
    high = max(low, rows - max(0, step))
    return slice(low, high), slice(low + step, high + step)
