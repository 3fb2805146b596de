"""The configuration that a finished study chooses for a label and outer fold."""

import math
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from scipy.special import expit

from ct.evaluation.significance import lower_end
from ct.metrics import log_loss
from stage2_stack.nested_cv import INSTEAD
from stage2_stack.tuning.inner_cv import InnerFolds
from stage2_stack.tuning.resumable_trials import finished_trials


def best_config(
    study: optuna.Study, folds: InnerFolds, patients: NDArray[Any], trials: int
) -> dict[str, Any]:
    """Return the configuration that a finished study chooses.

    {"stacked", "why", "rounds", "trials", "inner_loss", "inner_calibrated", "params"}

    Only the first `trials` finished trials count. The best one is chosen where its gain over trial
    0 is significant on the inner folds, else trial 0: with few patients the best of many trials is
    the luckiest. The label is stacked where the gain of the chosen one over the calibrated stage
    one is significant. A gain is significant where its interval over patients (n,), at the
    config's level, lies above zero.
    """
    counted = finished_trials(study)[:trials]
    first, *others = [trial for trial in counted if trial.state == TrialState.COMPLETE]
    best = min([first, *others], key=_loss_of)
    chosen, gain = first, folds.gain(first.params, first.user_attrs["rounds"])
    if best.number != first.number:
        best_gain = folds.gain(best.params, best.user_attrs["rounds"])
        if _lower_end(folds, best_gain - gain, patients) > 0:
            chosen, gain = best, best_gain
    low = _lower_end(folds, gain, patients)
    not_significant = (
        f"its gain on the inner folds, {gain.mean():+.4f}, "
        f"is not beyond doubt (from {low:+.4f} up); {INSTEAD}"
    )
    return {
        "stacked": low > 0,
        "why": "" if low > 0 else not_significant,
        "rounds": chosen.user_attrs["rounds"],
        "trials": len(counted),
        "inner_loss": chosen.value,
        "inner_calibrated": float(log_loss(folds.y, expit(folds.base)).mean()),
        "params": chosen.params,
    }


def _loss_of(trial: FrozenTrial) -> float:
    return math.inf if trial.value is None else trial.value


def _lower_end(folds: InnerFolds, gain: NDArray[np.float64], patients: NDArray[Any]) -> float:
    """Return the lower end of the mean gain's interval over patients."""
    y = folds.y if folds.config.calibrate_by == "patient" else None
    return lower_end(gain, patients, y, folds.config.confidence, folds.seed)
