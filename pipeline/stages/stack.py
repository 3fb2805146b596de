"""The stage `stack`: from the features to the final probabilities and their scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.averaging import combine_folds
from ct.labels import LABELS
from ct.metrics import gain_table, score_table
from ct.run_dir import RunDir
from ct.storage.atomic_write import discard, replacing
from ct.storage.file_formats import read_array, read_json, read_table, write_json, write_table
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.stage_data.run_tables import load_predictions, load_rows, load_starts, load_test_fold
from stage2_stack.ablation import ablation
from stage2_stack.blending import Blend
from stage2_stack.stack_context import StackData
from stage2_stack.stacker import LabelStack, fit_stack, steps

Stacks = dict[str, LabelStack]


def stack(run: Run, receipt: Receipt) -> None:
    """Fit and blend the components; write probabilities, models and scores."""
    X, y, fold, patients, names = load_rows(run.dir)
    data = StackData(X, y, fold, patients, names, *load_starts(run.dir))
    test_X = read_array(run.dir.stage2 / "features" / "test.npy")
    tuned, seed = read_json(run.dir.stage2 / "configs.json"), run.recipe.seed
    with run.bar(steps(run.recipe.stage2), "stacking", "step") as bar:
        stacks = fit_stack(data, test_X, tuned, run.recipe.stage2, seed, bar.update)
    receipt.made += _write_tables(run.dir, stacks)
    receipt.made += _write_models(run.dir, stacks, names)
    scores = _score(run, data, stacks)
    steps_of_ablation = ablation(stacks, y, data.labelled, patients, seed)
    _log_ablation(run.log, steps_of_ablation)
    scores["ladder"] = steps_of_ablation  # the key that older reports read
    scores["blend"] = {
        label: [_blend_facts(k, blend) for k, blend in enumerate(stacks[label].blends)]
        for label in LABELS
    }
    write_json(run.dir.stage2 / "scores.json", scores)
    receipt.made.append(run.dir.stage2 / "scores.json")
    discard(run.dir.binned)  # of the features: nothing reads them any more


def _write_tables(run: RunDir, stacks: Stacks) -> list[Path]:
    """Write the four tables of final probabilities. Returns their paths."""
    slices, test_fold = read_table(run.slices), load_test_fold(run)
    tables = {
        ("calibrated", "train"): _columns(stacks, "calibrated"),
        ("oof", "train"): _columns(stacks, "oof"),
        ("test", "test"): combine_folds(_columns(stacks, "test"), test_fold),
        ("calibrated_test", "test"): combine_folds(_columns(stacks, "calibrated_test"), test_fold),
    }
    paths = []
    for (name, split), values in tables.items():
        index = slices.index[slices["split"] == split]
        paths.append(run.stage2 / f"{name}.parquet")
        write_table(paths[-1], pd.DataFrame(values, index=index, columns=list(LABELS)))
    return paths


def _columns(stacks: Stacks, name: str) -> NDArray[np.float64]:
    """Return an attribute of all LabelStacks, (..., 6)."""
    return np.stack([getattr(stacks[label], name) for label in LABELS], axis=-1)


def _write_models(run: RunDir, stacks: Stacks, names: list[str]) -> list[Path]:
    """Write models, calibrations, weights, importances and contributions. Returns their paths."""
    with replacing(run.stage2 / "boosters") as part:
        part.mkdir()
        for label in LABELS:
            for name, model in stacks[label].models.items():
                (part / name).write_bytes(model)
    blends = {label: stacks[label].blends for label in LABELS}
    calibration = {
        label: [blend.platts["raw"]._asdict() for blend in of_label]
        for label, of_label in blends.items()
    }
    write_json(run.stage2 / "calibration.json", calibration)
    write_json(
        run.stage2 / "blend.json",
        {label: [blend.values() for blend in of_label] for label, of_label in blends.items()},
    )
    for table, attribute in (("importances", "gain"), ("contributions", "contributions")):
        columns = {label: getattr(stacks[label], attribute) for label in LABELS}
        by_feature = pd.DataFrame(columns, index=names).rename_axis("feature")
        write_table(run.stage2 / f"{table}.parquet", by_feature)
    written = (
        "boosters",
        "calibration.json",
        "blend.json",
        "importances.parquet",
        "contributions.parquet",
    )
    return [run.stage2 / name for name in written]


def _score(run: Run, data: StackData, stacks: Stacks) -> dict[str, Any]:
    """Return the scores of CNNs, calibrated stage one and stage two, and log the last two.

    An unreadable slice has no prediction of a CNN: the calibrated prior stands in.
    """
    labelled, seed = data.labelled, run.recipe.seed
    y, patients = data.y[labelled].astype(int), data.patients[labelled]
    calibrated, oof = (_columns(stacks, name)[labelled] for name in ("calibrated", "oof"))
    train = read_table(run.dir.slices).query("split == 'train'").index[labelled]
    models = {}
    for name, raw in load_predictions(run, train).items():
        predictions = np.where(np.isnan(raw), calibrated, raw.astype(np.float64))
        models[name] = score_table(y, predictions, patients, seed)
    scores = {
        "rows": int(labelled.sum()),
        "patients": len(set(patients)),
        "models": models,
        "calibrated": score_table(y, calibrated, patients, seed),
        "stage_two": score_table(y, oof, patients, seed),
        "gain": gain_table(y, calibrated, oof, patients, seed=seed),
    }
    for name in ("weighted", *LABELS):
        run.log(_score_line(scores, name))
    run.log(
        "  (calibrated stage one -> stage two, out of fold, with the 95 % interval over patients)"
    )
    return scores


def _score_line(scores: dict[str, Any], name: str) -> str:
    """Return the line of a label, or of the weighted score."""
    before, after, gain = (scores[part][name] for part in ("calibrated", "stage_two", "gain"))
    area = "" if name == "weighted" else f"   AUC {_auc(before)} -> {_auc(after)}"
    return (
        f"  {name:17} log loss {before['loss']:.4f} -> {after['loss']:.4f}, "
        f"gain {_interval(gain)}{area}"
    )


def _interval(gain: dict[str, float]) -> str:
    return f"{gain['gain']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"


def _auc(score: dict[str, Any]) -> str:
    return "undefined" if score["auc"] is None else f"{score['auc']:.3f}"


def _log_ablation(log: Callable[[str], None], steps_of_ablation: list[dict[str, Any]]) -> None:
    for step in steps_of_ablation:
        log(
            f"  {step['name']:24} weighted log loss {step['loss']['weighted']:.4f}, "
            f"gain {_interval(step['gain']['weighted'])}; tuned on: {step['tuned_on']}"
        )


def _blend_facts(k: int, blend: Blend) -> dict[str, Any]:
    """Return what scores.json keeps of a blend."""
    return {
        "fold": k,
        "stacked": blend.last is not None,
        "why": blend.why,
        "weights": blend.weights,
        "gains": blend.gains,
    }
