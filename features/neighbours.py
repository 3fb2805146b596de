"""Opinions of the slices next to a slice, along the slice normal and never across a series."""

import numpy as np

# width of the Gaussian mean that served each label best in public solutions, in slices of about 5
# mm
BEST_MM = {
    "any": 0.7 * 5,
    "epidural": 2.9 * 5,
    "intraparenchymal": 0.6 * 5,
    "intraventricular": 0.55 * 5,
    "subarachnoid": 1.1 * 5,
    "subdural": 1.5 * 5,
}
FURTHEST = 12  # slices that a Gaussian mean looks at on each side


def outside(slices, step):
    """Return whether the slice `step` places above (negative: below) is past an end of the series,
    bool (n,).
    """
    target = np.asarray(slices["place"]) + step
    return (target < 0) | (target >= np.asarray(slices["series_slices"]))


def shift(values, slices, step):
    """Return the floats `values` (n, c) `step` places above (negative: below) in the same series;
    NaN past its ends.
    """
    columns = values.T
    shifted = np.empty(columns.shape, columns.dtype)
    here, there = _overlap(len(values), step)
    shifted[:, here] = columns[:, there]
    np.copyto(shifted, np.nan, where=outside(slices, step))
    return shifted.T


def steps_within(reach):
    """Return the steps to the neighbours within `reach`, the nearest first: -1, 1, -2, 2, ..."""
    return [step for distance in range(1, reach + 1) for step in (-distance, distance)]


def neighbour_features(slices, logits, names, reach, by=""):
    """Stage-one logits of the slices within `reach` of each slice, in the same series.

    slices: (n rows) the slice table, sorted by series and `place`, which rises along the slice
    normal logits: (n, c) float32 names:  the c columns' names by:     ends the names, as "_by_vgg"
    does

    Returns (n, 2 * c * reach) float32 and its names: "any_z-1" is the slice below, "any_z+2" two
    above. Past an end: NaN.
    """
    steps = steps_within(reach)
    columns = [shift(logits, slices, step) for step in steps]
    return stack_columns(columns, len(logits)), [
        f"{name}_z{step:+d}{by}" for step in steps for name in names
    ]


def difference_features(slices, logits, names, reach):
    """How much the logit of a slice exceeds that of each slice within `reach`, in the same series.

    Returns (n, 2 * c * reach) float32 and its names: "any_dz+1" is the slice's logit minus that of
    the one above. Past an end, and where one of both is unknown: NaN.
    """
    steps = steps_within(reach)
    columns = [logits - shift(logits, slices, step) for step in steps]
    return stack_columns(columns, len(logits)), [
        f"{name}_dz{step:+d}" for step in steps for name in names
    ]


def smooth_features(slices, logits, names, widths_mm):
    """Gaussian means of the logits along the slice normal, weighted by distance in mm, in the same
    series.

    Weights fall as exp(-d^2 / (2 w^2)) and are cut at 3 w or 12 slices; a NaN logit has no weight.
    The slice itself counts.

    Returns (n, c * len(widths_mm)) float32 and its names: "any_smooth5mm". A series without any
    logit: NaN.
    """
    columns = _gaussian_means(slices, logits, widths_mm)
    return stack_columns(columns, len(logits)), [
        f"{name}_smooth{width:g}mm" for width in widths_mm for name in names
    ]


def best_smooth_features(slices, logits, names):
    """The Gaussian mean of each label at its own width BEST_MM, (n, c) float32, and the names:
    "any_smooth_best".
    """
    columns = [
        _gaussian_means(slices, logits[:, [j]], [BEST_MM[name]])[0] for j, name in enumerate(names)
    ]
    return stack_columns(columns, len(logits)), [f"{name}_smooth_best" for name in names]


def stack_columns(columns, rows):
    """Return arrays (n, c) side by side, float32 (n, sum of c), each column in one piece of memory;
    `rows` is n.
    """
    return np.concatenate(
        [np.empty((0, rows), np.float32), *(part.T for part in columns)], dtype=np.float32
    ).T


def _gaussian_means(slices, logits, widths_mm):
    """Return one array (n, c) a width."""
    rows, position = len(logits), np.asarray(slices["position_mm"])
    known = ~np.isnan(logits.T)
    value = np.where(known, logits.T, 0).astype(np.float64)
    if (known == known[:1]).all():  # nearly always: a slice is readable or not, for all labels
        known = known[:1]
    total = [np.zeros(value.shape) for _ in widths_mm]
    weight = [np.zeros(known.shape) for _ in widths_mm]
    for step in range(-FURTHEST, FURTHEST + 1):
        here, there = _overlap(rows, step)
        # so that no rounding decides about the cut
        distance = np.round(position[there] - position[here], 3)
        distance[outside(slices, step)[here]] = np.inf
        for width, sums, weights in zip(widths_mm, total, weight, strict=True):
            near = np.abs(distance) <= 3 * width
            if near.any():
                w = np.exp(-0.5 * (np.where(near, distance, 0) / width) ** 2) * near
                sums[:, here] += w * value[:, there]
                weights[:, here] += w * known[:, there]
    with np.errstate(invalid="ignore"):
        return [
            (sums / weights).T.astype(np.float32)
            for sums, weights in zip(total, weight, strict=True)
        ]


def _overlap(rows, step):
    """Return which of `rows` rows have another `step` rows on, and which rows those are, as
    Python's slices.
    """
    low = max(0, -step)
    high = max(low, rows - max(0, step))
    return slice(low, high), slice(low + step, high + step)
