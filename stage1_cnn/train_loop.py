"""Train one CNN, epoch by epoch: learning curve, checkpoints, resuming."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ct.averaging import StageOne
from ct.errors import InputError, number_of
from ct.labels import LABELS
from ct.metrics import weighted_log_loss
from ct.seeds import derive_seed
from stage1_cnn.batches.batch_reader import ReadHu, read_ahead
from stage1_cnn.batches.dataset import (
    check_enough_slices,
    epoch_steps,
    neighbour_rows,
    training_targets,
)
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import pick_device, torch_settings
from stage1_cnn.distributed import this_process
from stage1_cnn.gpu_memory import is_out_of_memory, weights_must_fit
from stage1_cnn.inference import plain_embeddings, predict
from stage1_cnn.model import Cnn, build_model
from stage1_cnn.state_tensors import TrainingState, on_cpu
from stage1_cnn.training_methods.held_body import is_frozen, positive_patients, settled, start_head
from stage1_cnn.training_step import Trainer

CURVE_SLICES = 10_000  # most held-out slices that the learning curve is computed on

Rows = NDArray[np.int64]  # row numbers of the slice table


@dataclass(frozen=True)
class Hooks:
    """Functions that a training calls as it proceeds; the comments name their arguments."""

    # (epoch, step, steps, loss) after each step; epoch and step count from 1
    progress: Callable[[int, int, int, float], None] | None = None
    # (an entry of the curve) after each epoch; an exception that it raises ends the training
    epoch: Callable[[dict[str, Any]], None] | None = None
    # (TrainingState) after each epoch, and every `save_seconds` within it
    save: Callable[[TrainingState], None] | None = None
    log: Callable[[str], None] = print  # (one line) for what the user should read
    save_seconds: float = 600.0  # between two checkpoints of an epoch


@dataclass(frozen=True)
class TrainedCnn:
    """The result of a training."""

    # with the weights of the last epoch, their moving average where `config.ema` is set, or the
    # mean over the last epochs where `config.average_epochs` is
    model: Cnn
    # one dict an epoch: epoch, lr, train_loss, held_out_loss (None without held-out labels),
    # seconds
    curve: list[dict[str, Any]]
    # slices in one forward pass at the end: fewer than `config.batch` where memory ran out
    micro_batch: int

    def state(self) -> dict[str, Tensor]:
        """Return the weights as a plain timm state dict of contiguous CPU tensors."""
        return on_cpu(self.model.backbone.state_dict())


class NotANumber(InputError):
    """The loss of a batch is NaN or infinite. batch: {"epoch", "step", "loss", "slice_ids"}."""

    def __init__(self, message: str, batch: dict[str, Any]) -> None:
        super().__init__(message)
        self.batch = batch


def train_cnn(
    slices: pd.DataFrame,
    split: tuple[Rows, Rows],
    read_hu: ReadHu,
    config: CnnConfig,
    seed: int,
    hooks: Hooks | None = None,
    checkpoint: TrainingState | None = None,
) -> TrainedCnn:
    """Train the CNN of `config`. Returns it with its learning curve.

    slices: slice table (n rows) with the LABELS, float32, and LOSS_WEIGHT where slices do not count
    alike; split: row numbers (training, held out), as returned by `fold_rows`; read_hu: reads
    slices by row number of `slices`; checkpoint: the last one of an interrupted training of the
    same slices, config and seed, which is continued.

    Everything random derives from `seed`, the epoch and the step: a training gives the same weights
    alone or after others, in one piece or continued. Among several processes each takes its share
    of every batch, and all end with the same weights. Raises InputError for too few slices, and
    NotANumber for a loss that is NaN or infinite.
    """
    train, held_out = split
    hooks = hooks or Hooks()
    world_size = this_process().world_size
    check_enough_slices(train, config, world_size)
    targets, device = training_targets(slices), pick_device()
    config = _settled(config, slices, train, hooks)
    with torch_settings(config):
        prior = targets[train, : len(LABELS)].mean(axis=0)
        model = build_model(config, derive_seed(seed, "weights"), prior)
        start_head(model.backbone, config)
        with weights_must_fit(config, device):
            model = model.to(device)
        steps = len(epoch_steps(slices, train, config, seed, 1, world_size))
        on_embeddings = is_frozen(config) and model.ends_linear
        seed_of_steps = derive_seed(seed, "change")
        trainer = Trainer(model, config, steps, seed_of_steps, hooks.log, on_embeddings)
        loop = TrainLoop(slices, targets, read_hu, trainer, hooks)
        if on_embeddings:
            loop.embed(train)
        state = loop.resume(checkpoint) if checkpoint else _epoch_start(1, [])
        while state["epoch"] <= config.epochs:
            order = epoch_steps(slices, train, config, seed, state["epoch"], world_size)
            loop.run_epoch(order, state)
            trainer.end_epoch(state["epoch"])
            entry = loop.curve_entry(held_out, state, len(order))
            state = _epoch_start(state["epoch"] + 1, [*state["curve"], entry])
            loop.save(state)
            if hooks.epoch:
                hooks.epoch(entry)
    return TrainedCnn(trainer.final_model(), state["curve"], trainer.micro_batch)


def _settled(config: CnnConfig, slices: pd.DataFrame, train: Rows, hooks: Hooks) -> CnnConfig:
    """Return the config as `settled` does, and log what the number of patients decided."""
    full = settled(config, slices, train)
    if config.pretrained and full != config:
        hooks.log(
            f"  {config.name}: pretrained, "
            f"{number_of(positive_patients(slices, train), 'positive patient')} "
            f"to train on: body_rate {full.body_rate:g}, freeze_norms {full.freeze_norms}"
        )
    return full


def _epoch_start(epoch: int, curve: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the state of a training before the first step of `epoch`."""
    return {"epoch": epoch, "step": 0, "loss_sum": 0.0, "curve": curve}


class TrainLoop:
    """The loop of one training: it reads batches for the Trainer and records the losses.

    The methods change the Trainer and `state`: {"epoch", "step": steps of the epoch that are done,
    "loss_sum": of these steps, "curve"}.
    """

    def __init__(
        self,
        slices: pd.DataFrame,
        targets: NDArray[np.float32],
        read_hu: ReadHu,
        trainer: Trainer,
        hooks: Hooks,
    ) -> None:
        self.slices, self.targets, self.read_hu = slices, targets, read_hu
        self.labels = targets[:, : len(LABELS)]
        self.table_rows = neighbour_rows(slices, trainer.config.neighbours)
        self.readable = slices["readable"].to_numpy(bool)
        self.trainer, self.hooks = trainer, hooks
        self.saved_at, self.seconds = time.monotonic(), 0.0  # last checkpoint; time of the epoch
        # (embeddings (m, d), number of each slice among them) where a frozen body is trained
        self.embedded: tuple[NDArray[np.float32], Rows] | None = None

    def embed(self, rows: Rows) -> None:
        """Compute the embeddings of the slices `rows` once, instead of in each step."""
        trainer = self.trainer
        place = np.full(len(self.slices), -1)
        place[rows] = np.arange(len(rows))
        embeddings = plain_embeddings(
            trainer.model, self.table_rows[rows], self.read_hu, trainer.config, trainer.device
        )
        self.embedded = embeddings, place

    def run_epoch(self, order: Sequence[Rows], state: dict[str, Any]) -> None:
        """Train on the steps of `order` (row numbers each) that come after `state`."""
        process, start = this_process(), time.perf_counter()
        remaining = order[state["step"] :]
        shares = [rows[process.rank :: process.world_size] for rows in remaining]
        previous = None  # (rows, loss) of the step before
        for rows, (share, hu) in zip(remaining, self._read(shares), strict=True):
            targets = torch.from_numpy(self.targets[share])
            targets = targets.to(self.trainer.device, non_blocking=True)
            loss = self.trainer.step(hu, targets, len(rows))
            # one step late: to read this step's loss now would leave the device idle while the
            # next step is prepared
            if previous:
                self._record(*previous, state, len(order))
            previous = share, loss
            if time.monotonic() - self.saved_at > self.hooks.save_seconds:
                self._record(*previous, state, len(order))
                previous = None
                self.save(state)
        if previous:
            self._record(*previous, state, len(order))
        self.seconds = time.perf_counter() - start

    def _read(self, shares: Sequence[Rows]) -> Iterator[tuple[Rows, Tensor]]:
        """Yield (rows, HU) of each of `shares`; the batch is halved where reading exhausts memory.

        HU: int16 (b, c, S, S) on the device; the embeddings (b, d) where they are computed.
        """
        if self.embedded:
            embeddings, place = self.embedded
            for share in shares:
                yield share, torch.from_numpy(embeddings[place[share]]).to(self.trainer.device)
            return
        done = 0
        while done < len(shares):
            memory_is_full = False
            try:
                for share, hu in read_ahead(
                    self.read_hu, self.table_rows, shares[done:], self.trainer.device
                ):
                    done += 1
                    yield share, hu
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                memory_is_full = True
            if memory_is_full:  # not in the handler: there the error still holds tensors
                self.trainer.halve_batch()

    def _record(self, rows: Rows, loss: Tensor, state: dict[str, Any], steps: int) -> None:
        """Add the loss of the step after `state` to it. steps: of the epoch."""
        value = float(loss)
        if not math.isfinite(value):
            raise _not_a_number(self.slices.index[rows], value, state, self.trainer.config)
        state["step"] += 1
        state["loss_sum"] += value
        if self.hooks.progress:
            self.hooks.progress(state["epoch"], state["step"], steps, value)

    def curve_entry(self, held_out: Rows, state: dict[str, Any], steps: int) -> dict[str, Any]:
        """Return the learning curve's entry of the epoch that ends, with its held-out loss.

        The held-out loss decides nothing. If it chose the epoch, the held-out predictions would
        appear better than they are.
        """
        held_out_loss = None
        labelled = np.isfinite(self.labels[held_out]).all(axis=1) & self.readable[held_out]
        rows = held_out[labelled]
        rows = rows[:: max(1, math.ceil(len(rows) / CURVE_SLICES))]
        if len(rows) and this_process().rank == 0:
            model, config = self.trainer.final_model(), self.trainer.config
            outputs, _ = predict(
                model, self.table_rows[rows], self.readable[rows], self.read_hu, config
            )
            # the last step can spoil the weights after its own loss was computed
            if not np.isfinite(outputs).all():
                raise _spoilt_weights(state, config)
            probs = StageOne(outputs, config.outputs).probabilities()
            held_out_loss = weighted_log_loss(self.labels[rows], probs)
        return {
            "epoch": state["epoch"],
            "lr": self.trainer.lr,
            "train_loss": state["loss_sum"] / steps,
            "held_out_loss": held_out_loss,
            "seconds": self.seconds,
        }

    def save(self, state: dict[str, Any]) -> None:
        """Pass a checkpoint to the hook."""
        if self.hooks.save and this_process().rank == 0:
            counts = {**state, **self.trainer.state(), "processes": this_process().world_size}
            self.hooks.save(TrainingState(self.trainer.tensors(), counts))
        self.saved_at = time.monotonic()

    def resume(self, checkpoint: TrainingState) -> dict[str, Any]:
        """Restore the Trainer from a checkpoint. Returns the checkpoint's `state`."""
        steps = self.trainer.steps // self.trainer.config.epochs
        state = checkpoint.state_among(this_process().world_size, steps)
        self.trainer.load(checkpoint.tensors, state)
        return {name: state[name] for name in ("epoch", "step", "loss_sum", "curve")}


def _not_a_number(
    slice_ids: pd.Index, loss: float, state: dict[str, Any], config: CnnConfig
) -> NotANumber:
    epoch, step = state["epoch"], state["step"] + 1
    names = [str(slice_id) for slice_id in slice_ids]
    return NotANumber(
        f"{config.name}: the loss is {loss} in epoch {epoch}, step {step}, "
        f"at a batch with the slices {', '.join(names[:3])} and {max(0, len(names) - 3)} more; "
        f"{_remedy(config)}",
        {"epoch": epoch, "step": step, "loss": str(loss), "slice_ids": names},
    )


def _spoilt_weights(state: dict[str, Any], config: CnnConfig) -> NotANumber:
    return NotANumber(
        f"{config.name}: the weights are NaN or infinite after epoch {state['epoch']}, "
        f"because of its last step; {_remedy(config)}",
        {"epoch": state["epoch"], "step": state["step"], "loss": "", "slice_ids": []},
    )


def _remedy(config: CnnConfig) -> str:
    return f"lower lr (now {config.lr:g}), or set precision: fp32"
