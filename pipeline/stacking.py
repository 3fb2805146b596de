"""The stages `features`, `tune` and `stack`: from the CNNs' opinions to the final probabilities."""

import lightgbm as lgb
import numpy as np
import optuna
import pandas as pd
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from scipy.special import expit

from ct.engine import run_jobs
from ct.labels import LABELS
from ct.metrics import compare, score_table
from ct.rundir import RunDir, discard, read_array, read_json, read_table, replacing, write_array, write_json, write_table, write_text
from ct.seeds import derive_seed
from features.build import build_features, describe, mean_logits
from pipeline.fresh import Receipt, why_stale
from stage2_stack.boost import boosted_logit, fit_booster, gain_share, make_dataset
from stage2_stack.calibrate import cross_fit, fit_platt, smoothed_prior
from stage2_stack.config import StackConfig
from stage2_stack.tune import InnerFolds, best_config, inner_folds, run_trials, why_not_stacked

MAIN = len(LABELS)  # the first columns of X are the CNNs' mean logits


def features(run, receipt):
    """Build X of the train slices from out-of-fold opinions, and of the test slices once per fold's CNNs."""
    slices, models = read_table(run.dir.slices), [config.name for config in run.recipe.stage1.models]
    folder = run.dir.stage2 / "features"
    train, test = (slices[slices["split"] == split] for split in ("train", "test"))
    opinions = {model: read_table(run.dir.oof(model)).reindex(train.index).to_numpy() for model in models}
    X, names = build_features(train, opinions, run.recipe.features)
    write_array(folder / "train.npy", X)
    per_fold = []
    for k in range(run.recipe.folds.k):
        opinions = {m: read_table(run.dir.fold(m, k) / "test.parquet").reindex(test.index).to_numpy() for m in models}
        per_fold.append(build_features(test, opinions, run.recipe.features)[0])
    write_array(folder / "test.npy", np.stack(per_fold))
    write_json(folder / "names.json", {name: describe(name) for name in names})
    receipt.made = [folder]
    run.say(f"  {len(names)} features of {len(train)} train slices and of {len(test)} test slices x {len(per_fold)} folds")


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
            rows_X = np.ascontiguousarray(X[rows])
            inner = inner_folds(y, fold, patients, seed)
            folds = InnerFolds(rows_X, rows_X[:, LABELS.index(label)], y, inner, names, config, seed)
            study = open_study(path.with_suffix(".journal"), part, read)
            run_trials(study, folds, config.trials, seed)
            found = best_config(study, folds, patients, config.trials)
        write_json(result, found)
        receipt.made = [result]
    return found


def open_study(path, part, read):
    """Open the optuna study of one label and fold: a file that a second call continues, unless its inputs have changed.

    The number of trials is not among the inputs: asking for more continues the same study.
    """
    inputs = {**part, "stage2": {k: v for k, v in part["stage2"].items() if k != "trials"}, "read": read}
    marker = path.with_suffix(".inputs.json")
    if not marker.exists() or read_json(marker) != inputs:
        discard(path)
        write_json(marker, inputs)
    discard(path.with_name(path.name + ".lock"))  # left by a killed process; the run folder's lock keeps others out
    if path.exists() and not (text := path.read_bytes()).endswith(b"\n"):
        path.write_bytes(text[: text.rfind(b"\n") + 1])  # a line that a killed process did not finish
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(study_name="tune", storage=storage, direction="minimize", load_if_exists=True)


def stack(run, receipt):
    """Fit the stackers, one per label and fold; write out-of-fold and test probabilities of both stages, and the scores."""
    X, y, fold, patients, names = load_rows(run.dir)
    test_X, test_fold = read_array(run.dir.stage2 / "features" / "test.npy"), load_test_fold(run.dir)
    configs, known = read_json(run.dir.stage2 / "configs.json"), ~np.isnan(y).any(axis=1)
    boosters = run.dir.stage2 / "boosters"
    oof, calibrated = np.full(y.shape, np.nan), np.full(y.shape, np.nan)
    test, calibrated_test = (np.full((len(test_X), *test_X.shape[1:2], len(LABELS)), np.nan) for _ in range(2))
    gains, platts = {label: np.zeros(len(names)) for label in LABELS}, {}
    with replacing(boosters) as part, run.bar(len(LABELS) * len(test_X), "stacking", "booster") as bar:
        part.mkdir()
        for j, label in enumerate(LABELS):
            base, fitted = cross_fit(X[:, j], y[:, j], fold, len(test_X))
            calibrated[:, j], platts[label] = expit(base), [platt._asdict() for platt in fitted]
            for k, (platt, found) in enumerate(zip(fitted, configs[label], strict=True)):
                calibrated_test[k, :, j] = expit(platt.logit(test_X[k][:, j]))
                fit, held = known & (fold != k), fold == k
                if not found["stacked"]:
                    oof[held, j], test[k, :, j] = calibrated[held, j], calibrated_test[k, :, j]
                else:
                    booster = _fit(run, X[fit], y[fit, j], platt.logit(X[fit, j]), names, found, label, k)
                    oof[held, j] = expit(boosted_logit(booster, X[held], base[held]))
                    test[k, :, j] = expit(boosted_logit(booster, test_X[k], platt.logit(test_X[k][:, j])))
                    gains[label] += gain_share(booster) / len(test_X)
                    write_text(part / f"{label}-fold{k}.txt", booster.model_to_string())
                bar.update()
    tables = {"oof": oof, "calibrated": calibrated,
              "test": route(test, test_fold), "calibrated_test": route(calibrated_test, test_fold)}  # fmt: skip
    _write_stack(run, receipt, tables, platts, pd.DataFrame(gains, index=names))
    scores = _score(run, y, known, oof, calibrated, patients)
    write_json(run.dir.stage2 / "scores.json", scores)
    receipt.made += [boosters, run.dir.stage2 / "scores.json"]


def route(per_fold, test_fold):
    """Return the final test probabilities (n, 6): the mean over folds, or the patient's own fold where one is also in train.

    per_fold: (K, n, 6); test_fold: (n,) the fold in train of each slice's patient, -1 where it has none
    """
    final = per_fold.mean(axis=0)
    own = np.flatnonzero(test_fold >= 0)
    final[own] = per_fold[test_fold[own], own]
    return final


def load_rows(run):
    """Return X (n, f), y (n, 6), fold (n,), patients (n,) of the train slices, and the names of the features."""
    slices = read_table(run.slices)
    train = (slices["split"] == "train").to_numpy()
    fold = read_table(run.folds)["fold"].reindex(slices.index).to_numpy()[train]
    y, patients = slices.loc[train, list(LABELS)].to_numpy(np.float64), slices.loc[train, "patient_id"].to_numpy(object)
    names = list(read_json(run.stage2 / "features" / "names.json"))
    return read_array(run.stage2 / "features" / "train.npy"), y, fold, patients, names


def load_test_fold(run):
    """Return the fold in train of each test slice's patient, (n,); -1 where the patient is not in train."""
    slices = read_table(run.slices)
    return read_table(run.folds)["fold"].reindex(slices.index).to_numpy()[(slices["split"] == "test").to_numpy()]


def stage_one(run, models, k_folds, clip):
    """Return the calibrated mean of the CNNs on the test slices, a table of (n, 6), from what `train` and `predict` made."""
    slices, fold = read_table(run.slices), read_table(run.folds)["fold"]
    train, test = (slices[slices["split"] == split] for split in ("train", "test"))
    y, fold = train[list(LABELS)].to_numpy(np.float64), fold.reindex(train.index).to_numpy()
    known = ~np.isnan(y).any(axis=1)
    raw = mean_logits({m: read_table(run.oof(m)).reindex(train.index).to_numpy() for m in models}, clip)
    per_fold = np.empty((k_folds, len(test), len(LABELS)))
    for k in range(k_folds):
        fit = known & (fold != k)
        opinions = {m: read_table(run.fold(m, k) / "test.parquet").reindex(test.index).to_numpy() for m in models}
        for j, logit in enumerate(mean_logits(opinions, clip).T):
            per_fold[k, :, j] = expit(fit_platt(raw[fit, j], y[fit, j]).logit(logit))
    return pd.DataFrame(route(per_fold, load_test_fold(run)), index=test.index, columns=list(LABELS))


def training_prior(run):
    """Return the smoothed share of positives of each label among the labelled train slices, {label: probability}."""
    y = read_table(run.slices).query("split == 'train'")[list(LABELS)].dropna()
    return {label: smoothed_prior(y[label].to_numpy()) for label in LABELS}


def _fit(run, X, y, base, names, found, label, k):
    data = make_dataset(X, y, base, names)
    seed = derive_seed(run.recipe.seed, "tune", label, k)
    booster, _ = fit_booster(data, found["params"], found["rounds"], seed, run.recipe.stage2.threads)
    return lgb.Booster(model_str=booster.model_to_string())  # predicts as what is kept on disk will


def _write_stack(run, receipt, tables, platts, gains):
    slices = read_table(run.dir.slices)
    for name, values in tables.items():
        index = slices.index[slices["split"] == ("test" if "test" in name else "train")]
        path = run.dir.stage2 / f"{name}.parquet"
        write_table(path, pd.DataFrame(values, index=index, columns=list(LABELS)))
        receipt.made.append(path)
    write_json(run.dir.stage2 / "calibration.json", platts)
    write_table(run.dir.stage2 / "importances.parquet", gains.rename_axis("feature"))
    receipt.made += [run.dir.stage2 / "calibration.json", run.dir.stage2 / "importances.parquet"]


def _score(run, y, known, oof, calibrated, patients):
    """Return scores.json, and say its main lines. An unreadable slice has no CNN's opinion: the calibrated prior stands in."""
    y, index = y[known].astype(int), read_table(run.dir.slices).query("split == 'train'").index[known]
    models = {}
    for config in run.recipe.stage1.models:
        raw = read_table(run.dir.oof(config.name)).reindex(index).to_numpy(np.float64)
        models[config.name] = score_table(y, np.where(np.isnan(raw), calibrated[known], raw))
    scores = {
        "rows": int(known.sum()),
        "patients": len(set(patients[known])),
        "models": models,
        "calibrated": score_table(y, calibrated[known]),
        "stage_two": score_table(y, oof[known]),
        "gain": compare(y, calibrated[known], oof[known], patients[known], seed=run.recipe.seed),
    }
    for name in ("weighted", *LABELS):
        one, two, gain = scores["calibrated"][name], scores["stage_two"][name], scores["gain"][name]
        area = "" if name == "weighted" else f"   AUC {_auc(one)} -> {_auc(two)}"
        run.say(f"  {name:17} log loss {one['loss']:.4f} -> {two['loss']:.4f}, gain {gain['gain']:+.4f} "
                f"[{gain['low']:+.4f}, {gain['high']:+.4f}]{area}")  # fmt: skip
    run.say("  (calibrated stage one -> stage two, out of fold, with the 95 % interval over patients)")
    return scores


def _auc(score):
    return "undefined" if score["auc"] is None else f"{score['auc']:.3f}"


def _inner(found):
    if found["stacked"]:
        return f"{found['trials']} trials, inner loss {found['inner_calibrated']:.4f} -> {found['inner_loss']:.4f}"
    return f"not stacked: {found['why']}"
