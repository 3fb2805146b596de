"""The stages `features` and `stack`: from the CNNs' opinions to the final probabilities."""

import lightgbm as lgb
import numpy as np
import pandas as pd
from scipy.special import expit

from ct.labels import LABELS
from ct.metrics import compare, score_table
from ct.rundir import read_array, read_json, read_table, replacing, write_array, write_json, write_table, write_text
from ct.seeds import derive_seed
from features.build import build_features, describe
from pipeline.tables import load_rows, load_test_fold, route
from stage2_stack.boost import boosted_logit, fit_booster, gain_share, make_dataset
from stage2_stack.calibrate import cross_fit


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
