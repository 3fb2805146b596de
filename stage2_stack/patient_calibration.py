"""Calibration of logits in which a patient counts as one observation, not each of the slices.

The slices of a patient are alike: three positive patients with sixty positive slices say as much of
a CNN's calibration as three slices do. The likelihood of all rows is therefore divided by the mean
number of positive slices of a positive patient (the design effect: Kish, Survey Sampling, 1965),
and Gaussian priors pull the line to the logits as they are: to slope 1 and intercept 0. With
hundreds of positive patients it is Platt's calibration.

With fewer than MANY positive patients even a pulled line may harm: the CNN of a fold learnt the
prevalence of the other folds, so the errors of the folds are opposed. Out of the logits as they
are, logits with an intercept, and the whole line, the simplest is therefore chosen that no other
beats beyond doubt, on inner folds over patients.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import t

from stage2_stack.calibration import Platt, find_floor, fit_platt, smoothed_prior

# standard deviations of the Gaussian priors: of the slope around 1, of the intercept and of the
# step at the floor around 0
SPREADS = {"slope": 0.5, "intercept": 1.0, "step": 0.5}
MANY = 50  # positive patients from which on the whole line is taken without a choice
INNER_FOLDS = 10  # of the choice, at most
CONFIDENCE = 0.975  # that a richer calibration gains, by Student's t
AS_IT_IS, SHIFTED, LINE = "as it is", "shifted", "line"

Floats = NDArray[np.float64]


class _Rows(NamedTuple):
    """The rows that a calibration is fitted on: logits, labels of 0 and 1, patients' numbers."""

    x: Floats
    y: Floats
    patient: NDArray[np.int_]

    def at(self, rows: NDArray[np.bool_]) -> "_Rows":
        return _Rows(self.x[rows], self.y[rows], self.patient[rows])

    def positive_patients(self) -> int:
        return len(np.unique(self.patient[self.y == 1]))


def fit_calibration(
    raw: NDArray[Any], y: NDArray[Any], patients: NDArray[Any] | None, clipped: bool = True
) -> Platt:
    """Fit the calibration of raw logits (n,) to labels y (n,) of 0 and 1.

    patients: (n,) the patient of each row, which counts as one observation; None: each row counts
    as one, as in `fit_platt`; clipped: as there

    Rows without a prediction (NaN) are left out. Where all labels are the same, the logits stay as
    they are: nothing is known of how they separate positives from negatives.
    """
    if patients is None:
        return fit_platt(raw, y, clipped)
    prior = float(logit(smoothed_prior(y)))
    known = ~np.isnan(raw)
    _, patient = np.unique(np.asarray(patients)[known], return_inverse=True)
    rows = _Rows(np.asarray(raw, np.float64)[known], np.asarray(y, np.float64)[known], patient)
    if not 0 < rows.y.sum() < len(rows.y):
        return Platt(1.0, 0.0, prior)
    kind = LINE if rows.positive_patients() >= MANY else choose_kind(rows, clipped)
    return _fit_kind(rows, kind, clipped)._replace(prior=prior)


def choose_kind(rows: _Rows, clipped: bool) -> str:
    """Return AS_IT_IS, SHIFTED or LINE: the simplest that none beats beyond doubt."""
    fold = _patient_folds(rows)
    losses = {kind: np.empty(len(rows.y)) for kind in (AS_IT_IS, SHIFTED, LINE)}
    for j in np.unique(fold):
        fit, held_out = rows.at(fold != j), rows.at(fold == j)
        for kind, loss in losses.items():
            one_class = not 0 < fit.y.sum() < len(fit.y)
            platt = _fit_kind(fit, AS_IT_IS if one_class else kind, clipped)
            z = platt.logit(held_out.x)
            loss[fold == j] = np.logaddexp(0, z) - held_out.y * z
    # the positive patients are the observations: there are fewer of them than of the others
    doubt = t.ppf(CONFIDENCE, max(rows.positive_patients() - 1, 1))  # standard errors
    best = AS_IT_IS
    for kind in (SHIFTED, LINE):
        gain = np.bincount(rows.patient, losses[best] - losses[kind])  # of each patient
        error = np.sqrt(len(gain) / max(len(gain) - 1, 1) * np.sum((gain - gain.mean()) ** 2))
        if gain.sum() > doubt * error:
            best = kind
    return best


def _patient_folds(rows: _Rows) -> NDArray[np.int_]:
    """Return the inner fold (n,) of each row; positive patients are spread evenly."""
    positive = np.bincount(rows.patient, rows.y) > 0
    order = np.lexsort([np.arange(len(positive)), ~positive])
    fold = np.empty(len(order), int)
    fold[order] = np.arange(len(order)) % INNER_FOLDS
    return np.asarray(fold[rows.patient])


def _fit_kind(rows: _Rows, kind: str, clipped: bool) -> Platt:
    """Fit a calibration of one kind, without its prior for rows that have no logit."""
    floor = find_floor(rows.x) if clipped and kind == LINE else None
    terms, names = np.column_stack([rows.x, np.ones(len(rows.x))]), ["slope", "intercept"]
    if floor is not None:
        terms, names = np.column_stack([terms, -1.0 * (rows.x <= floor)]), [*names, "step"]
    free = {AS_IT_IS: [], SHIFTED: ["intercept"], LINE: names}[kind]
    fitted = dict(zip(names, _pulled_fit(rows, terms, names, free), strict=True))
    return Platt(prior=0.0, floor=floor, **fitted)


def _pulled_fit(rows: _Rows, terms: Floats, names: list[str], free: list[str]) -> list[float]:
    """Return the weights of terms (n, c), as it is but for `free`, by Newton's method.

    All weights but the intercept are 0 or above.
    """
    positives = rows.y.sum()
    share = min(rows.positive_patients() / max(positives, 1.0), 1.0)  # of an observation, a row
    target = np.where(
        rows.y == 1, (positives + 1) / (positives + 2), 1 / (len(rows.y) - positives + 2)
    )
    expected = np.array([1.0 if name == "slope" else 0.0 for name in names])
    precision = np.array([SPREADS[name] ** -2 for name in names])
    lowest = np.array([-np.inf if name == "intercept" else 0.0 for name in names])
    is_free = np.array([name in free for name in names])

    def loss(weights: Floats) -> float:
        z = terms @ weights
        pull = precision @ (weights - expected) ** 2 / 2
        return float(share * np.sum(np.logaddexp(0, z) - target * z) + pull)

    weights = expected
    best = loss(weights)
    for _ in range(30 if free else 0):
        p = expit(terms @ weights)
        slope = share * terms.T @ (p - target) + precision * (weights - expected)
        curvature = share * (terms * (p * (1 - p))[:, None]).T @ terms + np.diag(precision)
        move = is_free & ~((weights <= lowest) & (slope > 0))
        step = np.zeros(len(names))
        step[move] = np.linalg.solve(curvature[np.ix_(move, move)], slope[move])
        for _ in range(20):  # halve the step until it helps
            nearer = np.maximum(weights - step, lowest)
            value = loss(nearer)
            if value <= best:
                break
            step = step / 2
        gained, weights, best = best - value, nearer, value
        if gained < 1e-9:
            break
    return [float(weight) for weight in weights]
