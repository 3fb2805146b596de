"""Optuna searches the configuration of a label's booster for one outer fold, on its inner folds."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from scipy.special import expit

from ct.metrics import log_loss, patient_bootstrap
from stage2_stack.nested_cv import INSTEAD
from stage2_stack.tuning.inner_cv import InnerFolds
from stage2_stack.tuning.optuna_trials import (
    STARTUP,
    fail_interrupted_trials,
    finished_trials,
    unfinished_numbers,
)
from stage2_stack.tuning.search_space import FIRST, SPACE, Space, suggest

# per cent of the earlier trials that a trial must be among after each inner fold, or it is pruned
TOP_PERCENT = 60.0


def run_trials(
    study: optuna.Study,
    folds: InnerFolds,
    trials: int,
    seed: int,
    space: Space = SPACE,
    progress: Callable[[int, float], object] | None = None,
    deadline: float = math.inf,
    shared: bool = False,
) -> None:
    """Bring an optuna study to `trials` finished trials, continuing where an earlier call stopped.

    The sampler's seed is a function of `seed` and of the number of finished trials, and a trial
    that a killed process left running is failed and run again, so that an interrupted study ends
    with the same trials as an uninterrupted one.

    space: {setting: distribution}; progress: called with the number of finished trials and the
    smallest loss; deadline: of time.time(), after which no trial begins but the first; shared:
    other machines work on the study too, and optuna's heartbeat alone decides which trials are dead
    """
    if not shared:
        fail_interrupted_trials(study)
    study.pruner = optuna.pruners.PercentilePruner(TOP_PERCENT, n_startup_trials=STARTUP)
    for number in unfinished_numbers(study, trials, seed, deadline):
        if number:
            study.optimize(lambda trial: _evaluate_trial(trial, folds, space), n_trials=1)
        else:
            _add_first_trial(study, folds, space)
        if progress:
            progress(number + 1, study.best_value)


def _evaluate_trial(trial: Trial, folds: InnerFolds, space: Space) -> float:
    """Return the loss of the settings that a trial draws; a clearly worse trial is pruned."""

    def report(step: int, loss: float) -> None:
        trial.report(loss, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    loss, rounds = folds.evaluate(suggest(trial, space), report)
    trial.set_user_attr("rounds", rounds)
    return loss


def _add_first_trial(study: optuna.Study, folds: InnerFolds, space: Space) -> None:
    """Evaluate FIRST and add it as finished: a process that is killed meanwhile leaves nothing."""
    steps: dict[int, float] = {}
    loss, rounds = folds.evaluate(FIRST, steps.__setitem__)
    trial = create_trial(
        value=loss,
        params=FIRST,
        distributions=dict(space),
        intermediate_values=steps,
        user_attrs={"rounds": rounds},
    )
    study.add_trial(trial)


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
    level = folds.config.confidence
    return float(patient_bootstrap(gain, patients, seed=folds.seed, level=level)[0])
