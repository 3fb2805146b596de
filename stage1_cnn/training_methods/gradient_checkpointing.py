"""Gradient checkpointing: activations are computed again in the backward pass, not kept."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ct.errors import InputError, printable
from stage1_cnn.config import CnnConfig


def set_checkpointing(backbone: nn.Module, config: CnnConfig) -> None:
    """Switch on gradient checkpointing where `config` asks for it.

    backbone: timm's module. Raises InputError where it has no gradient checkpointing.
    """
    if not config.grad_checkpointing:
        return
    try:
        backbone.set_grad_checkpointing(True)  # type: ignore[operator]  # not in nn.Module
    except (AssertionError, AttributeError, TypeError):  # of timm, where a model has none
        raise InputError(
            f"{config.name}: grad_checkpointing = true, but backbone "
            f"{printable(config.backbone)!r} has no gradient checkpointing; leave it out, and "
            "lower batch and raise accumulate where memory is short"
        ) from None


@contextmanager
def buffers_kept(model: nn.Module, config: CnnConfig) -> Iterator[None]:
    """Context of a backward pass, at whose end the buffers of `model` are as at its start.

    The second computation of the activations would otherwise count each batch twice in the
    statistics of batch norm.
    """
    if not config.grad_checkpointing:
        yield
        return
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:  # a step that exhausts memory is repeated
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
