"""The stage `tune`: one optuna study per label and outer fold, each in a process of its own."""

import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from ct.labels import LABELS
from ct.run_dir import RunDir
from ct.seeds import derive_seed
from ct.storage.atomic_write import discard
from ct.storage.file_formats import read_json, write_json, write_table
from ct.system.parallel_jobs import cores, run_jobs
from features.columns import SCOPES, scope_columns
from pipeline.freshness import why_stale
from pipeline.optuna_studies.live_progress import progress_file, progress_writer, shown_progress
from pipeline.optuna_studies.trial_database import check_store, open_shared, store_faults
from pipeline.optuna_studies.trial_journal import open_study
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.stage_data.binned_files import BinnedFiles
from pipeline.stage_data.run_tables import load_rows
from stage2_stack.components import TUNED
from stage2_stack.config import StackConfig
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.nested_cv import inner_folds, why_not_stacked
from stage2_stack.tuning.best_trial import best_config
from stage2_stack.tuning.booster_trials import run_trials
from stage2_stack.tuning.inner_cv import InnerFolds
from stage2_stack.tuning.optuna_history import COLUMNS, importances, mean_importances, trial_rows
from stage2_stack.tuning.search_space import SPACE, space_of

# (time.time() at which all jobs must end, a job's share of the time that is left when it begins)
TimeShare = tuple[float, float]


def tune(run: Run, receipt: Receipt) -> None:
    """Search one configuration per label and outer fold, each on the other folds only."""
    config, folder = run.recipe.stage2, run.dir.stage2
    if config.storage:
        check_store(config.storage)  # makes its tables, which workers would make all at once
    jobs = _jobs(run, receipt.values["read"])
    configs: dict[str, list[dict[str, Any]]] = {label: [] for label in LABELS}
    shares: dict[str, dict[int, Any]] = {label: {} for label in LABELS}
    history = []
    with run.bar(len(jobs), "tuning", "study") as bar, shown_progress(folder / "tune", bar):
        results = run_jobs(tune_one, jobs, run.workers)
        for (_, label, k, *_), result in zip(jobs, results, strict=True):
            for note in result.pop("notes", []):
                run.log(note)
            history += [{"label": label, "fold": k, **row} for row in result.pop("history")]
            shares[label][k] = result.pop("importances")
            configs[label].append({"fold": k, **result})
            bar.update()
    write_json(folder / "configs.json", configs)
    write_table(folder / "trials.parquet", pd.DataFrame(history, columns=COLUMNS))
    write_json(
        folder / "tuning.json", {label: mean_importances(folds) for label, folds in shares.items()}
    )
    receipt.made = [folder / name for name in ("configs.json", "trials.parquet", "tuning.json")]
    chosen = [(label, result) for label in LABELS for result in configs[label]]
    for label, result in chosen:
        run.log(f"  {label} fold {result['fold']}: {_summary(result)}")
    cut = [result["trials"] for _, result in chosen if 0 < result["trials"] < config.trials]
    if cut:
        receipt.values["not_repeatable"] = [f"tune --timeout={run.timeout}"]
        run.log(
            f"  the time was up in {len(cut)} studies, "
            f"the shortest after {min(cut)} of {config.trials} trials; "
            f"`tune --trials={config.trials + 1}` continues them"
        )


def _jobs(run: Run, read: dict[str, str]) -> list[tuple[Any, ...]]:
    """Return the arguments of `tune_one` for each label and fold."""
    config, k_folds = run.recipe.stage2, run.recipe.folds.k
    end, total = time.time() + run.timeout if run.timeout else None, len(LABELS) * k_folds
    at_once = min(run.workers or cores(), total)
    jobs: list[tuple[Any, ...]] = []
    for label in LABELS:
        for k in range(k_folds):
            share = (end, min(1, at_once / (total - len(jobs)))) if end else None
            root, values = str(run.dir.root), config.model_dump()
            jobs.append((root, label, k, values, run.recipe.seed, read, share))
    return jobs


def tune_one(
    root: str,
    label: str,
    k: int,
    config: dict[str, Any],
    seed: int,
    read: dict[str, str],
    share: TimeShare | None = None,
) -> dict[str, Any]:
    """Tune one label on the rows outside fold `k`, in a process of its own.

    config: plain values of a StackConfig; seed: of the recipe; read: digests of what the stage
    reads; share: None without a limit of time

    Returns best_config's dict, with "history" and "importances" of the study as in
    stage2_stack/tuning/optuna_history.py, and "notes", lines for the log, unless it was tuned
    before.
    """
    # optuna would log the traceback of an interrupt
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    run, settings, path = RunDir(root), StackConfig(**config), _study_path(root, label, k)
    part = {"stage2": settings.model_dump(), "seed": seed, "label": label, "fold": k}
    result_file, job = path.with_suffix(".json"), path.with_suffix(".receipt.json")
    if not why_stale(run.root, job, part, read, verify=True):
        finished: dict[str, Any] = read_json(result_file)
        return finished
    notes: list[str] = []
    with Receipt(run.root, job, "tune", part, read) as receipt:
        result = _tune(root, settings, {**part, "read": read}, notes.append, share)
        write_json(result_file, result)
        receipt.made = [result_file]
    return result | {"notes": notes}


def _study_path(root: str, label: str, k: int) -> Path:
    """Return the path of the files of one label and fold, without a suffix."""
    return RunDir(root).stage2 / "tune" / f"{label}-fold{k}"


def _tune(
    root: str,
    config: StackConfig,
    inputs: dict[str, Any],
    note: Callable[[str], None],
    share: TimeShare | None,
) -> dict[str, Any]:
    """Search the settings of one label and fold, unless it is not stacked. Returns the result.

    inputs: all that the result depends on; note: called with lines for the log
    """
    label, k = inputs["label"], inputs["fold"]
    features, y, fold, patients = _rows(root, json.dumps(inputs["read"]), config.threads)
    rows = np.flatnonzero((fold != k) & ~np.isnan(y).any(axis=1))
    y, fold, patients = y[rows, LABELS.index(label)], fold[rows], patients[rows]
    why = why_not_stacked(y, patients, config.positive_patients)
    if not {*TUNED} & {*config.components}:
        why = f"{' and '.join(TUNED)} is not among stage2.components"
    if why:
        return _not_tuned(why)
    seed = derive_seed(inputs["seed"], "tune", label, k)
    inner = inner_folds(y, fold, patients, seed)
    features.keep_only(scope_columns(features.names, label, scope) for scope in SCOPES)
    folds = InnerFolds(features, rows, y, inner, label, config, seed)
    return _search(_study_path(root, label, k), folds, patients, inputs, note, share)


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


def _search(
    path: Path,
    folds: InnerFolds,
    patients: NDArray[Any],
    inputs: dict[str, Any],
    note: Callable[[str], None],
    share: TimeShare | None,
) -> dict[str, Any]:
    """Run the trials of one study, or continue them; return its result.

    path: of the study's files, without a suffix; inputs: all that the trials depend on; note:
    called with lines for the log
    """
    config, space = folds.config, space_of(folds.label)
    # the trials depend on no other setting of stage2
    inputs = {
        **inputs,
        "stage2": {"max_rounds": config.max_rounds},
        "space": {name: repr(where) for name, where in space.items()},
    }
    with store_faults(config.storage):
        if config.storage:
            study = open_shared(config.storage, path.name, inputs)
        else:
            study = open_study(path.with_suffix(".journal"), inputs, note, is_usable)
        run_trials(
            study,
            folds,
            config.trials,
            folds.seed,
            space,
            progress_writer(path, config.trials),
            _deadline(share),
            bool(config.storage),
        )
        result = best_config(study, folds, patients, config.trials)
        result["history"] = trial_rows(study, config.trials)
        result["importances"] = importances(study, config.trials, folds.seed)
    discard(progress_file(path))
    return result


@functools.lru_cache(maxsize=1)
def _rows(
    root: str, read: str, threads: int
) -> tuple[BinnedFeatures, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return (features, y, fold, patients) of the train slices.

    Cached: a process reads the bins of a label's columns once for consecutive jobs of that label.

    read: the digests of what the stage reads, as text: other features in the same folder are binned
    again
    """
    run = RunDir(root)
    X, y, fold, patients, names = load_rows(run)
    store = BinnedFiles(run, json.loads(read), threads)
    return BinnedFeatures(X, names, threads, store), y, fold, patients


def _deadline(share: TimeShare | None) -> float:
    """Return the time.time() after which a job that begins now begins no trial."""
    if share is None:
        return math.inf
    now = time.time()
    return now + (share[0] - now) * share[1]


def is_usable(trial: FrozenTrial) -> bool:
    """Return whether a finished trial of `tune` has what the choice among trials reads."""
    rounds = trial.user_attrs.get("rounds")
    return trial.state == TrialState.PRUNED or (
        type(rounds) is int and rounds > 0 and set(trial.params) == set(SPACE)
    )


def _summary(result: dict[str, Any]) -> str:
    if result["stacked"]:
        before, after = result["inner_calibrated"], result["inner_loss"]
        return f"{result['trials']} trials, inner loss {before:.4f} -> {after:.4f}"
    return f"not stacked: {result['why']}"
