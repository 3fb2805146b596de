"""The stage `tune`: one optuna study a label and outer fold, each in a process of its own, each
continued where it stopped.
"""

import functools
import json
import math
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import optuna
import pandas as pd
from optuna.trial import TrialState

from ct.labels import LABELS
from ct.run_dir import RunDir
from ct.seeds import derive_seed
from ct.storage.atomic_write import discard
from ct.storage.file_formats import read_json, write_json, write_table, write_text
from ct.system.parallel_jobs import cores, run_jobs
from features.columns import SCOPES, scope_columns
from pipeline.freshness import why_stale
from pipeline.optuna_studies.trial_database import check_store, open_shared, store_faults
from pipeline.optuna_studies.trial_journal import open_study
from pipeline.receipt import Receipt
from pipeline.stage_data.run_tables import load_rows
from stage2_stack.boost import Bins
from stage2_stack.config import StackConfig
from stage2_stack.optuna_history import COLUMNS, importances, mean_importances, trial_rows
from stage2_stack.search_space import SPACE, space_of
from stage2_stack.tuning import InnerFolds, best_config, inner_folds, run_trials, why_not_stacked


def tune(run, receipt):
    """Find one configuration per label and outer fold, each on the other folds only."""
    config, k_folds = run.recipe.stage2, run.recipe.folds.k
    if config.storage:
        check_store(config.storage)  # makes its tables, which workers would make all at once
    end, total = time.time() + run.timeout if run.timeout else None, len(LABELS) * k_folds
    at_once = min(run.workers or cores(), total)
    jobs = [
        (
            str(run.dir.root),
            label,
            k,
            config.model_dump(),
            run.recipe.seed,
            receipt.values["read"],
            end and (end, min(1, at_once / (total - j * k_folds - k))),
        )
        for j, label in enumerate(LABELS)
        for k in range(k_folds)
    ]
    configs, history, mattered = (
        {label: [] for label in LABELS},
        [],
        {label: {} for label in LABELS},
    )
    with run.bar(len(jobs), "tuning", "study") as bar, _best_so_far(run.dir.stage2 / "tune", bar):
        for (_, label, k, *_), found in zip(
            jobs, run_jobs(tune_one, jobs, run.workers), strict=True
        ):
            for note in found.pop("notes", []):
                run.log(note)
            history += [{"label": label, "fold": k, **row} for row in found.pop("history")]
            mattered[label][k] = found.pop("importances")
            configs[label].append({"fold": k, **found})
            bar.update()
    write_json(run.dir.stage2 / "configs.json", configs)
    write_table(run.dir.stage2 / "trials.parquet", pd.DataFrame(history, columns=COLUMNS))
    write_json(
        run.dir.stage2 / "tuning.json",
        {label: mean_importances(folds) for label, folds in mattered.items()},
    )
    receipt.made = [
        run.dir.stage2 / name for name in ("configs.json", "trials.parquet", "tuning.json")
    ]
    for label in LABELS:
        for found in configs[label]:
            run.log(f"  {label} fold {found['fold']}: {_inner(found)}")
    cut = [
        found["trials"]
        for label in LABELS
        for found in configs[label]
        if 0 < found["trials"] < config.trials
    ]
    if cut:
        receipt.values["not_repeatable"] = [f"tune --timeout={run.timeout}"]
        run.log(
            f"  the time was up in {len(cut)} studies, the shortest after {min(cut)} of {config.trials} trials; "
            f"`tune --trials={config.trials + 1}` continues them"
        )


def tune_one(root, label, k, config, seed, read, share=None):
    """Tune one label on the rows outside fold `k`, in a process of its own.

    Returns best_config's dict, with the "history" and the "importances" of the study as of
    stage2_stack.optuna_history, and "notes", lines that the user should know, where there are any.
    share: (time.time() at which all must be done, this job's share of what is left when it begins),
    or None
    """
    # it would log the traceback of an interrupt
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    run, config = RunDir(root), StackConfig(**config)
    path = run.stage2 / "tune" / f"{label}-fold{k}"
    part = {"stage2": config.model_dump(), "seed": seed, "label": label, "fold": k}
    result, job = path.with_suffix(".json"), path.with_suffix(".receipt.json")
    if not why_stale(run.root, job, part, read, verify=True):
        return read_json(result)
    notes = []
    with Receipt(run.root, job, "tune", part, read) as receipt:
        bins, y, fold, patients = _rows(root, json.dumps(read), config.threads)
        rows = np.flatnonzero((fold != k) & ~np.isnan(y).any(axis=1))
        y, fold, patients = y[rows, LABELS.index(label)], fold[rows], patients[rows]
        why = "" if "lightgbm" in config.components else "lightgbm is not among stage2.components"
        why = why or why_not_stacked(y, patients, config.positive_patients)
        if why:
            found = {
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
        else:
            seed = derive_seed(seed, "tune", label, k)
            inner = inner_folds(y, fold, patients, seed)
            bins.keep_only(scope_columns(bins.names, label, scope) for scope in SCOPES)
            folds = InnerFolds(bins, rows, y, inner, label, config, seed)
            # the others decide before or after the trials
            settings = {"max_rounds": config.max_rounds}
            space = {name: repr(where) for name, where in space_of(label).items()}
            same = {**part, "stage2": settings, "space": space, "read": read}
            url, journal = config.storage, path.with_suffix(".journal")
            with store_faults(url):
                study = (
                    open_shared(url, path.name, same)
                    if url
                    else open_study(journal, same, notes.append, _sound)
                )
                run_trials(
                    study,
                    folds,
                    config.trials,
                    seed,
                    space_of(label),
                    _teller(path, config.trials),
                    _deadline(share),
                    bool(url),
                )
                found = best_config(study, folds, patients, config.trials)
                found["history"] = trial_rows(study, config.trials)
                found["importances"] = importances(study, config.trials, seed)
            discard(path.with_suffix(".now"))
        write_json(result, found)
        receipt.made = [result]
    return found | {"notes": notes}


@functools.lru_cache(maxsize=1)
def _rows(root, read, threads):
    """Return (bins, y, fold, patients) of the train slices; one process bins a label's columns once
    for all its folds, which come one after the other.

    read: the digests of what they are made of, as text: other features at the same place are other
    bins
    """
    X, y, fold, patients, names = load_rows(RunDir(root))
    return Bins(X, names, threads), y, fold, patients


def _deadline(share):
    """Return the time.time() after which a job that begins now begins no trial."""
    now = time.time()
    return now + (share[0] - now) * share[1] if share else math.inf


def _teller(path, trials):
    """Return a function that leaves beside a study how far it is."""
    return lambda number, best: write_text(
        path.with_suffix(".now"),
        f"{path.name}: trial {number} of {trials}, {best:.4f}",
        lasting=False,
    )


@contextmanager
def _best_so_far(folder, bar):
    """Show beside a bar what the study that moved last has found so far."""
    over = threading.Event()

    def look():
        while not over.wait(2):
            with suppress(OSError):  # a study that ends takes its line away
                told = max(
                    folder.glob("*.now"), key=lambda path: path.stat().st_mtime, default=None
                )
                if told:
                    bar.show_text(f"{told.read_text(encoding='utf-8')} at best")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _sound(trial):
    """Return whether a trial of `tune` has what the choice among trials reads."""
    rounds = trial.user_attrs.get("rounds")
    return trial.state == TrialState.PRUNED or (
        type(rounds) is int and rounds > 0 and set(trial.params) == set(SPACE)
    )


def _inner(found):
    if found["stacked"]:
        return f"{found['trials']} trials, inner loss {found['inner_calibrated']:.4f} -> {found['inner_loss']:.4f}"
    return f"not stacked: {found['why']}"
