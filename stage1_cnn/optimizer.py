"""The optimizer of a CNN, and its learning rates at each step."""

import math
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from ct.errors import InputError
from stage1_cnn.config import CnnConfig
from stage1_cnn.training_methods.held_body import is_frozen, with_body_rate


def new_optimizer(model: nn.Module, config: CnnConfig) -> torch.optim.Optimizer:
    """Return AdamW with its moments allocated and zero.

    By itself AdamW would allocate them in the middle of the first step.
    """
    optimizer = torch.optim.AdamW(weight_groups(model, config), lr=config.lr, fused=True)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.requires_grad:
                optimizer.state[weight] = {
                    "step": torch.zeros((), device=weight.device),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
    return optimizer


def weight_groups(model: nn.Module, config: CnnConfig) -> list[dict[str, Any]]:
    """Return the groups of the weights of a timm model, as torch's optimizers take them.

    `lr_scale` of a group, where it has one, is the share of the learning rate that it gets. Raises
    InputError where the layers that `layer_decay` needs are not known.
    """
    if config.layer_decay == 1 or is_frozen(config):
        groups = param_groups_weight_decay(model, config.weight_decay)
        return with_body_rate(groups, model, config)
    backbone = getattr(model, "backbone", model)  # timm knows the layers of its own models
    groups = list(
        param_groups_layer_decay(backbone, config.weight_decay, layer_decay=config.layer_decay)
    )
    if all(group["lr_scale"] == 1 for group in groups):
        raise InputError(
            f"{config.name}: layer_decay = {config.layer_decay:g}, but timm does not know the "
            f"layers of backbone {config.backbone!r}; leave layer_decay out"
        )
    return with_body_rate(groups, model, config)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, step: int, steps: int, config: CnnConfig
) -> None:
    """Give each group of weights its learning rate of `step`: that of the last layer, scaled."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, steps, config) * group.get("lr_scale", 1.0)


def learning_rate(step: int, steps: int, config: CnnConfig) -> float:
    """Return the learning rate of `step` (0 ... steps - 1): linear warm-up, then half a cosine."""
    rising = round(config.warmup * steps)
    if step < rising:
        return config.lr * (step + 1) / rising
    return config.lr * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2
