"""The verdict of a search: which settings are better than the recipe's, and how certain that is."""

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from ct.errors import InputError, number_of
from ct.labels import LABELS
from ct.metrics import gain_table
from ct.patient_folds import fold_groups
from ct.storage.file_formats import read_table
from ct.storage.sealed_files import is_whole
from pipeline.optuna_studies.cnn_trials import SearchContext, best_of, loss_of
from stage1_cnn.search_space import yaml_lines
from stage2_stack.tuning.resumable_trials import finished_trials

# held-out patients that a significant gain needs. Sign test: 4 of 4 has p = 1/16
MIN_PATIENTS = 5


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
    gain = gain_table(
        context.slices[list(LABELS)].to_numpy()[held_out],
        _predictions(context, 0),
        _predictions(context, best),
        patients,
        context.seed,
    )["weighted"]
    patient_count = len(set(patients))
    interval = "no interval"
    if gain["low"] is not None:  # one patient gives none
        interval = f"{gain['low']:+.4f} to {gain['high']:+.4f}"
    settings = yaml_lines(finished[best].user_attrs["values"])
    return [
        f"best of {count}: trial {best} with {loss_of(finished[best]):.4f}; "
        f"the recipe's own {recipe_loss:.4f}",
        f"gain {gain['gain']:+.4f} "
        f"({interval} "
        f"over {number_of(patient_count, 'patient')}, 95 %); "
        "too high in part: the best of many trials is also the luckiest",
        *_conclusion(context.config.name, best, settings, gain["low"], patient_count),
        caveat,
    ]


def _conclusion(
    name: str, best: int, settings: list[str], low: float | None, patients: int
) -> list[str]:
    """Return the settings to adopt, or why there are none.

    name: of the CNN; settings: lines of YAML of trial `best`; low: lower end of the gain's
    interval, None where there is none; patients: number of held-out patients
    """
    if patients >= MIN_PATIENTS and low is not None and low > 0:
        lines = [f"  {line}" for line in settings]
        return [f"to adopt, in the entry of {name} under stage1.models:", *lines]
    why = "the interval holds 0"
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
