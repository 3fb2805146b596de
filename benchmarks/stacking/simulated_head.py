"""The last layer of a simulated CNN: six noisy evidences per slice to six probabilities.

Each output is a ridge logistic regression on all six evidences of that CNN in that slice and on the
height, with hinges so that it bends where the evidence does. It is fitted by Newton's method on the
other folds: the prediction for a patient never depends on the patient's own labels.
"""

import numpy as np
from scipy.special import expit, logit

# quantiles of the label's own evidence where its line may bend
OWN_KNOTS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.993)
OTHER_KNOT = 0.95  # and of another label's
RIDGE = 3.0  # on every weight but the intercept, in units of standardised columns


def fit_head(evidence, y, fold, height):
    """Return probabilities (n, L) of one CNN, those of fold k by heads fitted on the other folds.

    evidence: (n, L) of any scale; y: (n, L) of 0 and 1; fold: (n,) 0 ... K-1; height: (n,) in [0,
    1], lowest slice 0
    """
    probs = np.empty(y.shape)
    for label in range(y.shape[1]):
        columns = design(evidence, height, label)
        for k in np.unique(fold):
            fit = fold != k
            weights = logistic_weights(columns[fit], y[fit, label])
            probs[~fit, label] = expit(columns[~fit] @ weights)
    return probs


def design(evidence, height, label):
    """Return the columns (n, m) of the head of `label`.

    The first is 1, the others have mean 0 and spread 1. Knots and scales come from the evidence of
    all rows, never from labels.
    """
    columns = [height, height**2]
    for other, e in enumerate(evidence.T):
        knots = OWN_KNOTS if other == label else (OTHER_KNOT,)
        columns += [e, *(np.maximum(e - np.quantile(e, knot), 0) for knot in knots)]
    columns = np.column_stack(columns)
    columns = (columns - columns.mean(axis=0)) / np.maximum(columns.std(axis=0), 1e-9)
    return np.column_stack([np.ones(len(columns)), columns])


def logistic_weights(x, y, most=25, tolerance=1e-4):
    """Return the weights (m,) of a ridge logistic regression of y (n,) on x (n, m).

    The first column is the intercept.
    """
    penalty = np.full(x.shape[1], RIDGE)
    penalty[0] = 1e-6
    weights = np.zeros(x.shape[1])
    weights[0] = logit((y.sum() + 1) / (len(y) + 2))
    best = _objective(x, y, weights, penalty)
    for _ in range(most):
        p = expit(x @ weights)
        slope = x.T @ (p - y) + penalty * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curvature, slope)
        # halve the step until it helps: Newton's overshoots far from the optimum
        for _ in range(20):
            value = _objective(x, y, weights - step, penalty)
            if value <= best:
                break
            step = step / 2
        weights, gained, best = weights - step, best - value, value
        if gained < tolerance:  # of a loss summed over the rows
            break
    return weights


def _objective(x, y, weights, penalty):
    z = x @ weights
    return np.sum(np.logaddexp(0, z) - y * z) + penalty @ weights**2 / 2
