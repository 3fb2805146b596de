"""Platt's calibration: a probability as a logistic function of a logit.

Platt, Probabilistic outputs for support vector machines (1999), with his smoothed targets. The slope is kept at 0 or above,
so that calibration never turns an opinion around, and is drawn to 1 by a prior that weighs a row or two: without it, the
nearly constant logits of a hardly trained CNN get slopes in the hundreds.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

SLOPE_SPREAD = 0.5  # standard deviation of the Gaussian prior of the slope, around 1


class Platt(NamedTuple):
    """calibrated logit = slope * logit + intercept; `prior`, a logit, where there is no opinion."""

    slope: float
    intercept: float
    prior: float

    def logit(self, raw):
        """Return calibrated logits, float64, of raw logits of any shape; NaN becomes the prior."""
        raw = np.asarray(raw, np.float64)
        return np.where(np.isnan(raw), self.prior, self.slope * raw + self.intercept)


def smoothed_prior(y):
    """Return the share of positives of y (n,) of 0 and 1, smoothed as Laplace did: never 0 or 1."""
    return float((np.sum(y) + 1) / (len(y) + 2))


def fit_platt(raw, y):
    """Fit Platt's calibration of raw logits (n,) to labels y (n,) of 0 and 1; rows without an opinion (NaN) are left out.

    Where all labels are the same, the slope is 0: everything gets the smoothed prior.
    """
    prior = float(logit(smoothed_prior(y)))
    known = ~np.isnan(raw)
    x, y = np.asarray(raw, np.float64)[known], np.asarray(y, np.float64)[known]
    positives, negatives = y.sum(), (1 - y).sum()
    if positives == 0 or negatives == 0:
        return Platt(0.0, prior, prior)
    target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(weights):
        z = weights[0] * x + weights[1]
        residual, off = expit(z) - target, (weights[0] - 1) / SLOPE_SPREAD
        penalty, slope = off**2 / 2 / len(x), off / SLOPE_SPREAD / len(x)
        return np.mean(np.logaddexp(0, z) - target * z) + penalty, np.array([np.mean(residual * x) + slope, np.mean(residual)])

    best = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    return Platt(float(best.x[0]), float(best.x[1]), prior)


def cross_fit(raw, y, fold, folds):
    """Return the calibrated logits (n,) of every row, by the Platt fitted on the labelled rows of the other folds.

    raw: (n,) logits; y: (n,) 0, 1 or NaN where unlabelled; fold: (n,) 0 ... folds-1
    Returns (calibrated, platts): one Platt per fold, fitted without it.
    """
    calibrated, platts = np.full(len(raw), np.nan), []
    for k in range(folds):
        fit = (fold != k) & ~np.isnan(y)
        platts.append(fit_platt(raw[fit], y[fit]))
        calibrated[fold == k] = platts[k].logit(raw[fold == k])
    return calibrated, platts
