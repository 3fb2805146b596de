"""The card of a packed model: its training data, its scores, and what it must not be used for."""

import datetime
from typing import Any

import numpy as np
import pandas as pd

from ct.checks.training_ranges import TYPICAL_STEP
from ct.evaluation.operating_points import POINTS
from ct.labels import LABELS
from ct.metrics import score_table
from ct.storage.file_formats import read_table
from pipeline.receipt import commit
from pipeline.run_context import Run
from pipeline.scoring.scoring_model import ScoringModel, study_calibration_of_run
from pipeline.stage_data.run_tables import patients_of_folds
from stage1_cnn.config import CnnConfig

CARD = """# {name}: a model of ICH-Stack

Six probabilities of intracranial hemorrhage for each slice of a head CT, and for the whole study.

**Not a medical device.** For research and teaching only. Never use it to decide about a patient,
for triage, or in place of a radiologist.

## What it is

{cnns}, with {folds} folds each; a blend of {components} for each label and fold; the final
probability is the mean over the folds. Made on {made} at commit {commit}. The recipe is
`recipe.yaml`; `model.json` holds the digest of every file.{all_data}{distilled}

    python run.py score --data=FOLDER_OR_ZIP --model=THIS_FOLDER --to=OUT

## Training data

{slices:,} slices of {studies:,} studies of {patients:,} patients. Share of positive slices
(smoothed): {prior}.

Ranges that hold almost all training series: {training}. For every study, `score` lists what lies
outside these ranges. This folder holds no identifiers, pixels or labels of the training data.

## Scores

Out of fold: neither the CNNs nor the stackers were trained on the scored patients. Brackets: 95 %
interval over patients. Lower loss is better.

| | slices: log loss | AUC | positive | studies: log loss | AUC | positive |
|---|---|---|---|---|---|---|
{scores}

The scores of a label with few positives are uncertain: see its interval. Without positives,
neither loss nor AUC means much.

## Operating points

Thresholds chosen on the out-of-fold probabilities; a probability reaches one where it is equal or
larger. Brackets: 95 % interval for as many new patients as one fold holds. All in `stage2.json`.

| | wanted | slices: threshold | sensitivity | specificity | studies: threshold | sens. | spec. |
|---|---|---|---|---|---|---|---|
{points}

## Limits

- It was not tested on other data: scanners, sites, ages, diseases and reconstructions that the
  training data lack may give wrong probabilities.
- Only axial CT of the whole head without contrast: no partial scans, no localizers, no angiography.
- The folder holds no patient names, so `score` cannot detect a patient of the training data. The
  probabilities of such a study are too good.
- The probability of a study is Platt's calibration of the mean of its three largest logits. It was
  fitted on out-of-fold probabilities; here it is applied to the mean over the folds, which is a
  little smoother.
"""
ALL_DATA_NOTE = """

In place of the CNNs of the folds, this folder holds one of each that was trained on the slices of
all folds, for as many epochs. No labelled patient is left to score it: the scores and thresholds
below are those of the CNNs of the folds."""

DISTILLED_NOTE = """

With `--fast`, one distilled CNN ({distilled}) predicts in their place. It was trained on the slices
of all folds. No labelled patient is left to score it: `evaluate --fast` measures it on studies that
it never saw."""


def training_card(run: Run, model: ScoringModel) -> dict[str, Any]:
    """Return the values of a model's card: counts and scores, nothing about a single patient.

    model: the models of `run`
    """
    slices, fold = read_table(run.dir.slices), read_table(run.dir.folds)["fold"]
    train = slices[slices["split"] == "train"]
    labelled = train[list(LABELS)].notna().all(axis=1).to_numpy()
    y = train.loc[labelled, list(LABELS)].to_numpy(np.float64)
    oof = read_table(run.dir.stage2 / "oof.parquet")
    oof = oof.reindex(train.index[labelled])[list(LABELS)].to_numpy()
    _, studies = study_calibration_of_run(run, train, fold.reindex(train.index).to_numpy())
    patients = pd.Series(patients_of_folds(run.dir, slices), index=slices.index)[train.index]
    by_study = patients.groupby(train["study_id"]).first().reindex(studies.index)
    study_y = studies[list(LABELS)].to_numpy(np.float64)
    study_p = studies[[f"p_{label}" for label in LABELS]].to_numpy()
    seed = run.recipe.seed
    return {
        "name": run.recipe.name,
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "cnns": [_cnn(config) for config in run.recipe.stage1.models],
        "folds": run.recipe.folds.k,
        "all_data": run.recipe.stage1.all_data,
        **({"distilled": _cnn(distilled)} if (distilled := run.recipe.stage1.distilled) else {}),
        "components": list(run.recipe.stage2.components),
        "slices": int(labelled.sum()),
        "studies": len(studies),
        "patients": train["patient_id"][labelled].nunique(),
        "prior": model.stage2["prior"],
        "training": model.stage2["training"],
        "operating_points": model.stage2["operating_points"],
        "of_slices": score_table(y, oof, patients[labelled].to_numpy(object), seed),
        "of_studies": score_table(study_y, study_p, by_study.to_numpy(object), seed),
    }


def card_text(card: dict[str, Any]) -> str:
    """Return a model's card as markdown. card: as returned by `training_card`"""
    rows = []
    for name in ("weighted", *LABELS):
        cells = [*_cells(card["of_slices"][name]), *_cells(card["of_studies"][name])]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    ranges = []
    for name, value in card["training"].items():
        if name not in ("series", TYPICAL_STEP):
            low, high = value
            ranges.append(f"{name} {low:.3g} to {high:.3g}")
    values = {
        "cnns": ", ".join(card["cnns"]),
        "all_data": ALL_DATA_NOTE if card["all_data"] else "",
        "distilled": DISTILLED_NOTE.format(**card) if "distilled" in card else "",
        "components": ", ".join(card["components"]),
        "prior": ", ".join(f"{label} {share:.1%}" for label, share in card["prior"].items()),
        "training": ", ".join(ranges),
        "scores": "\n".join(rows),
        "points": "\n".join(_point_rows(card["operating_points"])),
    }
    return CARD.format(**{**card, **values})


def _cnn(config: CnnConfig) -> str:
    """Return a CNN as the card names it."""
    return config.backbone + (f" ({config.seeds} seeds)" if config.seeds > 1 else "")


def _point_rows(points: dict[str, Any]) -> list[str]:
    """Return the rows of the operating points, one for each label and wanted rate."""
    rows = []
    for label in LABELS:
        for name in POINTS:
            wanted = "{} {} %".format(*name.rsplit("_", 1))
            cells = [
                cell
                for level in ("slices", "studies")
                for cell in _point(points[level][label][name])
            ]
            rows.append(f"| {label} | {wanted} | {' | '.join(cells)} |")
    return rows


def _point(point: dict[str, Any]) -> list[str]:
    """Return the cells of one operating point: threshold, sensitivity, specificity."""
    if "threshold" not in point:
        return [f"none: {point['why']}", "", ""]
    rates = [point["sensitivity"], point["specificity"]]
    intervals = [f"{r['value']:.1%} [{r['low']:.1%}, {r['high']:.1%}]" for r in rates]
    return [f"{point['threshold']:.4g}", *intervals]


def _cells(score: dict[str, Any]) -> list[str]:
    """Return the cells of one label: loss with interval, AUC, number of positives."""
    loss = f"{score['loss']:.4f}"
    if score["low"] is not None:  # one patient gives none
        loss += f" [{score['low']:.4f}, {score['high']:.4f}]"
    if "auc" not in score:
        return [loss, "", ""]
    auc = "undefined" if score["auc"] is None else f"{score['auc']:.3f}"
    return [loss, auc, f"{score['positives']:,}"]
