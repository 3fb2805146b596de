"""The stages `features` and `stack`: from the CNNs' opinions to the final probabilities."""

import numpy as np
import pandas as pd

from ct.ensemble import combine_folds
from ct.labels import LABELS, WEIGHTS
from ct.metrics import gain_table, log_loss, patient_bootstrap, score_table
from ct.storage.atomic_write import replacing
from ct.storage.file_formats import read_array, read_json, read_table, write_json, write_table
from pipeline.stage_data.run_tables import load_predictions, load_rows, load_starts, load_test_fold
from stage2_stack.config import COMPONENTS
from stage2_stack.stacker import Rows, fit_stack, steps


def stack(run, receipt):
    """Fit and blend the components, per label and fold; write out-of-fold and test probabilities,
    and the scores.
    """
    X, y, fold, patients, names = load_rows(run.dir)
    test_X, configs = (
        read_array(run.dir.stage2 / "features" / "test.npy"),
        read_json(run.dir.stage2 / "configs.json"),
    )
    with run.bar(steps(run.recipe.stage2), "stacking", "step") as bar:
        rows = Rows(X, y, fold, patients, names, *load_starts(run.dir))
        made = fit_stack(rows, test_X, configs, run.recipe.stage2, run.recipe.seed, bar.update)
    known = ~np.isnan(y).any(axis=1)
    calibrated, oof = (
        np.column_stack([getattr(made[label], part) for label in LABELS])
        for part in ("calibrated", "oof")
    )
    receipt.made += _write_tables(run.dir, made, calibrated, oof)
    receipt.made += _write_models(run.dir, made, names)
    scores = _score(run, y, known, oof, calibrated, patients)
    scores["ladder"] = ladder(made, y, known, patients, run.recipe.seed)
    scores["blend"] = {
        label: [_blend_facts(k, blend) for k, blend in enumerate(made[label].blends)]
        for label in LABELS
    }
    _say_ladder(run.log, scores["ladder"])
    write_json(run.dir.stage2 / "scores.json", scores)
    receipt.made.append(run.dir.stage2 / "scores.json")


def _write_tables(run, made, calibrated, oof):
    """Write the four tables of final probabilities. Returns their paths."""
    slices, test_fold = read_table(run.slices), load_test_fold(run)
    test = {
        name: combine_folds(
            np.stack([getattr(made[label], part) for label in LABELS], axis=2), test_fold
        )
        for name, part in (("test", "test"), ("calibrated_test", "calibrated_test"))
    }
    paths = []
    for name, values in {"calibrated": calibrated, "oof": oof, **test}.items():
        index = slices.index[slices["split"] == ("test" if name in test else "train")]
        paths.append(run.stage2 / f"{name}.parquet")
        write_table(paths[-1], pd.DataFrame(values, index=index, columns=list(LABELS)))
    return paths


def _write_models(run, made, names):
    """Write models, calibrations, weights, importances and contributions. Returns their paths."""
    with replacing(run.stage2 / "boosters") as part:
        part.mkdir()
        for label in LABELS:
            for name, model in made[label].models.items():
                (part / name).write_bytes(model)
    calibration = {
        label: [blend.platts["raw"]._asdict() for blend in made[label].blends] for label in LABELS
    }
    write_json(run.stage2 / "calibration.json", calibration)
    write_json(
        run.stage2 / "blend.json",
        {label: [_blend_values(b) for b in made[label].blends] for label in LABELS},
    )
    for name, part in (("importances", "gain"), ("contributions", "contributions")):
        found = pd.DataFrame(
            {label: getattr(made[label], part) for label in LABELS}, index=names
        ).rename_axis("feature")
        write_table(run.stage2 / f"{name}.parquet", found)
    made = (
        "boosters",
        "calibration.json",
        "blend.json",
        "importances.parquet",
        "contributions.parquet",
    )
    return [run.stage2 / name for name in made]


def _score(run, y, known, oof, calibrated, patients):
    """Return scores.json, and say its main lines. An unreadable slice has no CNN's opinion: the
    calibrated prior stands in.
    """
    y, index = (
        y[known].astype(int),
        read_table(run.dir.slices).query("split == 'train'").index[known],
    )
    patients, seed, models = patients[known], run.recipe.seed, {}
    for name, raw in load_predictions(run, index).items():
        models[name] = score_table(
            y, np.where(np.isnan(raw), calibrated[known], raw.astype(np.float64)), patients, seed
        )
    scores = {
        "rows": int(known.sum()),
        "patients": len(set(patients)),
        "models": models,
        "calibrated": score_table(y, calibrated[known], patients, seed),
        "stage_two": score_table(y, oof[known], patients, seed),
        "gain": gain_table(y, calibrated[known], oof[known], patients, seed=seed),
    }
    for name in ("weighted", *LABELS):
        one, two, gain = scores["calibrated"][name], scores["stage_two"][name], scores["gain"][name]
        area = "" if name == "weighted" else f"   AUC {_auc(one)} -> {_auc(two)}"
        run.log(
            f"  {name:17} log loss {one['loss']:.4f} -> {two['loss']:.4f}, gain {gain['gain']:+.4f} "
            f"[{gain['low']:+.4f}, {gain['high']:+.4f}]{area}"
        )
    run.log(
        "  (calibrated stage one -> stage two, out of fold, with the 95 % interval over patients)"
    )
    return scores


def _auc(score):
    return "undefined" if score["auc"] is None else f"{score['auc']:.3f}"


# component -> what it is, and what was tuned on what, beside the calibration on the other folds
RUNGS = {
    "raw": ("mean of the CNNs", "nothing but its calibration"),
    "smooth": ("smoothed", "widths that served public solutions"),
    "chain": ("chain", "rates and temper on the other folds"),
    "lightgbm": ("LightGBM, a label each", "optuna on the other folds, each fold its own search"),
    "pooled": ("LightGBM, pooled", "rounds on the other folds' nested predictions"),
    "subtypes": (
        "one subtype at least",
        "nothing but its calibration; `any` alone, from the finished subtypes",
    ),
    "xgboost": ("XGBoost, a label each", "rounds on the other folds' nested predictions"),
    "catboost": ("CatBoost, a label each", "rounds on the other folds' nested predictions"),
    "gru": ("GRU over the series", "epochs on the other folds' nested predictions"),
    "blend": ("blend", "weights and what is kept on the other folds' nested predictions"),
}


def ladder(made, y, known, patients, seed):
    """Return the rungs from the calibrated mean of the CNNs to the blend, on the held-out rows that
    are labelled.

    made: {label: Stacked}; y: (n, 6); known: bool (n,); patients: (n,)

    Returns a list of {"component", "name", "tuned_on", "loss": {label or "weighted": loss}, "gain":
    {likewise: {"gain", "low", "high"}}}, the gain over the first rung, with its 95 % interval. A
    label that a component says nothing of counts with the calibrated mean of the CNNs.
    """
    y, patients, rungs = y[known], patients[known], []
    has = {name for label in LABELS for name in made[label].rungs}
    start = log_loss(y, np.column_stack([made[label].rungs["raw"] for label in LABELS])[known])
    for component in (*(name for name in COMPONENTS if name in has), "blend"):
        said = [
            made[label].oof
            if component == "blend"
            else made[label].rungs.get(component, made[label].calibrated)
            for label in LABELS
        ]
        losses = log_loss(y, np.column_stack(said)[known])
        gain = np.column_stack([(start - losses) @ WEIGHTS, start - losses])
        low, high = patient_bootstrap(gain, patients, seed=seed)
        columns = enumerate(("weighted", *LABELS))
        name, tuned_on = RUNGS[component]
        rungs.append(
            {
                "component": component,
                "name": name,
                "tuned_on": tuned_on,
                "loss": {
                    "weighted": float(losses.mean(axis=0) @ WEIGHTS),
                    **dict(zip(LABELS, losses.mean(axis=0).tolist(), strict=True)),
                },
                "gain": {
                    n: {
                        "gain": float(gain[:, j].mean()),
                        "low": float(low[j]),
                        "high": float(high[j]),
                    }
                    for j, n in columns
                },
            }
        )
    return rungs


def _say_ladder(log, rungs):
    for rung in rungs:
        gain = rung["gain"]["weighted"]
        log(
            f"  {rung['name']:24} weighted log loss {rung['loss']['weighted']:.4f}, gain {gain['gain']:+.4f} "
            f"[{gain['low']:+.4f}, {gain['high']:+.4f}]; tuned on: {rung['tuned_on']}"
        )


def _blend_facts(k, blend):
    return {
        "fold": k,
        "stacked": blend.last is not None,
        "why": blend.why,
        "weights": blend.weights,
        "gains": blend.gains,
    }


def _blend_values(blend):
    """Return a blend as plain values: what its logits are made of."""
    platts = {
        name: platt._asdict() for name, platt in blend.platts.items() if name in blend.weights
    }
    return {
        "calibrations": platts,
        "weights": blend.weights,
        "last": blend.last and blend.last._asdict(),
    }
