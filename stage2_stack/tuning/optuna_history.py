"""The history of a search: each trial's loss, and how much it depends on each setting."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from ct.errors import number_of
from stage2_stack.tuning.resumable_trials import finished_trials
from stage2_stack.tuning.search_space import SPACE

# columns of the table of all trials
COLUMNS = ("label", "fold", "trial", "state", "loss", "inner_folds", *SPACE)
MIN_COMPLETED = 10  # trials; importances of fewer are noise


def trial_rows(study: optuna.Study, trials: int) -> list[dict[str, Any]]:
    """Return one row for each of the first `trials` finished trials of a study.

    {"trial": 0, 1, ..., "state": "complete" or "pruned", "loss": mean log loss minus that of the
    calibrated stage one on the inner folds that were evaluated, "inner_folds": their number, and
    each setting by its name}
    """
    return [
        {
            "trial": number,
            "state": trial.state.name.lower(),
            "loss": float(trial.intermediate_values[max(trial.intermediate_values)]),
            "inner_folds": len(trial.intermediate_values),
            **trial.params,
        }
        for number, trial in enumerate(finished_trials(study)[:trials])
    ]


def importances(study: optuna.Study, trials: int, seed: int) -> tuple[dict[str, float], str]:
    """Return ({setting: share of the loss's variance}, "") of a study's completed trials.

    Those among the first `trials` finished ones count. The shares are by functional ANOVA on a
    random forest (Hutter, Hoos and Leyton-Brown, ICML 2014). Returns ({}, why) where fewer than
    MIN_COMPLETED are completed, or all have the same loss.
    """
    done = [
        trial for trial in finished_trials(study)[:trials] if trial.state == TrialState.COMPLETE
    ]
    if len(done) < MIN_COMPLETED:
        return (
            {},
            f"{number_of(len(done), 'completed trial')}, fewer than {MIN_COMPLETED}",
        )
    if len({trial.value for trial in done}) == 1:
        return {}, "the same loss in all trials"
    completed = optuna.create_study()
    completed.add_trials(done)
    shares = get_param_importances(completed, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {name: float(shares[name]) for name in SPACE}, ""


def mean_importances(folds: Mapping[int, tuple[Mapping[str, float], str]]) -> dict[str, Any]:
    """Return the mean importances of a label's settings over its folds.

    folds: {fold: (importances, why) as returned by `importances`}. Returns {"importances":
    {setting: mean share}, "folds": how many have importances, "why": {fold: why it has none}}.
    """
    known = [shares for shares, _ in folds.values() if shares]
    mean = {}
    if known:
        mean = {name: float(np.mean([shares[name] for shares in known])) for name in SPACE}
    return {
        "importances": mean,
        "folds": len(known),
        "why": {k: why for k, (_, why) in folds.items() if why},
    }
