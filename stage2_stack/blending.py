"""A convex blend, in logits, of what several components say of one label, and of the calibrated
stage one.

All of it is decided on nested predictions. With few positive patients the best of many blends is
the luckiest one, so a component has to earn its place, the weights are drawn to equal ones, and
what is left of the gain has to be beyond doubt.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from ct.metrics import log_loss, patient_bootstrap
from stage2_stack.calibration import Platt, fit_platt

PULL = 5.0  # loss, summed over rows, that a squared distance of 1 from equal weights costs
SMALLEST = 0.01  # a weight below it is 0


class Blend(NamedTuple):
    """One label's blend, for one outer fold."""

    platts: dict  # component -> Platt, of all that had a say
    weights: dict  # component -> weight, in (0, 1], summing to 1
    last: Platt | None  # of the blend; None where the calibrated stage one stands alone
    # component -> (mean gain over the calibrated stage one on the nested rows, lower end of its
    # interval)
    gains: dict
    why: str  # why the calibrated stage one stands alone, or ""

    def logit(self, said):
        """Return the blend's logits of {component: logits}, arrays of one shape."""
        mixed = sum(
            weight * self.platts[name].logit(said[name]) for name, weight in self.weights.items()
        )
        return mixed if self.last is None else self.last.logit(mixed)


def raw_alone(raw, y, why):
    """Return the Blend that is the calibrated stage one: raw logits (n,) of rows with labels y (n,)
    of 0 and 1.
    """
    return Blend({"raw": fit_platt(raw, y)}, {"raw": 1.0}, None, {}, why)


def fit_blend(said, y, patients, level, seed):
    """Fit the blend of one label.

    said: {component: nested logits (n,)}, "raw" among them; y: (n,) 0 and 1; patients: (n,); level:
    of the intervals; seed: of the draws

    A component takes part where the interval of its own gain over the calibrated stage one lies
    above zero, and the blend stands where that of the whole does. Returns Blend.
    """
    platts = {name: fit_platt(logits, y) for name, logits in said.items()}
    ready = {name: platts[name].logit(logits) for name, logits in said.items()}
    start = log_loss(y, expit(ready["raw"]))

    def gain_of(logits):
        gain = start - log_loss(y, expit(logits))
        return float(gain.mean()), patient_bootstrap(gain, patients, seed=seed, level=level)[0]

    gains = {name: gain_of(logits) for name, logits in ready.items() if name != "raw"}
    kept = ["raw", *(name for name, (_, low) in gains.items() if low > 0)]
    weights = fit_weights(np.column_stack([ready[name] for name in kept]), y)
    weights = {
        name: float(weight) for name, weight in zip(kept, weights, strict=True) if weight > 0
    }
    mixed = sum(weight * ready[name] for name, weight in weights.items())
    last = fit_platt(mixed, y)
    whole, low = gain_of(last.logit(mixed))
    if len(kept) > 1 and low > 0:
        return Blend(platts, weights, last, gains, "")
    best = max(gains, key=lambda name: gains[name][0], default=None)
    mean, low, what = (
        (whole, low, "blend") if len(kept) > 1 else (*gains.get(best, (0.0, 0.0)), best)
    )
    why = (
        f"the gain of {what} on the inner folds, {mean:+.4f}, is not beyond doubt (from {low:+.4f} up)"
        if what
        else ""
    )
    return Blend(platts, {"raw": 1.0}, None, gains, why or "no component but the CNNs")


def fit_weights(logits, y):
    """Return the weights (c,), 0 or above and summing to 1, of logits (n, c) whose mixture has the
    least log loss on y (n,).

    They are drawn to equal ones by PULL.
    """
    n, c = logits.shape
    equal = np.full(c, 1 / c)
    if c == 1:
        return equal

    def loss(weights):
        z, off = logits @ weights, weights - equal
        slope = logits.T @ (expit(z) - y) + 2 * PULL * off
        return (np.sum(np.logaddexp(0, z) - y * z) + PULL * off @ off) / n, slope / n

    whole = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(c)}
    found = minimize(
        loss,
        equal,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * c,
        constraints=whole,
        options={"ftol": 1e-10},
    )
    weights = np.where(found.x < SMALLEST, 0, found.x)
    return weights / weights.sum()
