"""Summaries of the logits over the whole study, and over the patient's other studies."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from features.neighbours import Features, stack_columns
from features.series import SliceTable, series_bounds, study_starts

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


def study_features(
    slices: SliceTable, logits: NDArray[np.float32], labels: Sequence[str]
) -> Features:
    """Return summaries of the logits over each slice's study.

    slices: (n rows) the slice table, sorted by study
    logits: (n, c) float32, NaN where unknown

    Returns (n, 8 * c) float32 and names, c columns for each of STUDY_KINDS: maximum, mean, standard
    deviation, mean of the three largest, share of slices above 0 (a probability of one half),
    distance from the peak (the slice with the maximum) in mm, signed and absolute, and the peak's
    relative height in its series. All but the distances are the same for all slices of a study.
    NaN for a study without any logit.
    """
    starts, columns = study_starts(slices), logits.T  # (s,), (c, n)
    sizes = np.diff(np.append(starts, len(logits)))
    known = ~np.isnan(columns)
    count = _study_sums(known, starts)
    with np.errstate(invalid="ignore"):
        mean = _study_sums(np.where(known, columns, 0), starts) / count
        centred = np.where(known, columns - np.repeat(mean, sizes, axis=1), 0)
        std = np.sqrt(_study_sums(centred**2, starts) / count)
        share = _study_sums(columns > 0, starts) / count
    largest, top3, peak = _top_three(columns, starts, sizes)
    constant = np.concatenate([largest, mean, std, top3, share]).astype(np.float32)
    position = np.asarray(slices["position_mm"])
    peak = np.where(count > 0, peak, 0)  # any row where a study has no logit; NaN is set below
    peak_mm = np.where(count > 0, position[peak], np.nan)
    height = np.where(count > 0, relative_height(slices)[peak], np.nan)
    from_peak = position - np.repeat(peak_mm, sizes, axis=1)
    parts = [
        np.repeat(constant, sizes, axis=1),
        from_peak,
        np.abs(from_peak),
        np.repeat(height, sizes, axis=1),
    ]
    names = [f"{label}_{kind}" for kind in STUDY_KINDS for label in labels]
    return stack_columns([part.T for part in parts], len(logits)), names


def other_study_features(
    slices: SliceTable, logits: NDArray[np.float32], labels: Sequence[str]
) -> Features:
    """Return the largest logit and the largest top-3 mean in the patient's other studies.

    slices: (n rows) the slice table, sorted by study; a patient's studies may lie anywhere in it.
    Only studies of the same split count.

    Returns (n, 2 * c) float32 and names: "any_others_max", "any_others_top3". NaN where the patient
    has no other study, or none with a logit.
    """
    starts = study_starts(slices)
    sizes = np.diff(np.append(starts, len(logits)))
    largest, top3, _ = _top_three(logits.T, starts, sizes)
    summaries = np.concatenate([largest, top3])  # (2 c, s)
    patient = pd.factorize(np.asarray(slices["patient_id"])[starts])[0]
    split = pd.factorize(np.asarray(slices["split"])[starts])[0]
    group = patient * 2 + split
    order = np.argsort(group, kind="stable")
    others = np.full(summaries.shape, np.nan, np.float32)
    for distance in range(1, np.bincount(group).max() if len(group) else 0):
        pairs = np.flatnonzero(group[order[distance:]] == group[order[:-distance]])
        one, two = order[pairs], order[pairs + distance]
        # two statements, since one study may be in both `one` and `two`
        others[:, one] = np.fmax(others[:, one], summaries[:, two])
        others[:, two] = np.fmax(others[:, two], summaries[:, one])
    names = [f"{label}_{kind}" for kind in OTHER_KINDS for label in labels]
    return np.repeat(others, sizes, axis=1).T, names


def relative_height(slices: SliceTable) -> NDArray[np.float64]:
    """Return the height of each slice in its series, (n,): 0 the lowest slice, 1 the highest.

    NaN where all slices of the series share one position.
    """
    position = np.asarray(slices["position_mm"])
    first, end = series_bounds(slices)
    low, high = position[first], position[end - 1]
    return (position - low) / np.where(high > low, high - low, np.nan)


def _top_three(
    columns: NDArray[np.floating], starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Return, for each study, the largest value, the mean of the three largest, and the peak's row.

    columns: (c, n); starts, sizes: (s,). Returns (c, s) each; the lowest row where several are
    largest.
    """
    remaining = columns.astype(np.float32)
    row = np.arange(remaining.shape[1])
    best, best_rows = [], []
    for _ in range(3):
        if len(starts):
            best.append(np.fmax.reduceat(remaining, starts, axis=1))
        else:
            best.append(remaining)
        at = np.where(remaining == np.repeat(best[-1], sizes, axis=1), row, len(row))
        best_rows.append(np.minimum.reduceat(at, starts, axis=1) if len(starts) else at)
        label, study = np.nonzero(best_rows[-1] < len(row))
        remaining[label, best_rows[-1][label, study]] = np.nan
    known = ~np.isnan(best)
    with np.errstate(invalid="ignore"):
        top3 = np.where(known, best, 0).sum(axis=0) / known.sum(axis=0)
    return best[0], top3, best_rows[0]


def _study_sums(columns: NDArray, starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the sums (c, s) of columns (c, n) over each study."""
    if not len(starts):
        return np.zeros((len(columns), 0))
    return np.add.reduceat(columns, starts, axis=1, dtype=np.float64)
