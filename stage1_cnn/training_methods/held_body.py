"""Pretrained weights that few patients must not spoil: a body that is frozen, or learns slowly.

The body is the backbone without its last layers, the head. With few positive patients a body that
is trained at the head's rate learns its patients by heart, and predicts new ones worse than their
prevalence (benchmarks/stage_one/transfer.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from stage1_cnn.backbones.last_layers import last_layers
from stage1_cnn.batches.dataset import positive_slices
from stage1_cnn.config import CnnConfig

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Hold:
    """How the body is held, for fewer than `patients` positive training patients."""

    patients: float
    body_rate: float
    freeze_norms: bool


# the first one that applies; that of 50 is measured on 4 or 5 patients, the others are not
RULE = (Hold(50, 0.0, True), Hold(500, 0.01, True), Hold(np.inf, 1.0, False))


def settled(config: CnnConfig, slices: pd.DataFrame, train: NDArray[np.int64]) -> CnnConfig:
    """Return the config with numbers for body_rate and freeze_norms, where they are None.

    slices: slice table; train: row numbers of the training slices. Where `pretrained`, RULE decides
    by the number of patients with a positive slice; else the body is trained like the head.
    """
    hold = RULE[-1]
    if config.pretrained:
        hold = hold_for(positive_patients(slices, train))
    rate, norms = config.body_rate, config.freeze_norms
    values = {
        "body_rate": hold.body_rate if rate is None else rate,
        "freeze_norms": hold.freeze_norms if norms is None else norms,
    }
    return config.model_copy(update=values)


def hold_for(patients: int) -> Hold:
    """Return what RULE says for a number of positive patients."""
    return next(hold for hold in RULE if patients < hold.patients)


def positive_patients(slices: pd.DataFrame, rows: NDArray[np.int64]) -> int:
    """Return the number of train patients with a positive slice among the row numbers `rows`.

    Test patients, whose labels are soft, do not count.
    """
    positive = (positive_slices(slices) & (slices["split"] == "train").to_numpy())[rows]
    return len(set(slices["patient_id"].to_numpy(object)[rows[positive]]))


def is_frozen(config: CnnConfig) -> bool:
    """Return whether the body keeps its weights."""
    return config.body_rate == 0


def start_head(backbone: nn.Module, config: CnnConfig) -> None:
    """Set the weights of the last layers to 0 where the body is held.

    Some of timm's models start them so large that a body that hardly changes never makes up for it.
    """
    if config.body_rate in (None, 1):
        return
    for layer in last_layers(backbone):
        nn.init.zeros_(layer.weight)


def freeze(backbone: nn.Module, config: CnnConfig) -> None:
    """Take the gradient from the weights of timm's module that `config` freezes."""
    if is_frozen(config):
        backbone.requires_grad_(False)
        for layer in last_layers(backbone):
            layer.requires_grad_(True)
    elif config.freeze_norms:
        for norm in _batch_norms(backbone):
            norm.requires_grad_(False)


def set_training(model: nn.Module, config: CnnConfig) -> None:
    """Set the modes of a CNN for a training step: frozen parts stay as in prediction."""
    model.train()
    if is_frozen(config):
        model.eval()
        for layer in last_layers(model.backbone):
            layer.train()
    elif config.freeze_norms:
        for norm in _batch_norms(model):
            norm.eval()


def with_body_rate(
    groups: Iterable[dict[str, Any]], model: nn.Module, config: CnnConfig
) -> list[dict[str, Any]]:
    """Return the optimizer's groups with the body's share of the learning rate as `lr_scale`.

    A group that has a share already keeps it as a factor. model: a CNN, whose `.backbone` is timm's
    """
    if config.body_rate in (None, 0, 1):  # where it is frozen, no weight of it is in a group
        return list(groups)
    of_head = {id(weight) for layer in last_layers(model.backbone) for weight in layer.parameters()}
    split = []
    for group in groups:
        parts: dict[bool, list[Tensor]] = {True: [], False: []}
        for weight in group["params"]:
            parts[id(weight) in of_head].append(weight)
        for in_head, weights in parts.items():
            scale = group.get("lr_scale", 1.0) * (1.0 if in_head else config.body_rate)
            if weights:
                split.append({**group, "params": weights, "lr_scale": scale})
    return split


class Head(nn.Module):
    """The last layer of a CNN alone, on embeddings of a frozen body.

    model: a CNN that ends in one nn.Linear, which is trained
    """

    def __init__(self, model: nn.Module, dropout: float) -> None:
        super().__init__()
        (self.layer,), self.dropout = last_layers(model.backbone), dropout

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (b, 6) and the embedding (b, d), as the whole CNN does."""
        dropped = functional.dropout(embedding, self.dropout, self.layer.training)
        with torch.autocast(embedding.device.type, enabled=False):
            return self.layer(dropped), embedding


def _batch_norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, BATCH_NORMS)]
