"""Platt's calibration: a probability as a logistic function of a logit.

Platt, Probabilistic outputs for support vector machines (1999), with his smoothed targets. The
slope is 0 or above, so that calibration never reverses the order, and a prior that weighs as much
as a row or two pulls it to 1. Without the prior, the nearly constant logits of a hardly trained CNN
get slopes in the hundreds.

An overconfident CNN predicts exactly 0 for half its slices. Where such probabilities are imported,
clipping puts all of these on one logit, the floor. Where a share of the rows lies on the floor,
calibration moves them down by a step, which is fitted with the slope. Logits have no floor. Beta
calibration (Kull et al., AISTATS 2017) has two slopes instead of the step. For such a CNN it is no
better than Platt's calibration, and the step is better: benchmarks/stacking/calibration.py.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

# standard deviation of the Gaussian priors: of the slope around 1, of the step around 0
SPREAD = 0.5
FLOOR_SHARE = 0.01  # least share of the rows that makes a floor
# logits this close to the smallest lie on the floor too: a mean of equal ones is off by rounding
FLOOR_HEIGHT = 1e-3


class Platt(NamedTuple):
    """calibrated logit = slope * logit + intercept, minus `step` for a logit on the floor."""

    slope: float
    intercept: float
    prior: float  # the calibrated logit of a slice without a prediction (NaN)
    floor: float | None = None  # None where too few rows share the smallest logit
    step: float = 0.0  # 0 or above, so that the order stays

    def logit(self, raw: ArrayLike) -> NDArray[np.float64]:
        """Return calibrated logits of raw logits of any shape; NaN becomes the prior."""
        raw = np.asarray(raw, np.float64)
        line = self.slope * raw + self.intercept
        if self.floor is not None:
            line = line - self.step * (raw <= self.floor)
        return np.where(np.isnan(raw), self.prior, line)


def smoothed_prior(y: NDArray[Any]) -> float:
    """Return the Laplace-smoothed share of positives of y (n,) of 0 and 1: never 0 or 1."""
    return float((np.sum(y) + 1) / (len(y) + 2))


def fit_platt(raw: NDArray[Any], y: NDArray[Any], clipped: bool = True) -> Platt:
    """Fit Platt's calibration of raw logits (n,) to labels y (n,) of 0 and 1.

    clipped: whether the logits may lie on a floor; those that a CNN gives do not

    Rows without a prediction (NaN) are left out. Where all labels are the same, the slope is 0:
    every row gets the smoothed prior.
    """
    prior = float(logit(smoothed_prior(y)))
    known = ~np.isnan(raw)
    x, y = np.asarray(raw, np.float64)[known], np.asarray(y, np.float64)[known]
    positives, negatives = y.sum(), (1 - y).sum()
    if positives == 0 or negatives == 0:
        return Platt(0.0, prior, prior)
    target = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    floor = find_floor(x) if clipped else None
    terms = x[:, None] if floor is None else np.column_stack([x, -1.0 * (x <= floor)])
    slope, *step, intercept = _fit(terms, target, np.array([1.0, 0.0])[: terms.shape[1]])
    return Platt(slope, intercept, prior, floor, *step)


def find_floor(x: NDArray[np.float64]) -> float | None:
    """Return the highest logit that is on the floor of x (n,), or None where it has no floor."""
    floor = float(x.min()) + FLOOR_HEIGHT
    return floor if FLOOR_SHARE <= np.mean(x <= floor) < 1 else None


def _fit(
    terms: NDArray[np.float64], target: NDArray[np.float64], expected: NDArray[np.float64]
) -> list[float]:
    """Fit a logistic regression: terms (n, c) on targets (n,) in (0, 1).

    Returns the c weights, 0 or above and pulled to `expected` (c,), then the intercept.
    """
    n = len(target)

    def loss(weights: NDArray[np.float64]) -> tuple[Any, Any]:
        z, off = terms @ weights[:-1] + weights[-1], (weights[:-1] - expected) / SPREAD
        residual = expit(z) - target
        gradient = np.append(terms.T @ residual + off / SPREAD, residual.sum())
        return np.mean(np.logaddexp(0, z) - target * z) + off @ off / 2 / n, gradient / n

    bounds = [(0.0, None)] * len(expected) + [(None, None)]
    optimum = minimize(loss, np.append(expected, 0.0), jac=True, method="L-BFGS-B", bounds=bounds)
    weights: list[float] = optimum.x.tolist()
    return weights


def cross_fit(
    raw: NDArray[Any], y: NDArray[Any], fold: NDArray[Any], folds: int, clipped: bool = True
) -> tuple[NDArray[np.float64], list[Platt]]:
    """Calibrate every row by the Platt that is fitted on the labelled rows of the other folds.

    raw: (n,) logits; y: (n,) 0, 1 or NaN where unlabelled; fold: (n,) 0 ... folds-1; clipped: as
    in `fit_platt`

    Returns (calibrated logits (n,), platts): one Platt per fold, fitted without it.
    """
    calibrated, platts = np.full(len(raw), np.nan), []
    for k in range(folds):
        fit = (fold != k) & ~np.isnan(y)
        platts.append(fit_platt(raw[fit], y[fit], clipped))
        calibrated[fold == k] = platts[k].logit(raw[fold == k])
    return calibrated, platts
