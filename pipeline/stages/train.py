"""The stage `train`: join what its units (pipeline/training/training_unit.py) leave."""

from typing import Any

import pandas as pd

from ct.averaging import Kind, StageOne
from ct.labels import LABELS
from ct.metrics import weighted_log_loss
from ct.run_dir import ALL_DATA, HELD_OUT_TABLE, fold_title
from ct.storage.file_formats import read_json, read_table
from ct.storage.prediction_files import kind_of, write_predictions
from ct.storage.receipt_reader import read_receipt
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.training.training_unit import made_of
from stage1_cnn.device import ENVIRONMENT_FIELDS


def train(run: Run, receipt: Receipt) -> None:
    """Write the out-of-fold table of each CNN and seed from the predictions of all folds."""
    slices, not_repeatable = read_table(run.dir.slices), []
    stage1 = run.recipe.stage1
    units = [(config.name, k) for config in stage1.fits() for k in run.recipe.trained_folds()]
    if stage1.distilled:
        units.append((stage1.distilled.name, ALL_DATA))
    for name, k in units:
        folder = run.dir.fold(name, k)
        receipt.made += [folder / file for file in made_of(k)]
        for reason in read_json(folder / "train.json").get("not_repeatable", []):
            not_repeatable.append(f"{name} {fold_title(k)}: {reason}")
    for config in stage1.fits():
        oof, kind = _out_of_fold(run, config.name, slices)
        write_predictions(run.dir.oof(config.name), oof, kind)
        receipt.made.append(run.dir.oof(config.name))
    receipt.values |= environments_of_units(run, "train.json")
    if not_repeatable:
        receipt.values["not_repeatable"] = not_repeatable


def environments_of_units(run: Run, name: str) -> dict[str, Any]:
    """Return {field: value} of ENVIRONMENT_FIELDS in the receipts of a stage's units.

    name: of the receipts. A value is a list where the units differ. The receipts of an older
    version lack the fields.
    """
    receipts = []
    for config in run.recipe.stage1.fits():
        for k in range(run.recipe.folds.k):
            receipts.append(read_receipt(run.dir.fold(config.name, k) / name) or {})
    environments: dict[str, Any] = {}
    for field in ENVIRONMENT_FIELDS:
        values = sorted({receipt[field] for receipt in receipts if field in receipt})
        if values:
            environments[field] = values[0] if len(values) == 1 else values
    return environments


def _out_of_fold(run: Run, name: str, slices: pd.DataFrame) -> tuple[pd.DataFrame, Kind | None]:
    """Return the held-out predictions of all folds, joined by slice id, and their kind.

    They are NaN where a slice is not readable. The kind is as in `write_predictions`. Raises
    ValueError where predictions are missing, or the folds' are of several kinds.
    """
    tables = []
    for k in range(run.recipe.folds.k):
        tables.append(read_table(run.dir.fold(name, k) / HELD_OUT_TABLE))
    table = pd.concat(tables).reindex(slices.index[slices["split"] == "train"])
    readable = slices.loc[table.index, "readable"]
    if table.loc[readable].isna().any(axis=None):
        raise ValueError(f"{name}: out-of-fold predictions are incomplete")
    kind, *others = {kind_of(each) for each in tables}
    if others:
        raise ValueError(f"{name}: some folds hold logits, others probabilities")
    labels = slices.loc[table.index, list(LABELS)]
    scored = labels.notna().all(axis=1) & readable
    probabilities = StageOne(table[scored].to_numpy(), kind).probabilities()
    loss = weighted_log_loss(labels[scored].to_numpy(), probabilities)
    run.log(f"  {name}: out-of-fold weighted log loss {loss:.4f} before calibration")
    return table, kind if kind == "logits" else None
