"""Trains one CNN on some slices and watches it on others."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch

from ct.errors import InputError
from ct.labels import LABELS
from ct.metrics import weighted_log_loss
from ct.seeds import derive_seed
from stage1_cnn.checkpoint import Checkpoint, on_cpu
from stage1_cnn.dataset import LEAST, balanced, neighbour_rows, read_ahead, shuffled, training_steps
from stage1_cnn.device import is_out_of_memory, pick_device, torch_as_set, weights_must_fit
from stage1_cnn.distributed import here
from stage1_cnn.inference import predict
from stage1_cnn.model import Cnn, build_model
from stage1_cnn.trainer import Trainer

WATCHED = 10_000  # held-out slices at most that the learning curve is made of


@dataclass(frozen=True)
class Hooks:
    """What training tells as it goes; each is called with what its comment says."""

    progress: callable = None  # (epoch, step, steps, loss) after each step; both count from 1
    # (a line of the curve) after each epoch; what it raises ends the training
    epoch: callable = None
    save: callable = None  # (Checkpoint) after each epoch, and every `pause` seconds
    log: callable = print  # (one line) where something happens that the user should know
    pause: float = 600.0  # seconds between two checkpoints


@dataclass(frozen=True)
class Trained:
    """What training leaves."""

    # with the weights of the last epoch, or their moving average where the config asks for one
    model: Cnn
    # a dict an epoch: epoch, lr, train_loss, held_out_loss (None without held-out labels), seconds
    curve: list
    # slices that went through the CNN at once in the end: fewer than `config.batch` where memory
    # ran out
    micro: int

    def state(self):
        """Return the weights as a plain timm state dict of contiguous CPU tensors."""
        return on_cpu(self.model.backbone.state_dict())


class NotANumber(InputError):
    """The loss of a batch is NaN or infinite. batch: {"epoch", "step", "loss", "slice_ids"}."""

    def __init__(self, message, batch):
        super().__init__(message)
        self.batch = batch


def train_cnn(slices, split, read_hu, config, seed, hooks=None, checkpoint=None):
    """Train the CNN of `config` and return it, with its learning curve.

    slices: slice table (n rows) with the LABELS, float32; split: (train, held) row numbers, as of
    `fold_rows` read_hu(numbers, out=None) -> int16 (m, S, S) in HU for m row numbers of `slices`
    checkpoint: what an interrupted training of the same slices, config and seed saved last: it goes
    on from there

    Everything random derives from `seed`, the epoch and the step: a training gives the same weights
    alone or after others, in one piece or continued. Among several ranks each takes its share of
    every batch, and all end with the same weights. Raises InputError for too few slices, NotANumber
    for a loss that is none.
    """
    (train, held), hooks = split, hooks or Hooks()
    check_enough(train, config, here().world)
    labels, device = slices[list(LABELS)].to_numpy(np.float32), pick_device()
    with torch_as_set(config):
        model = build_model(config, derive_seed(seed, "weights"), labels[train].mean(axis=0))
        with weights_must_fit(config, device):
            model = model.to(device)
        steps = len(_epoch_steps(slices, train, config, seed, 1))
        trainer = Trainer(model, config, steps, derive_seed(seed, "change"), hooks.log)
        course = Course(
            slices, labels, neighbour_rows(slices, config.neighbours), read_hu, trainer, hooks
        )
        state = (
            course.resume(checkpoint)
            if checkpoint
            else {"epoch": 1, "step": 0, "loss_sum": 0.0, "curve": []}
        )
        while state["epoch"] <= config.epochs:
            order = _epoch_steps(slices, train, config, seed, state["epoch"])
            course.run_epoch(order, state)
            entry = course.look_back(held, state, len(order))
            state = {
                "epoch": state["epoch"] + 1,
                "step": 0,
                "loss_sum": 0.0,
                "curve": [*state["curve"], entry],
            }
            course.save(state)
            if hooks.epoch:
                hooks.epoch(entry)
    return Trained(trainer.kept(), state["curve"], trainer.micro)


def fold_rows(slices, fold, k):
    """Return the row numbers (training, held out) for fold `k`; only slices of the train split are
    in either.

    Training slices are readable, have all six labels and are in another fold; held out are all of
    fold `k`. Raises ValueError where a patient has slices in both.
    """
    of_train = (slices["split"] == "train").to_numpy()
    fold = np.asarray(fold)
    labelled = slices[list(LABELS)].notna().all(axis=1).to_numpy()
    train = np.flatnonzero(of_train & (fold != k) & labelled & slices["readable"].to_numpy(bool))
    held = np.flatnonzero(of_train & (fold == k))
    patients = slices["patient_id"].to_numpy(object)
    if leak := set(patients[train]) & set(patients[held]):
        raise ValueError(
            f"patient {min(leak)} is in fold {k} and among its training slices; the folds leak"
        )
    return train, held


def check_enough(train, config, world):
    """Raise InputError where there are too few slices for a single step on `world` processes."""
    if len(train) < LEAST * world:
        raise InputError(
            f"{config.name}: {len(train)} readable slices with labels to train on, {LEAST * world} are needed; "
            "lower folds.k or add data"
        )


class Course:
    """One training under way: what it reads, and the Trainer it feeds. The methods change the
    Trainer and `state`.
    """

    def __init__(self, slices, labels, table_rows, read_hu, trainer, hooks):
        self.slices, self.labels, self.table_rows, self.read_hu = (
            slices,
            labels,
            table_rows,
            read_hu,
        )
        self.trainer, self.hooks, self.saved, self.seconds = trainer, hooks, time.monotonic(), 0.0

    def run_epoch(self, order, state):
        """Learn from the steps of `order` (row numbers each) that `state` has not yet behind it."""
        ranks, waiting, start = here(), None, time.perf_counter()
        todo = order[state["step"] :]
        shares = [rows[ranks.rank :: ranks.world] for rows in todo]
        for rows, (share, hu) in zip(todo, self._read(shares), strict=True):
            labels = torch.from_numpy(self.labels[share]).to(self.trainer.device, non_blocking=True)
            loss = self.trainer.step(hu, labels, len(rows))
            # only now: to ask for this step's loss would leave the device idle while the next is
            # prepared
            if waiting:
                self._note(*waiting, state, len(order))
            waiting = share, loss
            if time.monotonic() - self.saved > self.hooks.pause:
                self._note(*waiting, state, len(order))
                waiting = None
                self.save(state)
        if waiting:
            self._note(*waiting, state, len(order))
        self.seconds = time.perf_counter() - start

    def _read(self, shares):
        """Yield (rows, HU) of each of `shares`; where memory runs out while one is read, the batch
        is halved first.
        """
        done = 0
        while done < len(shares):
            full = False
            try:
                for share, hu in read_ahead(
                    self.read_hu, self.table_rows, shares[done:], self.trainer.device
                ):
                    done += 1
                    yield share, hu
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                full = True
            if full:
                self.trainer.halve()

    def _note(self, rows, loss, state, steps):
        """Take down the loss of the step after `state`."""
        loss = float(loss)
        if not math.isfinite(loss):
            raise _not_a_number(self.slices.index[rows], loss, state, self.trainer.config)
        state["step"] += 1
        state["loss_sum"] += loss
        if self.hooks.progress:
            self.hooks.progress(state["epoch"], state["step"], steps, loss)

    def look_back(self, held, state, steps):
        """Return the curve's line of an epoch. It is for people: an epoch chosen by it would
        flatter the held-out opinions.
        """
        loss, labelled = (
            None,
            held[np.isfinite(self.labels[held]).all(axis=1) & self._readable(held)],
        )
        watched = labelled[:: max(1, math.ceil(len(labelled) / WATCHED))]
        if len(watched) and here().rank == 0:
            model, config = self.trainer.kept(), self.trainer.config
            probs, _ = predict(
                model, self.table_rows[watched], self._readable(watched), self.read_hu, config
            )
            # the epoch's last step spoilt the weights, after its own loss was known
            if not np.isfinite(probs).all():
                raise _spoilt(state, config)
            loss = weighted_log_loss(self.labels[watched], probs)
        line = {
            "epoch": state["epoch"],
            "lr": self.trainer.lr,
            "train_loss": state["loss_sum"] / steps,
        }
        return {**line, "held_out_loss": loss, "seconds": self.seconds}

    def save(self, state):
        """Hand a checkpoint to the hook."""
        if self.hooks.save and here().rank == 0:
            self.hooks.save(Checkpoint(self.trainer.tensors(), {**state, **self.trainer.numbers()}))
        self.saved = time.monotonic()

    def resume(self, checkpoint):
        """Bring the Trainer to where a checkpoint was taken. Returns its `state`."""
        self.trainer.load(checkpoint.tensors, checkpoint.state)
        return {name: checkpoint.state[name] for name in ("epoch", "step", "loss_sum", "curve")}

    def _readable(self, rows):
        return self.slices["readable"].to_numpy(bool)[rows]


def _epoch_steps(slices, train, config, seed, epoch):
    """Return the row numbers of each step of an epoch."""
    seed = derive_seed(seed, "order", epoch)
    if config.positive_share is None:
        rows = shuffled(train, seed)
    else:
        positive = (slices[list(LABELS)].to_numpy()[train] > 0).any(axis=1)
        rows = balanced(
            train, positive, slices["study_id"].to_numpy(object)[train], config.positive_share, seed
        )
    return training_steps(
        rows, config.batch * config.accumulate * here().world, LEAST * here().world
    )


def _not_a_number(slice_ids, loss, state, config):
    batch = {
        "epoch": state["epoch"],
        "step": state["step"] + 1,
        "loss": str(loss),
        "slice_ids": [str(i) for i in slice_ids],
    }
    first = ", ".join(batch["slice_ids"][:3])
    return NotANumber(
        f"{config.name}: the loss is {loss} in epoch {batch['epoch']}, step {batch['step']}, at a batch with the slices "
        f"{first} and {max(0, len(slice_ids) - 3)} more; {_remedy(config)}",
        batch,
    )


def _spoilt(state, config):
    batch = {"epoch": state["epoch"], "step": state["step"], "loss": "", "slice_ids": []}
    return NotANumber(
        f"{config.name}: the weights are no numbers after epoch {state['epoch']}, spoilt by its last step; {_remedy(config)}",
        batch,
    )


def _remedy(config):
    return f"lower lr (now {config.lr:g}), or set precision: fp32"
