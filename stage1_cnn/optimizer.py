"""The optimizer of a CNN, and its learning rate at each step."""

import math

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from stage1_cnn.config import CnnConfig


def new_optimizer(model: nn.Module, config: CnnConfig) -> torch.optim.Optimizer:
    """Return AdamW with its moments allocated and zero.

    By itself AdamW would allocate them in the middle of the first step.
    """
    groups = param_groups_weight_decay(model, config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=True)
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.requires_grad:
                optimizer.state[weight] = {
                    "step": torch.zeros((), device=weight.device),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
    return optimizer


def learning_rate(step: int, steps: int, config: CnnConfig) -> float:
    """Return the learning rate of `step` (0 ... steps - 1): linear warm-up, then half a cosine."""
    rising = round(config.warmup * steps)
    if step < rising:
        return config.lr * (step + 1) / rising
    return config.lr * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2
