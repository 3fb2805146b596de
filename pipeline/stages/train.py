"""The stage `train`: a unit for each CNN and fold, continued where it was interrupted."""

import functools
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ct.averaging import Kind, StageOne
from ct.labels import LABELS
from ct.metrics import weighted_log_loss
from ct.run_dir import ALL_DATA, fold_title
from ct.storage.atomic_write import discard
from ct.storage.file_formats import read_json, read_table
from ct.storage.prediction_files import kind_of, write_predictions
from ct.storage.receipt_reader import read_receipt
from pipeline.freshness import inputs_digest
from pipeline.older_versions import reads_of_cnn, under_older_names
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.training.checkpoint_file import checkpoint_digest
from pipeline.training.cnn_jobs import dispatch
from pipeline.training.fold_unit import FoldUnit
from pipeline.training.stage_one_inputs import StageOneInputs
from pipeline.units.unit import Log, MakeBar, Unit
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import ENVIRONMENT_FIELDS, environment, pick_device
from stage1_cnn.model import check_trainable

# what a unit leaves in the folder of its fold
TRAINED = ("weights.safetensors", "curve.json")
MADE = (*TRAINED, "held_out.parquet", "held_out_embeddings.npy")


@dataclass(frozen=True)
class TrainFold(FoldUnit):
    """Train one CNN on all folds but one, and predict the held-out fold with it.

    Writes weights, learning curve, predictions and embeddings. A CNN of ALL_DATA holds no slices
    out: it leaves weights and curve. read: digests of what the stage reads
    """

    stage = "train"

    def run(self, log: Log, bar: MakeBar) -> None:
        """Train, or continue a training, and predict the held-out slices."""
        run, name, k = Run(self.root, log, bar), self.model, self.fold
        _check_trainable_on_gpu(run)
        inputs, part, read = StageOneInputs(run), self.part(run), self.own_inputs()
        receipt = Receipt(run.dir.root, self.receipt(run), "train", part, read)
        receipt.made = [run.dir.fold(name, k) / file for file in made_of(k)]
        with receipt:
            discard(run.dir.gradcam_folder(name))  # its maps are of other weights
            digest = self.training_digest(inputs, part)
            receipt.values |= environment(inputs.config(name))
            if reasons := dispatch(inputs, "train", name, k, digest):
                receipt.values["not_repeatable"] = reasons
            if k != ALL_DATA:
                dispatch(inputs, "predict", name, k, "held_out", digest)
            inputs.discard_checkpoint(name, k)

    def summary(self) -> str:
        """Return the losses of the last epoch and the time."""
        folder = Run(self.root).dir.fold(self.model, self.fold)
        last = read_json(folder / "curve.json")[-1]
        loss = "of no slices" if self.fold == ALL_DATA else "no labels"
        if last["held_out_loss"] is not None:
            loss = f"{last['held_out_loss']:.4f}"
        seconds = read_json(folder / "train.json")["seconds"]
        return (
            f"{self.model} {fold_title(self.fold)}: {last['epoch']} epochs, "
            f"train loss {last['train_loss']:.4f}, held-out weighted log loss {loss}, "
            f"{seconds:.0f} s"
        )

    def part(self, run: Run) -> dict[str, Any]:
        """Return the CNN, the seed and the fold."""
        config = run.recipe.stage1.model(self.model)
        return {
            "model": config.model_dump(mode="json"),
            "seed": run.recipe.seed,
            "fold": self.fold,
        }

    def own_inputs(self) -> dict[str, str]:
        """Return the digests of what this unit reads: no weights of other CNNs."""
        return reads_of_cnn(self.read, self.model)

    def training_digest(self, inputs: StageOneInputs, part: dict[str, Any]) -> str:
        """Return the digest of everything that the training depends on.

        Where the checkpoint has the digest that an older version computed, return that. part: the
        unit's part of the recipe
        """
        models = inputs.run.recipe_part(("stage1.models",))["stage1.models"]
        older = inputs_digest(part, under_older_names(self.read, models))
        if checkpoint_digest(inputs.checkpoint(self.model, self.fold)) == older:
            return older
        return inputs_digest(part, self.own_inputs())


def training_units(run: Run, read: dict[str, str]) -> list[Unit]:
    """Return a TrainFold for each CNN, seed and fold."""
    root = str(run.dir.root)
    return [
        TrainFold(root, config.name, k, read)
        for config in run.recipe.stage1.fits()
        for k in run.recipe.trained_folds()
    ]


def made_of(k: int) -> tuple[str, ...]:
    """Return the names of the files of a unit of fold k."""
    return TRAINED if k == ALL_DATA else MADE


def train(run: Run, receipt: Receipt) -> None:
    """Write the out-of-fold table of each CNN and seed from the predictions of all folds."""
    slices, not_repeatable = read_table(run.dir.slices), []
    for config in run.recipe.stage1.fits():
        for k in run.recipe.trained_folds():
            folder = run.dir.fold(config.name, k)
            receipt.made += [folder / name for name in made_of(k)]
            for reason in read_json(folder / "train.json").get("not_repeatable", []):
                not_repeatable.append(f"{config.name} {fold_title(k)}: {reason}")
        oof, kind = _out_of_fold(run, config.name, slices)
        write_predictions(run.dir.oof(config.name), oof, kind)
        receipt.made.append(run.dir.oof(config.name))
    receipt.values |= environments_of_units(run, "train.json")
    if not_repeatable:
        receipt.values["not_repeatable"] = not_repeatable


def _check_trainable_on_gpu(run: Run) -> None:
    """Try a training step of every CNN on the GPU before the first one trains for hours.

    `new` checks them, too, but may have run on a machine without a GPU. Raises InputError where a
    backbone cannot be trained here.
    """
    if pick_device().type == "cuda":
        for config in run.recipe.stage1.models:
            _check_trainable_once(config, run.recipe.pixels.size)


@functools.cache
def _check_trainable_once(config: CnnConfig, size: int) -> None:
    check_trainable(config, size)


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
        tables.append(read_table(run.dir.fold(name, k) / "held_out.parquet"))
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
