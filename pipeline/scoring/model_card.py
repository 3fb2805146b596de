"""The card of a model: what it was trained on, how good it is, and what it is not for."""

import datetime

import numpy as np
import pandas as pd

from ct.labels import LABELS
from ct.metrics import score_table
from ct.run_dir import read_table
from pipeline.receipt import commit
from pipeline.scoring.scoring_model import studies_of_run
from pipeline.stage_data.run_tables import patients_of_folds

CARD = """# {name}: a model of ICH-Stack

Six probabilities of intracranial hemorrhage for each slice of a head CT, and for the study as a whole.

**Not a medical device.** For research and learning; never for a decision about a patient, in triage, or in place of a reader.

## What it is

{cnns}. Their {folds} folds each; a blend of {components} a label and fold; the final probability is the mean over the folds.
Made on {made} at commit {commit}. The recipe is `recipe.yaml`, the digest of every file stands in `model.json`.

    python run.py score --data=FOLDER_OR_ZIP --model=THIS_FOLDER --to=OUT

## What it was trained on

{slices:,} slices of {studies:,} studies of {patients:,} patients. Share of positive slices (smoothed): {prior}.
Series are like this, all but a few: {training}.
`score` says of every study in what it is unlike these. No identifiers, pixels or labels of them are in this folder.

## How good it is

Out of fold: by CNNs and stackers that never saw the patient. In brackets the 95 % interval over patients; lower is better.

| | slices: log loss | AUC | positive | studies: log loss | AUC | positive |
|---|---|---|---|---|---|---|
{scores}

A label with few positives is hardly known here: its interval says so, and where it has none, neither loss nor AUC means much.

## What it is not for, and what it does not know

- Scanners, sites, ages, diseases and reconstructions that its training data lack. It was not tested on other data.
- Anything but axial CT of heads without contrast, from the whole head: no cut-outs, no localizers, no angiography.
- Whether a study is of a patient it was trained on: no names are in here to tell. For such a study its numbers are too good.
- The probability of a study is Platt's, of the mean of its three largest logits; it was fitted on probabilities out of fold,
  and the mean over folds, which it reads here, is a little smoother.
"""


def training_card(run, model):
    """Return what a model's card says, as plain values: counts and scores, and nothing of a single
    patient.

    run: pipeline.run_context.Run; model: the Model that it is
    """
    slices, fold = read_table(run.dir.slices), read_table(run.dir.folds)["fold"]
    train = slices[slices["split"] == "train"]
    known = train[list(LABELS)].notna().all(axis=1).to_numpy()
    y = train.loc[known, list(LABELS)].to_numpy(np.float64)
    oof = (
        read_table(run.dir.stage2 / "oof.parquet")
        .reindex(train.index[known])[list(LABELS)]
        .to_numpy()
    )
    _, studies = studies_of_run(run, train, fold.reindex(train.index).to_numpy())
    groups = pd.Series(patients_of_folds(run.dir, slices), index=slices.index)[train.index]
    of_study = groups.groupby(train["study_id"]).first().reindex(studies.index).to_numpy(object)
    said = studies[[f"p_{label}" for label in LABELS]].to_numpy()
    return {
        "name": run.recipe.name,
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit(),
        "cnns": [config.backbone for config in run.recipe.stage1.models],
        "folds": run.recipe.folds.k,
        "components": list(run.recipe.stage2.components),
        "slices": int(known.sum()),
        "studies": len(studies),
        "patients": train["patient_id"][known].nunique(),
        "prior": model.stage2["prior"],
        "training": model.stage2["training"],
        "of_slices": score_table(y, oof, groups[known].to_numpy(object), run.recipe.seed),
        "of_studies": score_table(
            studies[list(LABELS)].to_numpy(np.float64), said, of_study, run.recipe.seed
        ),
    }


def card_text(card):
    """Return a model's card as markdown."""
    rows = []
    for name in ("weighted", *LABELS):
        cells = [cell for part in ("of_slices", "of_studies") for cell in _cells(card[part][name])]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    training = {name: ends for name, ends in card["training"].items() if name != "series"}
    values = {
        "cnns": ", ".join(card["cnns"]),
        "components": ", ".join(card["components"]),
        "prior": ", ".join(f"{label} {share:.1%}" for label, share in card["prior"].items()),
        "training": ", ".join(
            f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in training.items()
        ),
        "scores": "\n".join(rows),
    }
    return CARD.format(**{**card, **values})


def _cells(score):
    loss = f"{score['loss']:.4f} [{score['low']:.4f}, {score['high']:.4f}]"
    if "auc" not in score:
        return [loss, "", ""]
    return [
        loss,
        "undefined" if score["auc"] is None else f"{score['auc']:.3f}",
        f"{score['positives']:,}",
    ]
