"""Probabilities of whole studies: the calibrated mean of a study's three largest slice logits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from ct.labels import LABELS
from stage2_stack.calibration import Platt
from stage2_stack.patient_calibration import fit_calibration

TOP = 3  # slices of a study whose logits are averaged


def top_logits(study: NDArray[Any], probs: NDArray[Any], clip: float) -> pd.DataFrame:
    """Return the mean of the TOP largest logits of each label in each study.

    study: (n,) the study of each slice; probs: (n, 6) probabilities in [0, 1], columns LABELS;
    clip: how far they are clipped from 0 and 1

    Returns a table (s, 6), indexed by study, sorted. A study of fewer slices: the mean of all.
    """
    p = np.clip(np.asarray(probs, np.float64), clip, 1 - clip)
    studies, code = np.unique(np.asarray(study), return_inverse=True)
    sizes, means = np.bincount(code), {}
    for label, logits in zip(LABELS, np.log(p / (1 - p)).T, strict=True):
        order = np.lexsort([logits, code])  # study after study, the largest last
        top = order[np.cumsum(sizes)[code[order]] - np.arange(len(order)) <= TOP]
        sums = np.bincount(code[top], logits[top], minlength=len(sizes))
        means[label] = sums / np.minimum(sizes, TOP)
    return pd.DataFrame(means, index=studies)


def fit_studies(
    study: NDArray[Any],
    probs: NDArray[Any],
    y: NDArray[Any],
    fold: NDArray[Any],
    clip: float,
    clipped: bool = True,
    patients: NDArray[Any] | None = None,
) -> tuple[dict[str, Platt], pd.DataFrame]:
    """Calibrate whole studies on slices whose probabilities are out of fold, as slices are.

    study: (n,); probs: (n, 6) out of fold, in [0, 1]; y: (n, 6) 0, 1, or NaN in unlabelled slices;
    fold: (n,) 0 ... K-1, which splits no patient and so no study; clipped, patients (n,):
    as in `fit_calibration`

    Returns (platts, table). platts: {label: Platt}, fitted on all studies, as the slices'
    probabilities are out of fold. table: one row for each study whose slices are all labelled, or,
    where there is none, for each with a labelled slice: LABELS, 1 where a slice is positive, else
    0; `fold`; and LABELS with "p_" before them, probabilities by calibrations that are fitted on
    the other folds.
    """
    known = ~np.isnan(y).any(axis=1)
    # a study may bleed where it is not labelled
    whole = pd.Series(known).groupby(np.asarray(study)).transform("all").to_numpy(bool)
    known = whole if whole.any() else known
    study, fold = np.asarray(study)[known], np.asarray(fold)[known]
    raw = top_logits(study, probs[known], clip)
    truth = pd.DataFrame(y[known], columns=list(LABELS)).groupby(study, sort=True).max()
    of_study = pd.Series(fold).groupby(study, sort=True).first()
    by = None
    if patients is not None:
        by = pd.Series(np.asarray(patients)[known]).groupby(study, sort=True).first().to_numpy()
    platts, table = {}, truth.assign(fold=of_study)
    for label in LABELS:
        x, positive = raw[label].to_numpy(), truth[label].to_numpy()
        platts[label] = fit_calibration(x, positive, by, clipped)
        table[f"p_{label}"] = expit(_cross_fit(x, positive, of_study.to_numpy(), by, clipped))
    return platts, table


def _cross_fit(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    fold: NDArray[Any],
    patients: NDArray[Any] | None,
    clipped: bool,
) -> NDArray[np.float64]:
    """Return the logits (s,) of studies, each by the calibration of the other folds' studies."""
    crossed = np.empty(len(x))
    for k in np.unique(fold):
        held_out = fold == k
        others = None if patients is None else patients[~held_out]
        platt = fit_calibration(x[~held_out], y[~held_out], others, clipped)
        crossed[held_out] = platt.logit(x[held_out])
    return crossed


def study_probabilities(
    study: NDArray[Any], probs: NDArray[Any], platts: Mapping[str, Platt], clip: float
) -> pd.DataFrame:
    """Return the probabilities of whole studies, a table (s, 6) indexed by study, sorted.

    study, probs, clip: as in `top_logits`; platts: {label: Platt}
    """
    raw = top_logits(study, probs, clip)
    return pd.DataFrame(
        {label: expit(platts[label].logit(raw[label])) for label in LABELS}, index=raw.index
    )
