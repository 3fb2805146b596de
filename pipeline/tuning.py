"""The stage `tune`: one optuna study a label and outer fold, each in a process of its own, each continued where it stopped."""

import json

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from ct.engine import run_jobs
from ct.labels import LABELS
from ct.rundir import RunDir, discard, read_json, write_json, write_text
from ct.seeds import derive_seed
from pipeline.fresh import Receipt, why_stale
from pipeline.tables import load_rows
from stage2_stack.config import StackConfig
from stage2_stack.tune import SPACE, InnerFolds, best_config, inner_folds, run_trials, why_not_stacked


def tune(run, receipt):
    """Find one configuration per label and outer fold, each on the other folds only."""
    config, k_folds = run.recipe.stage2, run.recipe.folds.k
    jobs = [(str(run.dir.root), label, k, config.model_dump(), run.recipe.seed, receipt.values["read"])
            for label in LABELS for k in range(k_folds)]  # fmt: skip
    configs = {label: [] for label in LABELS}
    with run.bar(len(jobs), "tuning", "study") as bar:
        for (_, label, k, *_), found in zip(jobs, run_jobs(tune_one, jobs, run.workers), strict=True):
            configs[label].append({"fold": k, **found})
            bar.set_postfix_str(f"{label} fold {k}: {_inner(found)}", refresh=False)
            bar.update()
    write_json(run.dir.stage2 / "configs.json", configs)
    receipt.made = [run.dir.stage2 / "configs.json"]
    for label in LABELS:
        for found in configs[label]:
            run.say(f"  {label} fold {found['fold']}: {_inner(found)}")


def tune_one(root, label, k, config, seed, read):
    """Tune one label on the rows outside fold `k`, in a process of its own. Returns best_config's dict."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run, config = RunDir(root), StackConfig(**config)
    path = run.stage2 / "tune" / f"{label}-fold{k}"
    part = {"stage2": config.model_dump(), "seed": seed, "label": label, "fold": k}
    result, job = path.with_suffix(".json"), path.with_suffix(".receipt.json")
    if not why_stale(run.root, job, part, read):
        return read_json(result)
    with Receipt(run.root, job, "tune", part, read) as receipt:
        X, y, fold, patients, names = load_rows(run)
        rows = (fold != k) & ~np.isnan(y).any(axis=1)
        y, fold, patients = y[rows, LABELS.index(label)], fold[rows], patients[rows]
        why = why_not_stacked(y, patients, config.positive_patients)
        if why:
            found = {"stacked": False, "why": why, "rounds": 0, "trials": 0, "inner_loss": None,
                     "inner_calibrated": None, "params": {}}  # fmt: skip
        else:
            seed = derive_seed(seed, "tune", label, k)
            inner = inner_folds(y, fold, patients, seed)
            folds = InnerFolds(np.ascontiguousarray(X[rows]), y, inner, names, label, config, seed)
            settings = {"max_rounds": config.max_rounds}  # the others decide before or after the trials
            space = {name: repr(where) for name, where in SPACE.items()}
            same = {**part, "stage2": settings, "space": space, "read": read}
            study = open_study(path.with_suffix(".journal"), same)
            run_trials(study, folds, config.trials, seed)
            found = best_config(study, folds, patients, config.trials)
        write_json(result, found)
        receipt.made = [result]
    return found


def open_study(path, inputs):
    """Open an optuna study that minimises: a file that a second call continues, unless its inputs have changed.

    inputs: plain values, all that a trial's outcome depends on. The number of trials is not among them: asking for more
    continues the same study. A store that does not read any more is begun anew.
    """
    marker = path.with_suffix(".inputs.json")
    if not marker.exists() or marker.read_text() != json.dumps(inputs):
        discard(path)
        write_text(marker, json.dumps(inputs))
    discard(path.with_name(path.name + ".lock"))  # left by a killed process; the run folder's lock keeps others out
    if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
        path.write_bytes(text[: text.rfind(b"\n") + 1])  # a line that a killed process did not finish
    try:
        return _load_study(path)
    except ValueError:  # damaged within
        discard(path)
        return _load_study(path)


def _load_study(path):
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(study_name="tune", storage=storage, direction="minimize", load_if_exists=True)


def _inner(found):
    if found["stacked"]:
        return f"{found['trials']} trials, inner loss {found['inner_calibrated']:.4f} -> {found['inner_loss']:.4f}"
    return f"not stacked: {found['why']}"
