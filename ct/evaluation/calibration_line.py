"""Calibration of probabilities: its line on the logit scale, and expected against observed shares.

The line is Cox's: logit of the outcome = intercept + slope * logit of the probability (Cox,
Biometrika 1958). Slope 1 and intercept 0 are perfect; a slope below 1 means too extreme
probabilities.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from ct.metrics import reliability

CLIP = 1e-5  # of probabilities, before their logit
STEPS, SMALL = 100, 1e-10
STEEPEST = 1e3  # a steeper line is that of classes which a threshold separates


def calibration_line(y: NDArray[Any], p: NDArray[Any]) -> tuple[float, float] | None:
    """Return (slope, intercept), fitted by maximum likelihood without a penalty.

    y: (n,) 0 or 1; p: (n,) probabilities. None where y has one class, where all probabilities are
    the same, or where a threshold separates the classes: then no line is the likeliest.
    """
    x = logit(np.clip(np.asarray(p, np.float64), CLIP, 1 - CLIP))
    if not 0 < np.sum(y) < len(y) or np.ptp(x) == 0 or _separated(y, x):
        return None
    design = np.column_stack([x, np.ones(len(x))])
    weights = np.array([1.0, 0.0])
    loss = _loss(weights, design, y)
    for _ in range(STEPS):  # Newton's method, with halved steps where one goes too far
        mean = expit(design @ weights)
        gradient = design.T @ (mean - y)
        curvature = design.T @ (design * (mean * (1 - mean))[:, None]) + SMALL * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while (changed := _loss(weights - step, design, y)) > loss + SMALL:
            step = step / 2
        weights, loss = weights - step, changed
        if np.abs(step).max() < SMALL:
            break
    return None if abs(weights[0]) > STEEPEST else (float(weights[0]), float(weights[1]))


def _loss(weights: NDArray[np.float64], design: NDArray[np.float64], y: NDArray[Any]) -> float:
    z = design @ weights
    return float(np.sum(np.logaddexp(0, z) - y * z))


def _separated(y: NDArray[Any], x: NDArray[np.float64]) -> bool:
    """Return whether a threshold of x separates the classes."""
    above, below = x[y == 1], x[y == 0]
    return bool(above.min() >= below.max() or above.max() <= below.min())


def calibration_bins(y: NDArray[Any], p: NDArray[Any], bins: int = 10) -> list[dict[str, float]]:
    """Return expected and observed share of positives, and count, of bins of equal size."""
    expected, observed, counts = reliability(y, p, bins)
    return [
        {"expected": float(e), "observed": float(o), "count": int(n)}
        for e, o, n in zip(expected, observed, counts, strict=True)
    ]
