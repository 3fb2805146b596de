"""The stage `train`: one job for each CNN and fold, continued where it was interrupted."""

from pathlib import Path
from typing import Any

import pandas as pd

from ct.labels import LABELS
from ct.metrics import weighted_log_loss
from ct.storage.atomic_write import discard
from ct.storage.file_formats import read_json, read_table, write_table
from ct.storage.receipt_reader import read_receipt
from pipeline.freshness import inputs_digest
from pipeline.older_versions import reads_of_cnn, under_older_names
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.training.checkpoint_file import checkpoint_digest
from pipeline.training.cnn_jobs import dispatch
from pipeline.training.stage_one_inputs import StageOneInputs
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import ENVIRONMENT_FIELDS, environment, pick_device
from stage1_cnn.model import check_trainable

# what a job leaves in the folder of its fold
MADE = ("weights.safetensors", "curve.json", "held_out.parquet", "held_out_embeddings.npy")


def train(run: Run, receipt: Receipt) -> None:
    """Train every CNN on all folds but one, and predict the held-out fold with it.

    Writes weights, learning curve, predictions and embeddings of each fold, and the out-of-fold
    table of each CNN. A finished job is not repeated.
    """
    inputs, not_repeatable = StageOneInputs(run), []
    _check_trainable_on_gpu(run)
    for config in run.recipe.stage1.models:
        for k in range(run.recipe.folds.k):
            folder = run.dir.fold(config.name, k)
            reasons = _train_fold(inputs, config, k, receipt)
            receipt.made += [folder / name for name in MADE]
            not_repeatable += [f"{config.name} fold {k}: {reason}" for reason in reasons]
        write_table(run.dir.oof(config.name), _out_of_fold(run, config.name, inputs.slices))
        receipt.made.append(run.dir.oof(config.name))
    receipt.values |= environments_of_jobs(run, "train.json")
    if not_repeatable:
        receipt.values["not_repeatable"] = not_repeatable


def _train_fold(inputs: StageOneInputs, config: CnnConfig, k: int, receipt: Receipt) -> list[str]:
    """Run the job of one CNN and fold, unless it is fresh. Returns why it is not repeatable."""
    run, name, folder = inputs.run, config.name, inputs.run.dir.fold(config.name, k)
    part = {"model": config.model_dump(mode="json"), "seed": run.recipe.seed, "fold": k}
    read = reads_of_cnn(receipt.values["read"], name)
    why, job = run.job(folder / "train.json", "train", part, read)
    job.made = [folder / file for file in MADE]
    if why:
        with job:
            discard(run.dir.gradcam_folder(name))  # its maps are of other weights
            digest = _training_digest(inputs, name, k, part, receipt.values["read"])
            job.values |= environment(config)
            if reasons := dispatch(inputs, "train", name, k, digest):
                job.values["not_repeatable"] = reasons
            dispatch(inputs, "predict", name, k, "held_out", digest)
            inputs.discard_checkpoint(name, k)
    run.log(f"  {name} fold {k}: {_summary(folder)}{'' if why else ', kept'}")
    return read_json(folder / "train.json").get("not_repeatable", [])


def _check_trainable_on_gpu(run: Run) -> None:
    """Try a training step of every CNN on the GPU before the first one trains for hours.

    `new` checks them, too, but may have run on a machine without a GPU. Raises InputError where a
    backbone cannot be trained here.
    """
    if pick_device().type == "cuda":
        for config in run.recipe.stage1.models:
            check_trainable(config, run.recipe.pixels.size)


def environments_of_jobs(run: Run, name: str) -> dict[str, Any]:
    """Return {field: value} of ENVIRONMENT_FIELDS in the receipts of a stage's jobs.

    name: of the receipts. A value is a list where the jobs differ. The receipts of an older version
    lack the fields.
    """
    receipts = []
    for config in run.recipe.stage1.models:
        for k in range(run.recipe.folds.k):
            receipts.append(read_receipt(run.dir.fold(config.name, k) / name) or {})
    environments: dict[str, Any] = {}
    for field in ENVIRONMENT_FIELDS:
        values = sorted({receipt[field] for receipt in receipts if field in receipt})
        if values:
            environments[field] = values[0] if len(values) == 1 else values
    return environments


def _training_digest(
    inputs: StageOneInputs, name: str, k: int, part: dict[str, Any], read: dict[str, str]
) -> str:
    """Return the digest of everything that a training depends on.

    Where the checkpoint has the digest that an older version computed, return that.
    """
    models = inputs.run.recipe_part(("stage1.models",))["stage1.models"]
    older = inputs_digest(part, under_older_names(read, models))
    if checkpoint_digest(inputs.checkpoint(name, k)) == older:
        return older
    return inputs_digest(part, reads_of_cnn(read, name))


def _summary(folder: Path) -> str:
    """Return the losses of the last epoch and the time of a job, for the log."""
    last, loss = read_json(folder / "curve.json")[-1], "no labels"
    if last["held_out_loss"] is not None:
        loss = f"{last['held_out_loss']:.4f}"
    seconds = read_json(folder / "train.json")["seconds"]
    return (
        f"{last['epoch']} epochs, train loss {last['train_loss']:.4f}, "
        f"held-out weighted log loss {loss}, {seconds:.0f} s"
    )


def _out_of_fold(run: Run, name: str, slices: pd.DataFrame) -> pd.DataFrame:
    """Return the held-out probabilities of all folds, joined by slice id.

    They are NaN where a slice is not readable. Raises ValueError where others are missing.
    """
    tables = []
    for k in range(run.recipe.folds.k):
        tables.append(read_table(run.dir.fold(name, k) / "held_out.parquet"))
    table = pd.concat(tables).reindex(slices.index[slices["split"] == "train"])
    readable = slices.loc[table.index, "readable"]
    if table.loc[readable].isna().any(axis=None):
        raise ValueError(f"{name}: out-of-fold probabilities are incomplete")
    labels = slices.loc[table.index, list(LABELS)]
    scored = labels.notna().all(axis=1) & readable
    loss = weighted_log_loss(labels[scored].to_numpy(), table[scored].to_numpy())
    run.log(f"  {name}: out-of-fold weighted log loss {loss:.4f} before calibration")
    return table
