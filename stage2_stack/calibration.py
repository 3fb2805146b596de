"""Platt's calibration: a probability as a logistic function of a logit.

Platt, Probabilistic outputs for support vector machines (1999), with his smoothed targets. The
slope is kept at 0 or above, so that calibration never turns an opinion around, and is drawn to 1 by
a prior that weighs a row or two: without it, the nearly constant logits of a hardly trained CNN get
slopes in the hundreds.

A CNN that is too sure of itself says exactly 0 of half its slices, and clipping puts these on one
logit, the floor, however far below it they belong. Where a share of the rows lies there,
calibration sets them further down by a step that is fitted with the slope. Beta calibration (Kull
et al., AISTATS 2017), which has two slopes in place of the step, is no better than Platt's on such
a CNN, and the step is: benchmarks/stacking/calibration.py.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

# standard deviation of the Gaussian priors: of the slope around 1, of the step around 0
SPREAD = 0.5
FLOOR_SHARE = 0.01  # of the rows, that the floor must hold
# logits so close above the smallest lie on the floor, too: a mean of equal ones is off by rounding
FLOOR_HEIGHT = 1e-3


class Platt(NamedTuple):
    """calibrated logit = slope * logit + intercept, less `step` up to `floor`; `prior`, a logit,
    where there is no opinion.
    """

    slope: float
    intercept: float
    prior: float
    floor: float | None = None  # None where too few rows share the smallest logit
    step: float = 0.0  # 0 or above: the order stays

    def logit(self, raw):
        """Return calibrated logits, float64, of raw logits of any shape; NaN becomes the prior."""
        raw = np.asarray(raw, np.float64)
        line = self.slope * raw + self.intercept
        if self.floor is not None:
            line = line - self.step * (raw <= self.floor)
        return np.where(np.isnan(raw), self.prior, line)


def smoothed_prior(y):
    """Return the share of positives of y (n,) of 0 and 1, smoothed as Laplace did: never 0 or 1."""
    return float((np.sum(y) + 1) / (len(y) + 2))


def fit_platt(raw, y):
    """Fit Platt's calibration of raw logits (n,) to labels y (n,) of 0 and 1; rows without an
    opinion (NaN) are left out.

    Where all labels are the same, the slope is 0: everything gets the smoothed prior.
    """
    prior = float(logit(smoothed_prior(y)))
    known = ~np.isnan(raw)
    x, y = np.asarray(raw, np.float64)[known], np.asarray(y, np.float64)[known]
    positives, negatives = y.sum(), (1 - y).sum()
    if positives == 0 or negatives == 0:
        return Platt(0.0, prior, prior)
    target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    floor = _floor(x)
    terms = x[:, None] if floor is None else np.column_stack([x, -1.0 * (x <= floor)])
    slope, *step, intercept = _fit(terms, target, np.array([1.0, 0.0])[: terms.shape[1]])
    return Platt(slope, intercept, prior, floor, *step)


def _floor(x):
    """Return the highest logit that lies on the floor of x (n,), or None where it has none."""
    floor = float(x.min()) + FLOOR_HEIGHT
    return floor if FLOOR_SHARE <= np.mean(x <= floor) < 1 else None


def _fit(terms, target, expected):
    """Return c weights, 0 or above and drawn to `expected` (c,), of terms (n, c), then the
    intercept: a logistic regression on targets (n,) in (0, 1).
    """
    n = len(target)

    def loss(weights):
        z, off = terms @ weights[:-1] + weights[-1], (weights[:-1] - expected) / SPREAD
        residual = expit(z) - target
        gradient = np.append(terms.T @ residual + off / SPREAD, residual.sum())
        return np.mean(np.logaddexp(0, z) - target * z) + off @ off / 2 / n, gradient / n

    bounds = [(0, None)] * len(expected) + [(None, None)]
    return minimize(
        loss, np.append(expected, 0.0), jac=True, method="L-BFGS-B", bounds=bounds
    ).x.tolist()


def cross_fit(raw, y, fold, folds):
    """Return the calibrated logits (n,) of every row, by the Platt fitted on the labelled rows of
    the other folds.

    raw: (n,) logits; y: (n,) 0, 1 or NaN where unlabelled; fold: (n,) 0 ... folds-1
    Returns (calibrated, platts): one Platt per fold, fitted without it.
    """
    calibrated, platts = np.full(len(raw), np.nan), []
    for k in range(folds):
        fit = (fold != k) & ~np.isnan(y)
        platts.append(fit_platt(raw[fit], y[fit]))
        calibrated[fold == k] = platts[k].logit(raw[fold == k])
    return calibrated, platts
