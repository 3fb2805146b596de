"""The work of stage one, one CNN and fold at a time, in one process or, under torchrun, in all of
them together.

Rank 0 runs the stage and gives an order for each job (`dispatch`); the other ranks do what it says
until it says that all is done (`worker_loop`). Every rank reads the same run folder, so on several
machines it lies on a disk that they share.
"""

from functools import cached_property

import numpy as np
import pandas as pd
from pyarrow.lib import ArrowException
from safetensors.torch import load_file, save_file

from ct.labels import LABELS
from ct.pixel_cache.reader import PixelCache
from ct.seeds import derive_seed
from ct.storage.atomic_write import discard, replacing
from ct.storage.file_formats import (
    join_arrays,
    read_array,
    read_table,
    write_array,
    write_json,
    write_table,
)
from ct.storage.sealed_files import is_whole, seal
from pipeline.freshness import file_digest
from pipeline.training.checkpoint_file import changes, read_checkpoint, write_checkpoint
from pipeline.training.tensorboard import open_scalars
from stage1_cnn import distributed as ranks
from stage1_cnn.dataset import fold_rows, neighbour_rows
from stage1_cnn.device import environment, pick_device
from stage1_cnn.inference import predict as predict_slices
from stage1_cnn.model import load_model
from stage1_cnn.train_loop import Hooks, NotANumber, train_cnn

# slices of a prediction that are kept when it is interrupted, and that memory holds at once
PART = 4096


class StageOneInputs:
    """What every job of stage one reads: the slices, their folds and their pixels."""

    def __init__(self, run):
        self.run, self.slices = run, read_table(run.dir.slices)
        self.fold = read_table(run.dir.folds)["fold"].reindex(self.slices.index).to_numpy()
        self.readable = self.slices["readable"].to_numpy(bool)
        self._neighbours = {}

    @cached_property
    def cache(self):
        """The pixel cache, whose rows are those of the slice table."""
        cache = PixelCache(self.run.dir.pixels)
        if list(cache.slice_ids) != list(self.slices.index):
            raise ValueError("the pixel cache holds other slices than the slice table")
        return cache

    def config(self, name):
        """Return the CnnConfig of this name."""
        return next(config for config in self.run.recipe.stage1.models if config.name == name)

    def neighbours(self, reach):
        """Return `neighbour_rows` of all slices."""
        if reach not in self._neighbours:
            self._neighbours[reach] = neighbour_rows(self.slices, reach)
        return self._neighbours[reach]

    def rows(self, what, k):
        """Return the row numbers of the "test" slices, or of those "held_out" by fold `k`."""
        of = self.slices["split"] == ("test" if what == "test" else "train")
        return np.flatnonzero(of if what == "test" else of & (self.fold == k))

    def checkpoint(self, name, k):
        """Return the path of the checkpoint of a training under way."""
        return self.run.dir.fold(name, k) / "checkpoint.safetensors"

    def forget_checkpoint(self, name, k):
        """Remove the checkpoint of a training that has ended."""
        discard(self.checkpoint(name, k))


def train_fold(inputs, name, k, same):
    """Train one CNN on all folds but `k`, from its checkpoint if it has one with the digest `same`
    of all that it depends on.

    Leaves weights.safetensors and curve.json. Returns a list of reasons why another try may end
    with other bits.
    """
    run, config, folder = inputs.run, inputs.config(name), inputs.run.dir.fold(name, k)
    seed, now = derive_seed(run.recipe.seed, name, k), environment(config)
    checkpoint, before, reasons = read_checkpoint(inputs.checkpoint(name, k), same, config, run.log)
    begun = {"epoch": 1, "step": 0, "done": 0} if checkpoint is None else checkpoint.state
    if begun["done"] and begun["epoch"] <= config.epochs:
        run.log(
            f"  {name} fold {k}: continues in epoch {begun['epoch']}, after {begun['done']} steps"
        )
        if changed := changes(before, now):
            run.log(f"  {name} fold {k}: {'; '.join(changed)}: another try may end with other bits")
            reasons = [*reasons, *changed]
    with (
        run.bar(None, f"{name} fold {k}", "step") as bar,
        open_scalars(
            run.recipe.stage1.tensorboard, folder / "tensorboard", begun["done"]
        ) as scalars,
    ):
        bar.n = bar.initial = begun["done"]

        def progress(epoch, step, steps, loss):
            bar.total = steps * config.epochs
            bar.set_postfix(epoch=epoch, loss=f"{loss:.4f}", refresh=False)
            bar.update()
            scalars.step((epoch - 1) * steps + step, loss)

        def save(made):
            write_checkpoint(inputs.checkpoint(name, k), made, same, now, reasons)

        hooks = Hooks(progress, scalars.epoch, save, run.log)
        split = fold_rows(inputs.slices, inputs.fold, k)
        try:
            trained = train_cnn(
                inputs.slices, split, inputs.cache.read, config, seed, hooks, checkpoint
            )
        except NotANumber as error:
            write_json(folder / "not_a_number.json", error.batch)
            names_all = (
                f"; {folder / 'not_a_number.json'} names them all"
                if error.batch["slice_ids"]
                else ""
            )
            raise NotANumber(f"{error}{names_all}", error.batch) from None
    if ranks.this_process().rank == 0:
        discard(folder / "not_a_number.json")
        with replacing(folder / "weights.safetensors") as path:
            save_file(trained.state(), path)
        curve = [
            {key: value for key, value in line.items() if key != "seconds"}
            for line in trained.curve
        ]
        write_json(folder / "curve.json", curve)
    ranks.barrier()
    return [*_why_unlike(config, trained.micro_batch), *reasons]


def predict_fold(inputs, name, k, what, same):
    """Show the CNN of fold `k` the slices that it never saw, "held_out" or "test", PART by PART;
    what is done is kept.

    same: digest of all that the opinions depend on, but for the weights. Leaves <what>.parquet and
    <what>_embeddings.npy.
    """
    run, config, folder = inputs.run, inputs.config(name), inputs.run.dir.fold(name, k)
    weights, rows, process = (
        folder / "weights.safetensors",
        inputs.rows(what, k),
        ranks.this_process(),
    )
    pieces = [rows[at : at + PART] for at in range(0, max(1, len(rows)), PART)]
    parts = folder / f"{what}-{same[:12]}-{file_digest(weights)[:12]}.part"
    if process.rank == 0:
        for old in folder.glob(f"{what}-*.part"):
            if old != parts:
                discard(old)
        parts.mkdir(exist_ok=True)
        if damaged := damaged_parts(parts, inputs.slices.index, pieces):
            run.log(
                f"  {name} fold {k}: {len(damaged)} parts of {what.replace('_', ' ')} are damaged and are predicted anew"
            )
    ranks.barrier()
    model, table_rows = load_model(config, load_file(weights)), inputs.neighbours(config.neighbours)
    with run.bar(len(rows), f"{name} fold {k} {what.replace('_', ' ')}", "slice") as bar:
        for number in range(process.rank, len(pieces), process.world_size):
            piece, path = pieces[number], parts / f"{number:05d}.parquet"
            if path.exists():  # and whole: the damaged ones are gone
                bar.initial += len(piece)
                bar.n += len(piece)
                continue
            readable, read_hu = inputs.readable[piece], inputs.cache.read
            probs, embeddings = predict_slices(
                model, table_rows[piece], readable, read_hu, config, bar.update
            )
            write_array(path.with_suffix(".npy"), embeddings)
            seal(path.with_suffix(".npy"))
            # last: it counts
            write_table(
                path, pd.DataFrame(probs, index=inputs.slices.index[piece], columns=list(LABELS))
            )
            seal(path)
    ranks.barrier()
    if process.rank == 0:
        _join(parts, len(pieces), inputs.slices.index[rows], folder / what)
        discard(parts)


JOBS = {"train": train_fold, "predict": predict_fold}


def dispatch(inputs, job, *words):
    """Do a job of JOBS, in all ranks. Returns what it returns here."""
    ranks.broadcast((job, words))
    return JOBS[job](inputs, *words)


def worker_loop(open_run):
    """Do what rank 0 orders, until it says None. open_run() -> the run, as rank 0 has it by its
    first order.
    """
    inputs = None
    while order := ranks.broadcast(None):
        job, words = order
        inputs = inputs or StageOneInputs(open_run())
        JOBS[job](inputs, *words)


def damaged_parts(parts, slice_ids, pieces):
    """Remove the damaged parts of a prediction. Returns their numbers.

    slice_ids: of the slice table; pieces: the row numbers of each part. A part that was never
    sealed is read on trial.
    """
    damaged = []
    for number, rows in enumerate(pieces):
        table, embeddings = parts / f"{number:05d}.parquet", parts / f"{number:05d}.npy"
        if table.exists() and not (
            is_whole(table) and is_whole(embeddings) and _reads(table, embeddings, slice_ids[rows])
        ):
            for file in (table, embeddings):
                discard(file)
            damaged.append(number)
    return damaged


def _reads(table, embeddings, slice_ids):
    """Return whether a part of a prediction can be read and is of these slices."""
    try:
        return read_table(table).index.equals(slice_ids) and len(read_array(embeddings)) == len(
            slice_ids
        )
    except OSError as error:
        if error.errno:  # the machine's fault, not the file's
            raise
        return False
    except (ValueError, KeyError, TypeError, ArrowException, EOFError):
        return False


def _join(parts, count, slice_ids, path):
    """Join the parts of a prediction, by slice id: `path`.parquet and `path`_embeddings.npy."""
    files = [parts / f"{number:05d}.parquet" for number in range(count)]
    table = pd.concat([read_table(file) for file in files])
    if not table.index.equals(slice_ids):
        raise ValueError(f"{parts} holds opinions of other slices than were asked for")
    join_arrays(
        path.with_name(f"{path.name}_embeddings.npy"), [file.with_suffix(".npy") for file in files]
    )
    write_table(path.with_suffix(".parquet"), table)


def _why_unlike(config, micro):
    """Return why a second training may end with other bits, one reason each."""
    reasons = {
        "torch.compile": config.compile,
        "deterministic: false on CUDA": pick_device().type == "cuda" and not config.deterministic,
        f"batch cut to {micro} for memory": micro < config.batch,
    }
    return [reason for reason, holds in reasons.items() if holds]
