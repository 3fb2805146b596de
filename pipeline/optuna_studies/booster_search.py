"""The search for the settings of one label's booster, for one outer fold, in a run folder."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from ct.labels import LABELS
from ct.run_dir import RunDir
from ct.seeds import derive_seed
from features.columns import SCOPES, scope_columns
from pipeline.optuna_studies.trial_database import open_shared, store_faults
from pipeline.optuna_studies.trial_journal import open_study
from pipeline.stage_data.binned_files import BinnedFiles
from pipeline.stage_data.run_tables import load_rows
from stage2_stack.components import TUNED
from stage2_stack.config import StackConfig
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.nested_cv import inner_folds, why_not_stacked
from stage2_stack.tuning.best_trial import best_config
from stage2_stack.tuning.booster_trials import run_trials
from stage2_stack.tuning.inner_cv import InnerFolds
from stage2_stack.tuning.optuna_history import importances, trial_rows
from stage2_stack.tuning.search_space import SPACE, space_of


class Search(NamedTuple):
    """One search and how it runs; the trials depend on `inputs` alone."""

    root: str  # the run folder
    config: StackConfig  # its `threads` are those of the fits
    inputs: dict[str, Any]  # all that the result depends on: "label", "fold", "seed", "read", ...
    log: Callable[[str], None]  # is called with a line
    progress: Callable[[int, float], None]  # is called with (finished trials, smallest loss)
    deadline: float  # time.time() after which no trial begins but the first
    clipped: bool = True  # as in stage2_stack.calibration.fit_platt

    @property
    def path(self) -> Path:
        """Return the path of the study's files, without a suffix."""
        return search_path(self.root, self.inputs["label"], self.inputs["fold"])


def search_path(root: str, label: str, k: int) -> Path:
    """Return the path of the files of one label and fold, without a suffix."""
    return RunDir(root).stage2 / "tune" / f"{label}-fold{k}"


def search_booster(search: Search) -> dict[str, Any]:
    """Search the settings of one label and fold, unless it is not stacked.

    Returns best_config's dict, with "history" and "importances" of the study as in
    stage2_stack/tuning/optuna_history.py.
    """
    config, label, k = search.config, search.inputs["label"], search.inputs["fold"]
    read = json.dumps(search.inputs["read"])
    features, y, fold, patients = _rows(search.root, read, config.threads, config.tail_bins)
    rows = np.flatnonzero((fold != k) & ~np.isnan(y).any(axis=1))
    y, fold, patients = y[rows, LABELS.index(label)], fold[rows], patients[rows]
    why = why_not_stacked(y, patients, config.positive_patients, config.calibrate_by)
    if not config.has_tuned:
        why = f"{' and '.join(TUNED)} is not among stage2.components"
    if why:
        return _not_tuned(why)
    seed = derive_seed(search.inputs["seed"], "tune", label, k)
    inner = inner_folds(y, fold, patients, seed)
    features.keep_only(scope_columns(features.names, label, scope) for scope in SCOPES)
    observed = patients if config.calibrate_by == "patient" else None
    folds = InnerFolds(features, rows, y, inner, label, config, seed, search.clipped, observed)
    return _run_study(search, folds, patients)


def _not_tuned(why: str) -> dict[str, Any]:
    """Return the result of a label that is not stacked in this fold."""
    return {
        "stacked": False,
        "why": why,
        "rounds": 0,
        "trials": 0,
        "inner_loss": None,
        "inner_calibrated": None,
        "params": {},
        "history": [],
        "importances": ({}, why),
    }


def _run_study(search: Search, folds: InnerFolds, patients: NDArray[Any]) -> dict[str, Any]:
    """Run the trials of one study, or continue them; return its result."""
    config, space, path = search.config, space_of(folds.label), search.path
    # the trials depend on no other setting of stage2
    inputs = {
        **search.inputs,
        "stage2": {
            name: getattr(config, name) for name in ("max_rounds", "calibrate_by", "tail_bins")
        },
        "space": {name: repr(where) for name, where in space.items()},
    }
    with store_faults(config.storage):
        if config.storage:
            study = open_shared(config.storage, path.name, inputs)
        else:
            study = open_study(path.with_suffix(".journal"), inputs, search.log, is_usable)
        run_trials(
            study,
            folds,
            config.trials,
            folds.seed,
            space,
            search.progress,
            search.deadline,
            bool(config.storage),
        )
        result = best_config(study, folds, patients, config.trials)
        result["history"] = trial_rows(study, config.trials)
        result["importances"] = importances(study, config.trials, folds.seed)
    return result


@functools.lru_cache(maxsize=1)
def _rows(
    root: str, read: str, threads: int, tail_bins: int
) -> tuple[BinnedFeatures, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return (features, y, fold, patients) of the train slices.

    Cached: a process reads the bins of a label's columns once for consecutive searches of it.

    read: the digests of what the stage reads, as text: other features in the same folder are binned
    again
    """
    X, y, fold, patients, names = load_rows(RunDir(root))
    store = BinnedFiles(RunDir(root), json.loads(read), threads)
    return BinnedFeatures(X, names, threads, store, tail_bins), y, fold, patients


def is_usable(trial: FrozenTrial) -> bool:
    """Return whether a finished trial of `tune` has what the choice among trials reads."""
    rounds = trial.user_attrs.get("rounds")
    return trial.state == TrialState.PRUNED or (
        type(rounds) is int and rounds > 0 and set(trial.params) == set(SPACE)
    )
