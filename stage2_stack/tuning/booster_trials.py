"""Search the configuration of a label's booster for one outer fold, on its inner folds."""

import math
from collections.abc import Callable

import optuna
from optuna.trial import Trial, create_trial

from stage2_stack.tuning.inner_cv import InnerFolds
from stage2_stack.tuning.resumable_trials import (
    STARTUP,
    fail_interrupted_trials,
    unfinished_numbers,
)
from stage2_stack.tuning.search_space import FIRST, SPACE, Space, suggest

# a trial that is not among this best percentage of the earlier trials after an inner fold is pruned
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

    The sampler's seed depends on `seed` and the number of finished trials alone. A trial that a
    killed process left running is marked as failed and run again. So an interrupted study ends with
    the same trials as an uninterrupted one.

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
    """Evaluate FIRST, then add it as finished: a process killed before that leaves no trial."""
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
