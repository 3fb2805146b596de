"""What a search of settings leaves to look at: each trial's loss, and which settings it depended
on.
"""

import numpy as np
import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from stage2_stack.search_space import SPACE
from stage2_stack.tuning import finished

# of the table of all trials
COLUMNS = ("label", "fold", "trial", "state", "loss", "inner_folds", *SPACE)
ENOUGH = 10  # completed trials; the importances of fewer are noise


def trial_rows(study, trials):
    """Return the first `trials` finished trials of a study, a list of dicts.

    {"trial": 0, 1, ..., "state": "complete" or "pruned", "loss": mean log loss less that of the
    calibrated stage one on the inner folds that it got to, "inner_folds": their number, and each
    setting by its name}
    """
    return [
        {
            "trial": number,
            "state": trial.state.name.lower(),
            "loss": float(trial.intermediate_values[max(trial.intermediate_values)]),
            "inner_folds": len(trial.intermediate_values),
            **trial.params,
        }
        for number, trial in enumerate(finished(study)[:trials])
    ]


def importances(study, trials, seed):
    """Return ({setting: share of the loss's variance over the space}, "") of the first `trials`
    finished trials of a study.

    By functional ANOVA on a random forest (Hutter, Hoos and Leyton-Brown, ICML 2014), of the
    completed trials alone. ({}, why) where there are fewer than ENOUGH of them, or they all have
    one loss.
    """
    done = [trial for trial in finished(study)[:trials] if trial.state == TrialState.COMPLETE]
    if len(done) < ENOUGH:
        return {}, f"{len(done)} completed trial{'s' * (len(done) != 1)}, fewer than {ENOUGH}"
    if len({trial.value for trial in done}) == 1:
        return {}, "the same loss in all trials"
    only = optuna.create_study()
    only.add_trials(done)
    found = get_param_importances(only, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {name: float(found[name]) for name in SPACE}, ""


def mean_importances(folds):
    """Return {"importances": {setting: mean share}, "folds": how many have one, "why": {fold: why
    it has none}} of a label.

    folds: {fold: (importances, why) as of `importances`}
    """
    having = [found for found, _ in folds.values() if found]
    mean = (
        {name: float(np.mean([found[name] for found in having])) for name in SPACE}
        if having
        else {}
    )
    return {
        "importances": mean,
        "folds": len(having),
        "why": {k: why for k, (_, why) in folds.items() if why},
    }
