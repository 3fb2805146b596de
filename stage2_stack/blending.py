"""A convex blend, in logits, of the components of one label and of the calibrated stage one.

Every choice is made on nested predictions. With few positive patients the best of many blends is
the luckiest one. Therefore a component takes part only where its own gain is significant, the
weights are pulled to equal ones, and the blend is used only where its whole gain is significant.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from ct.evaluation.significance import lower_end
from ct.metrics import log_loss
from stage2_stack.calibration import Platt
from stage2_stack.patient_calibration import fit_calibration

PULL = 5.0  # loss, summed over rows, that a squared distance of 1 from equal weights costs
MIN_WEIGHT = 0.01  # a weight below it becomes 0


class Blend(NamedTuple):
    """One label's blend, for one outer fold."""

    platts: dict[str, Platt]  # component -> its calibration, for all components that were tried
    weights: dict[str, float]  # component -> weight, in (0, 1], summing to 1
    last: Platt | None  # calibration of the blend; None where stage one is used alone
    # component -> (mean gain over the calibrated stage one on the nested rows, lower end of its
    # interval)
    gains: dict[str, tuple[float, float]]
    why: str  # why the calibrated stage one is used alone, or ""

    def logit(self, logits: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Return the blend's logits of {component: logits}, arrays of one shape."""
        mixed: Any = sum(
            weight * self.platts[name].logit(logits[name]) for name, weight in self.weights.items()
        )
        return np.asarray(mixed if self.last is None else self.last.logit(mixed))

    def values(self) -> dict[str, Any]:
        """Return plain values for a JSON file, enough to predict; `read_blend` reads them."""
        return {
            "calibrations": {
                name: platt._asdict() for name, platt in self.platts.items() if name in self.weights
            },
            "weights": self.weights,
            "last": self.last and self.last._asdict(),
        }


def read_blend(values: Mapping[str, Any]) -> Blend:
    """Return the Blend of plain values: {"calibrations", "weights", "last"}, as in blend.json."""
    platts = {name: Platt(**platt) for name, platt in values["calibrations"].items()}
    last = values["last"] and Platt(**values["last"])
    return Blend(platts, values["weights"], last, {}, "")


def raw_alone(
    raw: NDArray[Any],
    y: NDArray[Any],
    why: str,
    patients: NDArray[Any] | None = None,
    clipped: bool = True,
) -> Blend:
    """Return the Blend that is the calibrated stage one.

    raw: (n,) mean logits of the CNNs; y: (n,) labels of 0 and 1; patients, clipped: as in
    `fit_calibration`
    """
    platt = fit_calibration(raw, y, patients, clipped)
    return Blend({"raw": platt}, {"raw": 1.0}, None, {}, why)


def fit_blend(
    logits: Mapping[str, NDArray[np.float64]],
    y: NDArray[np.float64],
    patients: NDArray[Any],
    level: float,
    seed: int,
    clipped: bool = True,
    by_patient: bool = False,
) -> Blend:
    """Fit the blend of one label.

    logits: {component: nested logits (n,)}, "raw" among them; y: (n,) 0 and 1; patients: (n,);
    level: of the intervals; seed: of the bootstrap; clipped: as in `fit_calibration`; by_patient:
    whether a patient counts as one observation in the calibrations, and not each row

    A component takes part where the interval of its own gain over the calibrated stage one lies
    above zero. The blend is used where the interval of its whole gain does.
    """
    observed = patients if by_patient else None
    platts = {name: fit_calibration(x, y, observed, clipped) for name, x in logits.items()}
    calibrated = {name: platts[name].logit(x) for name, x in logits.items()}
    start = log_loss(y, expit(calibrated["raw"]))

    def gain_of(x: NDArray[np.float64]) -> tuple[float, float]:
        gain = start - log_loss(y, expit(x))
        few = y if by_patient else None
        return float(gain.mean()), lower_end(gain, patients, few, level, seed)

    gains = {name: gain_of(x) for name, x in calibrated.items() if name != "raw"}
    chosen = ["raw", *(name for name, (_, low) in gains.items() if low > 0)]
    fitted = fit_weights(np.column_stack([calibrated[name] for name in chosen]), y)
    weights = {
        name: float(weight) for name, weight in zip(chosen, fitted, strict=True) if weight > 0
    }
    mixed: Any = sum(weight * calibrated[name] for name, weight in weights.items())
    last = fit_calibration(mixed, y, observed, clipped)
    blend_gain, low = gain_of(last.logit(mixed))
    if len(chosen) > 1 and low > 0:
        return Blend(platts, weights, last, gains, "")
    why = "no component but the CNNs"
    if len(chosen) > 1:
        why = _no_gain("blend", blend_gain, low)
    elif gains:
        best = max(gains, key=lambda name: gains[name][0])
        why = _no_gain(best, *gains[best])
    return Blend(platts, {"raw": 1.0}, None, gains, why)


def _no_gain(what: str, mean: float, low: float) -> str:
    """Return the reason why a gain does not count; scores.json keeps it."""
    return (
        f"the gain of {what} on the inner folds, {mean:+.4f}, "
        f"is not beyond doubt (from {low:+.4f} up)"
    )


def fit_weights(logits: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights (c,) of logits (n, c) whose mixture has the least log loss on y (n,).

    They are 0 or above, sum to 1, and are pulled to equal weights by PULL.
    """
    n, c = logits.shape
    equal = np.full(c, 1 / c)
    if c == 1:
        return equal

    def loss(weights: NDArray[np.float64]) -> tuple[Any, Any]:
        z, off = logits @ weights, weights - equal
        slope = logits.T @ (expit(z) - y) + 2 * PULL * off
        return (np.sum(np.logaddexp(0, z) - y * z) + PULL * off @ off) / n, slope / n

    sums_to_one = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(c)}
    optimum = minimize(
        loss,
        equal,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * c,
        constraints=sums_to_one,
        options={"ftol": 1e-10},
    )
    weights = np.where(optimum.x < MIN_WEIGHT, 0, optimum.x)
    return np.asarray(weights / weights.sum())
