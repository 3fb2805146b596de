"""Opinions of the slices next to a slice, along the slice normal and never across a series."""

import numpy as np


def series_starts(slices):
    """Return the first and one-past-last row of each row's series, int (n,) each; the table is sorted by series and place."""
    first = np.arange(len(slices)) - slices["place"].to_numpy(np.int64)
    return first, first + slices["series_slices"].to_numpy(np.int64)


def shift(values, slices, step):
    """Return the floats `values` (n, c) `step` places above (negative: below) in the same series; NaN past its ends."""
    first, end = series_starts(slices)
    source = np.arange(len(values)) + step
    inside = (source >= first) & (source < end)
    shifted = np.full(values.shape, np.nan, dtype=values.dtype)
    shifted[inside] = values[source[inside]]
    return shifted


def neighbour_features(slices, logits, names, reach):
    """Stage-one logits of the slices within `reach` of each slice, in the same series.

    slices: (n rows) the slice table, sorted by series and `place`, which rises along the slice normal
    logits: (n, c) float32
    names:  the c columns' names

    Returns (n, 2 * c * reach) float32 and its names: "any_z-1" is the slice below, "any_z+2" two above. Past an end: NaN.
    """
    steps = [s for distance in range(1, reach + 1) for s in (-distance, distance)]
    if not steps:
        return np.empty((len(logits), 0), np.float32), []
    columns = np.concatenate([shift(logits, slices, step) for step in steps], axis=1)
    return columns, [f"{name}_z{step:+d}" for step in steps for name in names]


def smooth_features(slices, logits, names, widths_mm):
    """Gaussian means of the logits along the slice normal, weighted by distance in mm, in the same series.

    Weights fall as exp(-d^2 / (2 w^2)) and are cut at 3 w or 12 slices; a NaN logit has no weight. The slice itself counts.

    Returns (n, c * len(widths_mm)) float32 and its names: "any_smooth5mm". A series without any logit: NaN.
    """
    position = slices["position_mm"].to_numpy()[:, None]
    columns = []
    for width in widths_mm:
        total, weight = np.zeros(logits.shape), np.zeros(logits.shape)
        for step in range(-12, 13):
            distance = np.round(shift(position, slices, step) - position, 3)  # so that no rounding decides about the cut
            with np.errstate(under="ignore"):
                w = np.where(np.abs(distance) <= 3 * width, np.exp(-0.5 * (distance / width) ** 2), 0)
            value = shift(logits, slices, step)
            known = ~np.isnan(value)
            total += np.where(known, w * np.where(known, value, 0), 0)
            weight += w * known
        with np.errstate(invalid="ignore"):
            columns.append((total / weight).astype(np.float32))
    if not columns:
        return np.empty((len(logits), 0), np.float32), []
    return np.concatenate(columns, axis=1), [f"{name}_smooth{width:g}mm" for width in widths_mm for name in names]
