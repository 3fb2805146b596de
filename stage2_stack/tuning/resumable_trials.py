"""The order of the trials of an optuna study, repeatable also when it is interrupted.

`tune` and the search of a CNN's settings (pipeline/optuna_studies/cnn_trials.py) share it.
"""

import math
import time
from collections.abc import Iterator

import optuna
from optuna.trial import FrozenTrial, TrialState

from ct.seeds import derive_seed

STARTUP = 5  # trials before the sampler and the pruner use the losses of earlier trials


def finished_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the finished trials of a study, pruned ones included."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def fail_interrupted_trials(study: optuna.Study) -> None:
    """Mark the trials that a killed process left running as failed: they are run again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def unfinished_numbers(
    study: optuna.Study, trials: int, seed: int, deadline: float = math.inf
) -> Iterator[int]:
    """Yield the number of each next trial, from 0, until a study has `trials` finished trials.

    The sampler's seed depends on `seed` and the number of finished trials alone: an interrupted
    study ends with the same trials as an uninterrupted one. deadline: of time.time(); no trial but
    the first begins after it
    """
    while (number := len(finished_trials(study))) < trials:
        if number and time.time() > deadline:
            return
        study.sampler = optuna.samplers.TPESampler(
            seed=derive_seed(seed, "trial", number), n_startup_trials=STARTUP
        )
        yield number
