"""The verdict of a search: which settings are better than the recipe's, and how certain that is."""

import math

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from ct.errors import InputError, number_of
from ct.evaluation.significance import lower_end
from ct.labels import LABELS, WEIGHTS
from ct.metrics import log_loss
from ct.patient_folds import fold_groups
from ct.storage.file_formats import read_table
from ct.storage.sealed_files import is_whole
from pipeline.optuna_studies.cnn_trials import SearchContext, best_of, loss_of
from stage1_cnn.search_space import yaml_lines
from stage2_stack.tuning.resumable_trials import finished_trials

# held-out patients that a significant gain needs. Sign test: 4 of 4 has p = 1/16
MIN_PATIENTS = 5
CONFIDENCE = 0.95  # level of the gain's interval


def verdict(study: optuna.Study, context: SearchContext, k: int, trials: int) -> list[str]:
    """Return the lines that compare the best of the first `trials` trials with the recipe.

    Where the gain is significant, they include the settings to adopt. k: the fold that the search
    did not use. Raises InputError where the probabilities of a trial are gone or damaged.
    """
    finished = finished_trials(study)[:trials]
    best, recipe_loss = best_of(finished), loss_of(finished[0])
    pruned = sum(trial.state == TrialState.PRUNED for trial in finished)
    count = f"{number_of(len(finished), 'trial')}, {pruned} of them pruned or failed"
    caveat = (
        f"chosen without fold {k}'s patients: fold {k}'s score does not depend on the choice, "
        "the scores of the other folds do in part"
    )
    if not best:
        return [f"no trial was better than the recipe's {recipe_loss:.4f} in {count}", caveat]
    held_out = context.split[1]
    patients = fold_groups(context.slices)[held_out]
    y = context.slices[list(LABELS)].to_numpy(np.float64)[held_out]
    losses = [log_loss(y, _predictions(context, number)) @ WEIGHTS for number in (0, best)]
    # pruned trials count: they were pruned because of their losses, so the rest are chosen, too
    tried, patient_count = len(finished) - 1, len(set(patients))
    gain = losses[0] - losses[1]
    low = lower_end(gain, patients, y[:, 0], CONFIDENCE, context.seed, best_of=tried)
    interval = "no interval" if math.isinf(low) else f"from {low:+.4f} up"
    settings = yaml_lines(finished[best].user_attrs["values"])
    return [
        f"best of {count}: trial {best} with {loss_of(finished[best]):.4f}; "
        f"the recipe's own {recipe_loss:.4f}",
        f"gain {gain.mean():+.4f} "
        f"({interval} over {number_of(patient_count, 'patient')}, 95 %); "
        f"its interval is wide for few patients and the best of {number_of(tried, 'trial')}; "
        "too high in part: the best of many trials is also the luckiest",
        *_conclusion(context.config.name, best, settings, low, patient_count),
        caveat,
    ]


def _conclusion(name: str, best: int, settings: list[str], low: float, patients: int) -> list[str]:
    """Return the settings to adopt, or why there are none.

    name: of the CNN; settings: lines of YAML of trial `best`; low: lower end of the gain's
    interval, -inf where there is none; patients: number of held-out patients
    """
    if patients >= MIN_PATIENTS and low > 0:
        lines = [f"  {line}" for line in settings]
        return [f"to adopt, in the entry of {name} under stage1.models:", *lines]
    why = "the interval holds 0"
    if math.isinf(low):
        why = "fewer than 2 held-out patients have a positive slice, or fewer than 2 a negative one"
    if patients < MIN_PATIENTS:
        why = f"{number_of(patients, 'held-out patient')}, {MIN_PATIENTS} are needed"
    return [f"no significant gain over the recipe ({why}); trial {best} had {', '.join(settings)}"]


def _predictions(context: SearchContext, number: int) -> NDArray[np.float32]:
    """Return a trial's probabilities (m, 6) of the held-out slices."""
    path = context.predictions(number)
    if not is_whole(path):
        state = "damaged" if path.exists() else "gone"
        journal = context.folder.with_suffix(".journal")
        raise InputError(f"{path} is {state}; remove {journal}, too, and search anew")
    return read_table(path).loc[context.slices.index[context.split[1]]].to_numpy()
