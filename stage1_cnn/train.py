"""Trains one CNN on all folds but one and shows it the fold that it never saw."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay

from ct.errors import InputError
from ct.labels import LABELS, WEIGHTS
from ct.metrics import weighted_log_loss
from ct.seeds import derive_seed
from stage1_cnn.data import neighbour_rows, read_ahead
from stage1_cnn.images import augment, resize, to_channels
from stage1_cnn.model import build_model
from stage1_cnn.order import batches
from stage1_cnn.predict import mixed_precision, pick_device, predict, torch_as_set

CLIP = 1.0  # the gradient of all weights together is scaled down to this norm


@dataclass(frozen=True)
class FoldResult:
    """What training leaves of one fold."""

    state: dict  # weights of the backbone: name -> contiguous CPU tensor; a plain timm state dict
    curve: list  # one dict an epoch: epoch, lr, train_loss, held_out_loss (None without held-out labels), seconds
    rows: np.ndarray  # (h,) row numbers of the held-out slices, labelled or not
    probs: np.ndarray  # (h, 6) float32, columns LABELS; NaN where the slice is unreadable
    embeddings: np.ndarray  # (h, d) float16; NaN likewise


def train_fold(slices, fold, k, read_hu, config, seed, progress=None):
    """Train the CNN of `config` on every fold but `k`, then predict fold `k`.

    slices: slice table (n rows) with the LABELS, float32. Slices that lack a label or are unreadable are not trained on.
    fold: int (n,), aligned with `slices`. read_hu(numbers) -> int16 (m, S, S) in HU for m row numbers of `slices`
    progress(epoch, step, steps, loss), after each step; both count from 1

    Everything random derives from `seed` and `k`: a fold gives the same weights alone or after others. Raises ValueError where
    a patient is in fold `k` and in another, InputError for too few slices to train on and for a loss that is not a number.
    """
    train, held = fold_rows(slices, fold, k)
    table_rows = neighbour_rows(slices, config.neighbours)
    labels = slices[list(LABELS)].to_numpy(np.float32)
    device, order = pick_device(), torch.Generator().manual_seed(derive_seed(seed, "order", k))
    curve = []
    with torch_as_set(config):
        model = build_model(config, derive_seed(seed, "weights", k), labels[train].mean(axis=0))
        steps = len(batches(train, config.batch, torch.Generator()))  # of an epoch
        trainer = Trainer(model.to(device), config, steps, derive_seed(seed, "change", k))
        for epoch in range(1, config.epochs + 1):
            start, losses = time.perf_counter(), []
            epoch_order = batches(train, config.batch, order)
            for rows, hu in read_ahead(read_hu, table_rows, epoch_order, device):
                losses.append(trainer.step(hu.to(device), torch.from_numpy(labels[rows]).to(device)))
                if not math.isfinite(losses[-1]):
                    raise InputError(_not_a_number(slices, rows, config, epoch))
                if progress:
                    progress(epoch, len(losses), len(epoch_order), losses[-1])
            probs, embeddings = predict(model, slices, held, read_hu, config)
            # for the learning curve only: an epoch chosen by it would make the held-out predictions optimistic
            scored = np.isfinite(probs).all(axis=1) & np.isfinite(labels[held]).all(axis=1)
            held_out = weighted_log_loss(labels[held][scored], probs[scored]) if scored.any() else None
            seconds = time.perf_counter() - start
            entry = {"epoch": epoch, "lr": trainer.lr, "train_loss": float(np.mean(losses))}
            curve.append({**entry, "held_out_loss": held_out, "seconds": seconds})
    state = {name: value.detach().cpu().clone().contiguous() for name, value in model.backbone.state_dict().items()}
    return FoldResult(state, curve, held, probs, embeddings)


def fold_rows(slices, fold, k):
    """Return the row numbers (training, held out) for fold `k`; only slices of the train split are in either.

    Training slices are readable, have all six labels and are in another fold; held out are all of fold `k`.
    Raises ValueError where a patient has slices in both, InputError for fewer than two training slices.
    """
    of_train = (slices["split"] == "train").to_numpy()
    fold = np.asarray(fold)
    labelled = slices[list(LABELS)].notna().all(axis=1).to_numpy()
    train = np.flatnonzero(of_train & (fold != k) & labelled & slices["readable"].to_numpy(bool))
    held = np.flatnonzero(of_train & (fold == k))
    patients = slices["patient_id"].to_numpy(object)
    if leak := set(patients[train]) & set(patients[held]):
        raise ValueError(f"patient {min(leak)} is in fold {k} and among its training slices; the folds leak")
    if len(train) < 2:
        raise InputError(f"fold {k} leaves {len(train)} readable slices with labels to train on; lower folds.k or add data")
    return train, held


class Trainer:
    """One model in training on the device it lies on: optimizer, learning rate, augmentation.

    steps: of one epoch. seed: of augmentation and dropout
    """

    def __init__(self, model, config, steps, seed):
        self.model, self.config, self.device = model, config, next(model.parameters()).device
        self.model.to(memory_format=torch.channels_last)
        self.steps, self.done, self.lr = steps * config.epochs, 0, 0.0
        self.optimizer = torch.optim.AdamW(param_groups_weight_decay(model, config.weight_decay), lr=config.lr)
        self.weights = torch.tensor(WEIGHTS, dtype=torch.float32, device=self.device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        torch.manual_seed(seed)  # dropout draws from torch's own generators

    def step(self, hu, labels):
        """Learn from a batch: HU int16 (b, c, S, S), labels float32 (b, 6). Returns the loss, the metric of this batch."""
        self.model.train()
        self.lr = learning_rate(self.done, self.steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        with torch.no_grad():
            hu = resize(hu.float(), self.config.image_size)
            images = to_channels(augment(hu, self.config, self.generator), self.config)
        with mixed_precision(self.config, self.device):
            logits, _ = self.model(images)
        loss = weighted_bce(logits, labels, self.weights)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.done += 1
        return loss.item()


def weighted_bce(logits, labels, weights):
    """Return the competition's weighted log loss of logits and labels, both (b, 6), as a scalar tensor."""
    return (F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * weights).sum(dim=1).mean()


def learning_rate(step, steps, config):
    """Return the learning rate of `step` (0 ... steps - 1): a straight warm-up, then half a cosine down to 0."""
    rising = round(config.warmup * steps)
    if step < rising:
        return config.lr * (step + 1) / rising
    return config.lr * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2


def _not_a_number(slices, rows, config, epoch):
    names = ", ".join(map(str, slices.index[rows[:3]]))
    return (
        f"{config.name}: the loss is not a number in epoch {epoch}, at a batch with the slices {names} and "
        f"{len(rows) - min(3, len(rows))} more; lower lr (now {config.lr:g}), or set amp: false"
    )
