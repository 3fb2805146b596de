"""What the whole study says: its largest logits, mean, spread and peak; and what the patient's
other studies say.
"""

import numpy as np
import pandas as pd

from features.neighbours import stack_columns
from features.series import series_starts, study_starts

STUDY_KINDS = (
    "study_max",
    "study_mean",
    "study_std",
    "study_top3",
    "study_share",
    "peak_mm",
    "peak_away_mm",
    "peak_rel",
)
OTHER_KINDS = ("others_max", "others_top3")


def study_features(slices, logits, names):
    """Summaries of the logits over each slice's study, the same for all slices of a study but for
    the distance to the peak.

    slices: (n rows) the slice table, sorted by study
    logits: (n, c) float32, NaN where unknown

    Returns (n, 8 * c) float32 and its names, c columns for each of STUDY_KINDS: largest, mean,
    spread, mean of the three largest, share of slices above 0 (a probability of one half), distance
    from the peak in mm, signed and not, and the peak's height in its series (0 lowest slice, 1
    highest). A study without any logit: NaN.
    """
    starts, columns = study_starts(slices), logits.T
    sizes = np.diff(np.append(starts, len(logits)))
    known = ~np.isnan(columns)
    count = _sum(known, starts)
    with np.errstate(invalid="ignore"):
        mean = _sum(np.where(known, columns, 0), starts) / count
        off = np.where(known, columns - np.repeat(mean, sizes, axis=1), 0)
        std = np.sqrt(_sum(off**2, starts) / count)
        share = _sum(columns > 0, starts) / count
    largest, top, peak = _top(columns, starts, sizes)
    flat = np.concatenate([largest, mean, std, top, share]).astype(np.float32)
    position = np.asarray(slices["position_mm"])
    peak = np.where(count > 0, peak, 0)  # of a study without any logit: any row, and NaN below
    from_peak = position - np.repeat(np.where(count > 0, position[peak], np.nan), sizes, axis=1)
    height = np.where(count > 0, relative_height(slices)[peak], np.nan)
    parts = [
        np.repeat(flat, sizes, axis=1),
        from_peak,
        np.abs(from_peak),
        np.repeat(height, sizes, axis=1),
    ]
    return stack_columns([part.T for part in parts], len(logits)), [
        f"{name}_{kind}" for kind in STUDY_KINDS for name in names
    ]


def other_study_features(slices, logits, names):
    """The largest logit in the patient's other studies of the same split, and the largest of their
    top-3 means.

    slices: (n rows) the slice table, sorted by study; a patient's studies may lie anywhere in it
    Returns (n, 2 * c) float32 and its names: "any_others_max", "any_others_top3". No other study,
    or none with a logit: NaN.
    """
    starts = study_starts(slices)
    sizes = np.diff(np.append(starts, len(logits)))
    largest, top, _ = _top(logits.T, starts, sizes)
    patient = pd.factorize(np.asarray(slices["patient_id"])[starts])[0]
    split = pd.factorize(np.asarray(slices["split"])[starts])[0]
    group = patient * 2 + split
    order = np.argsort(group, kind="stable")
    said, heard = (
        np.concatenate([largest, top]),
        np.full((2 * len(largest), len(starts)), np.nan, np.float32),
    )
    for distance in range(1, np.bincount(group).max() if len(group) else 0):
        pairs = np.flatnonzero(group[order[distance:]] == group[order[:-distance]])
        one, two = order[pairs], order[pairs + distance]
        for own, other in ((one, two), (two, one)):  # one after the other: a study may be in both
            heard[:, own] = np.fmax(heard[:, own], said[:, other])
    return np.repeat(heard, sizes, axis=1).T, [
        f"{name}_{kind}" for kind in OTHER_KINDS for name in names
    ]


def relative_height(slices):
    """Return the height of each slice in its series, (n,): 0 lowest, 1 highest; NaN where the
    series has no height.
    """
    position = np.asarray(slices["position_mm"])
    first, end = series_starts(slices)
    low, high = position[first], position[end - 1]
    return (position - low) / np.where(high > low, high - low, np.nan)


def _top(columns, starts, sizes):
    """Return the largest (c, s), the mean of the three largest (c, s) and the row of the largest,
    the lowest if several.
    """
    left = columns.astype(np.float32)
    row, best, rows = np.arange(left.shape[1]), [], []
    for _ in range(3):
        best.append(np.fmax.reduceat(left, starts, axis=1) if len(starts) else left)
        at = np.where(left == np.repeat(best[-1], sizes, axis=1), row, len(row))
        rows.append(np.minimum.reduceat(at, starts, axis=1) if len(starts) else at)
        label, study = np.nonzero(rows[-1] < len(row))
        left[label, rows[-1][label, study]] = np.nan
    found = ~np.isnan(best)
    with np.errstate(invalid="ignore"):
        return best[0], np.where(found, best, 0).sum(axis=0) / found.sum(axis=0), rows[0]


def _sum(columns, starts):
    """Return the sums (c, s) of columns (c, n) over each study."""
    return (
        np.add.reduceat(columns, starts, axis=1, dtype=np.float64)
        if len(starts)
        else np.zeros((len(columns), 0))
    )
