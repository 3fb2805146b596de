"""Weights of the CNNs in their mean logit: one convex combination per label, cross-fitted.

The weights are those of a logistic regression on the CNNs' logits whose weights are 0 or above,
divided by their sum. Its priors pull the weights of `any` to equal ones, and those of each subtype
to the weights of `any`: a subtype with few positives can't tell a weak CNN from a strong one. As in
stage2_stack/patient_calibration.py the slices of a positive patient count as one observation.

CNNs that are equally good are best weighted equally: fitted weights only add their own noise. So
weights are fitted only where, on held-out folds of patients, the gain of fitted weights over equal
ones is significant. That is one decision for all rows, since a stacker that is trained on one kind
of mean must not be applied to another: of two CNNs of which one hardly knows anything, the equal
mean has half the logits. This one bit has seen the labels of every fold; the weights of a row have
not seen those of its own. A CNN whose fitted weight of a label is less than half of an equal one is
left out of this label: its columns of noise would harm the boosters, too.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from ct.evaluation.significance import lower_end
from ct.labels import LABELS, WEIGHTS
from ct.system.blas_threads import one_blas_thread

# Standard deviations of the Gaussian priors, of the weights in units of an equal weight 1 / c:
# of `any` around equal weights, first of all CNNs and then of those that are not left out; of a
# subtype around the weights of `any`
SPREAD_ALL, SPREAD_KEPT, SPREAD_SUBTYPE = 10.0, 3.0, 0.3
SPREAD_SLOPE, SPREAD_INTERCEPT = 0.5, 2.0  # of the sum of the weights around 1, the intercept at 0
MIN_SHARE = 0.5  # a CNN with a smaller weight, in units of an equal one, is left out
CONFIDENCE = 0.95  # of the interval of the gain over equal weights

Floats = NDArray[np.float64]
Logits = Mapping[str, NDArray[np.float32]]  # CNN -> logits (n, 6)


class _Combination(NamedTuple):
    """logit = logits of c CNNs @ weights + intercept; the weights need not sum to 1."""

    weights: Floats  # (c,)
    intercept: float

    def loss(self, x: Floats, y: Floats) -> Floats:
        """Return the log loss (n,) of logits x (n, c) and labels y (n,)."""
        z = x @ self.weights + self.intercept
        return np.asarray(np.logaddexp(0, z) - y * z)


def equal_weights(count: int, folds: int) -> Floats:
    """Return equal weights of `count` CNNs, (folds + 1, count, 6)."""
    return np.full((folds + 1, count, len(LABELS)), 1 / count)


def without_left_out(
    logits: Logits, fold: NDArray[np.integer], weights: Floats
) -> dict[str, NDArray[np.float32]]:
    """Return {CNN: logits (n, 6)} that are NaN where the CNN has no weight.

    fold, weights: as in ct.averaging.held_out_mean
    """
    kept = {}
    for i, (name, values) in enumerate(logits.items()):
        left_out = weights[:, i] == 0
        kept[name] = (
            np.where(left_out[fold], np.float32(np.nan), values) if left_out.any() else values
        )
    return kept


def cross_fit_weights(
    logits: Logits,
    y: NDArray[np.floating],
    patients: NDArray[Any],
    fold: NDArray[np.integer],
    folds: int,
) -> Floats:
    """Return the weights of c CNNs, (folds + 1, c, 6): fitted without each fold, and on all rows.

    logits: {CNN: (n, 6)} out of fold; y: (n, 6) 0, 1, or NaN where unlabelled; patients: (n,);
    fold: (n,) 0 ... folds-1, with each patient in one fold

    Rows without labels or without a CNN's logits are left out. All weights are equal where there is
    one CNN, and where the gain of fitted ones on held-out folds is not significant.
    """
    count = len(logits)
    weights = equal_weights(count, folds)
    known = ~np.isnan(y).any(axis=1)
    for values in logits.values():
        known &= ~np.isnan(values).any(axis=1)
    if count == 1 or not known.any():
        return weights
    of_known = {name: values[known] for name, values in logits.items()}
    fits = _Fits(of_known, y[known], patients[known], fold[known], folds)
    if fits.gain_is_significant():
        for k in range(folds + 1):  # no row is in fold `folds`: its weights are fitted on all rows
            weights[k] = fits.weights_without(k)
    return weights


class _Fits:
    """Combinations of all labels, fitted without each fold and on all rows."""

    def __init__(
        self, logits: Logits, y: Floats, patients: NDArray[Any], fold: NDArray[Any], folds: int
    ) -> None:
        self.y, self.patients, self.fold = y, patients, fold
        self.fitted: list[list[Floats]] = [[] for _ in range(folds + 1)]  # without fold k, by label
        # of each row, of fitted weights over equal ones, both fitted without its fold
        self.gain = np.zeros(len(y))
        for j in range(len(LABELS)):
            x = np.column_stack([values[:, j] for values in logits.values()]).astype(np.float64)
            with one_blas_thread():
                self._fit_label(j, x)

    def _fit_label(self, j: int, x: Floats) -> None:
        """Fit label number j on its logits x (n, c) without each fold; add its gains."""
        mean = x.mean(axis=1, keepdims=True)
        for k, fitted in enumerate(self.fitted):
            fit, rows = self.fold != k, self.fold == k
            if not 0 < self.y[fit, j].sum() < fit.sum():
                fitted.append(fitted[0] if j else np.full(x.shape[1], 1 / x.shape[1]))
                continue
            y, patients = self.y[fit, j], self.patients[fit]
            if j:
                weighted = _fit(x[fit], y, patients, fitted[0], SPREAD_SUBTYPE)
            else:
                weighted = _fit_any(x[fit], y, patients)
            equal = _fit(mean[fit], y, patients, np.ones(1), SPREAD_KEPT)
            fitted.append(_convex(weighted.weights))
            losses = [
                each.loss(z[rows], self.y[rows, j]) for each, z in ((equal, mean), (weighted, x))
            ]
            self.gain[rows] += WEIGHTS[j] * (losses[0] - losses[1])

    def gain_is_significant(self) -> bool:
        """Return whether fitted weights gain significantly on held-out folds."""
        if len(np.unique(self.fold)) < 2:
            return False
        seed = len(self.fitted) - 1
        return lower_end(self.gain, self.patients, self.y[:, 0], CONFIDENCE, seed) > 0

    def weights_without(self, k: int) -> Floats:
        """Return the weights (c, 6) that are fitted without fold k."""
        return np.column_stack(self.fitted[k])


def _fit_any(x: Floats, y: Floats, patients: NDArray[Any]) -> _Combination:
    """Fit the weights of `any`: they are pulled to equal ones of the CNNs that are not left out."""
    count = x.shape[1]
    of_all = _fit(x, y, patients, np.full(count, 1 / count), SPREAD_ALL)
    kept = np.flatnonzero(_convex(of_all.weights))
    fitted = _fit(x[:, kept], y, patients, np.full(len(kept), 1 / len(kept)), SPREAD_KEPT)
    weights = np.zeros(count)
    weights[kept] = fitted.weights
    return _Combination(weights, fitted.intercept)


def _fit(
    x: Floats, y: Floats, patients: NDArray[Any], centre: Floats, spread: float
) -> _Combination:
    """Fit a logistic regression of y (n,) on logits x (n, c) whose weights are 0 or above.

    centre: (c,) weights that sum to 1, to which the weights are pulled; spread: of their prior
    """
    count = x.shape[1]
    precision = (count / spread) ** 2
    share = len(np.unique(patients[y == 1])) / y.sum()  # of an observation, a row

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, intercept = parameters[:-1], parameters[-1]
        z, total = x @ weights + intercept, weights.sum()
        off, too_steep = weights - total * centre, (total - 1) / SPREAD_SLOPE
        pull = precision * off @ off + too_steep**2 + (intercept / SPREAD_INTERCEPT) ** 2
        residual = share * (expit(z) - y)
        slope = x.T @ residual + precision * (off - off @ centre) + too_steep / SPREAD_SLOPE
        value = share * np.sum(np.logaddexp(0, z) - y * z) + pull / 2
        return value, np.append(slope, residual.sum() + intercept / SPREAD_INTERCEPT**2)

    optimum = minimize(
        loss,
        np.append(centre, 0.0),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * count + [(None, None)],
    )
    return _Combination(optimum.x[:-1], float(optimum.x[-1]))


def _convex(weights: Floats) -> Floats:
    """Return weights (c,) that are 0 or above divided by their sum; tiny ones become 0.

    Where all are 0, the logits say nothing of the label, and the weights are equal.
    """
    if not weights.sum() > 0:
        return np.full(len(weights), 1 / len(weights))
    shares = weights / weights.sum()
    shares = np.where(shares < MIN_SHARE / len(weights), 0.0, shares)
    return np.asarray(shares / shares.sum())
