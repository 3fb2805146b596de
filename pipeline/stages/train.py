"""The stages `train` and `predict`: one job a CNN and fold; a job that is done is not done again,
one begun is continued.
"""

import pandas as pd

from ct.labels import LABELS
from ct.metrics import weighted_log_loss
from ct.storage.atomic_write import discard
from ct.storage.file_formats import read_json, read_table, write_table
from ct.storage.receipts import read_receipt
from pipeline.freshness import inputs_digest
from pipeline.older_versions import reads_of_before, reads_of_cnn
from pipeline.training.checkpoint_file import checkpoint_digest
from pipeline.training.cnn_jobs import StageOneInputs, dispatch
from stage1_cnn.device import ENVIRONMENT_FIELDS, environment, pick_device
from stage1_cnn.model import check_trainable


def train(run, receipt):
    """Train every CNN on every fold but one; keep weights, learning curve, and what it thinks of
    the fold it never saw.
    """
    inputs, slices, unlike = StageOneInputs(run), read_table(run.dir.slices), []
    _try_on_gpu(run)
    for config in run.recipe.stage1.models:
        for k in range(run.recipe.folds.k):
            folder = run.dir.fold(config.name, k)
            part = {"model": config.model_dump(mode="json"), "seed": run.recipe.seed, "fold": k}
            read = reads_of_cnn(receipt.values["read"], config.name)
            why, job = run.job(folder / "train.json", "train", part, read)
            names = (
                "weights.safetensors",
                "curve.json",
                "held_out.parquet",
                "held_out_embeddings.npy",
            )
            job.made = [folder / name for name in names]
            if why:
                with job:
                    discard(run.dir.gradcam_folder(config.name))  # it is of other weights
                    same = _training_digest(inputs, config.name, k, part, receipt.values["read"])
                    job.values |= environment(config)
                    if reasons := dispatch(inputs, "train", config.name, k, same):
                        job.values["not_repeatable"] = reasons
                    dispatch(inputs, "predict", config.name, k, "held_out", same)
                    inputs.forget_checkpoint(config.name, k)
            run.log(f"  {config.name} fold {k}: {_last_line(folder)}{'' if why else ', kept'}")
            receipt.made += job.made
            reasons = read_json(folder / "train.json").get("not_repeatable", [])
            unlike += [f"{config.name} fold {k}: {reason}" for reason in reasons]
        write_table(run.dir.oof(config.name), _out_of_fold(run, config.name, slices))
        receipt.made.append(run.dir.oof(config.name))
    receipt.values |= environments_of_units(run, "train.json")
    if unlike:
        receipt.values["not_repeatable"] = unlike


def _try_on_gpu(run):
    """Try every CNN on the GPU before the first one trains for hours: `new` may have run on a
    machine without one.

    Raises InputError where a backbone cannot be trained there.
    """
    if pick_device().type == "cuda":
        for config in run.recipe.stage1.models:
            check_trainable(config, run.recipe.pixels.size)


def environments_of_units(run, name):
    """Return {"processes", "device", "precision"} of a stage's units: the value that all have, or a
    list of the values.

    name: of the units' receipts; those of an older version say nothing
    """
    models, k_folds = run.recipe.stage1.models, range(run.recipe.folds.k)
    units = [
        read_receipt(run.dir.fold(config.name, k) / name) for config in models for k in k_folds
    ]
    found = {
        fact: sorted({unit[fact] for unit in units if unit and fact in unit})
        for fact in ENVIRONMENT_FIELDS
    }
    return {
        fact: values[0] if len(values) == 1 else values for fact, values in found.items() if values
    }


def _training_digest(inputs, name, k, part, read):
    """Return the digest of all that a training depends on: that of an older version where its
    checkpoint has it.
    """
    older = inputs_digest(
        part, reads_of_before(read, inputs.run.recipe_part(("stage1.models",))["stage1.models"])
    )
    if checkpoint_digest(inputs.checkpoint(name, k)) == older:
        return older
    return inputs_digest(part, reads_of_cnn(read, name))


def _last_line(folder):
    last = read_json(folder / "curve.json")[-1]
    seen = "no labels" if last["held_out_loss"] is None else f"{last['held_out_loss']:.4f}"
    seconds = read_json(folder / "train.json")["seconds"]
    return f"{last['epoch']} epochs, train loss {last['train_loss']:.4f}, held-out weighted log loss {seen}, {seconds:.0f} s"


def _out_of_fold(run, name, slices):
    """Return the held-out probabilities of all folds, joined by slice id: NaN where no CNN could
    read the slice.
    """
    parts = [
        read_table(run.dir.fold(name, k) / "held_out.parquet") for k in range(run.recipe.folds.k)
    ]
    table = pd.concat(parts).reindex(slices.index[slices["split"] == "train"])
    readable = slices.loc[table.index, "readable"]
    if table.loc[readable].isna().any(axis=None):
        raise ValueError(f"{name}: out-of-fold probabilities are incomplete")
    known = slices.loc[table.index, list(LABELS)].notna().all(axis=1) & readable
    loss = weighted_log_loss(
        slices.loc[table.index[known], list(LABELS)].to_numpy(), table[known].to_numpy()
    )
    run.log(f"  {name}: out-of-fold weighted log loss {loss:.4f} before calibration")
    return table
