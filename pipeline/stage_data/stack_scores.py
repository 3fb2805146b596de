"""The scores of stage two: of stage one, its calibration, each component and the blends."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ct.labels import LABELS
from ct.metrics import gain_table, score_table
from ct.storage.file_formats import read_table
from pipeline.run_context import Run
from pipeline.stage_data.run_tables import load_predictions
from stage2_stack.ablation import ablation
from stage2_stack.blending import Blend
from stage2_stack.stack_context import StackData
from stage2_stack.stacker import LabelStack

Stacks = Mapping[str, LabelStack]


def score_stacks(run: Run, data: StackData, stacks: Stacks) -> dict[str, Any]:
    """Return the values of scores.json, and log the most important ones."""
    scores = _score(run, data, stacks)
    steps = ablation(stacks, data.y, data.labelled, data.patients, run.recipe.seed)
    _log_ablation(run.log, steps)
    scores["ladder"] = steps  # the key that older reports read
    scores["blend"] = {
        label: [_blend_facts(k, blend) for k, blend in enumerate(stacks[label].blends)]
        for label in LABELS
    }
    return scores


def _score(run: Run, data: StackData, stacks: Stacks) -> dict[str, Any]:
    """Return the scores of CNNs, calibrated stage one and stage two, and log the last two.

    An unreadable slice has no prediction of a CNN: the calibrated prior stands in.
    """
    labelled, seed = data.labelled, run.recipe.seed
    y, patients = data.y[labelled].astype(int), data.patients[labelled]
    calibrated, oof = (
        np.stack([getattr(stacks[label], name)[labelled] for label in LABELS], axis=-1)
        for name in ("calibrated", "oof")
    )
    train = read_table(run.dir.slices).query("split == 'train'").index[labelled]
    models = {}
    for name, raw in load_predictions(run, train).items():
        probabilities = raw.probabilities()
        predictions = np.where(np.isnan(probabilities), calibrated, probabilities)
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


def _interval(gain: dict[str, Any]) -> str:
    if gain["low"] is None:
        return f"{gain['gain']:+.4f} (no interval of one patient)"
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
