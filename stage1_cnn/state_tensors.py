"""The state of a training between two steps, as checkpoints keep it: tensors and plain values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class TrainingState:
    """The state of one training between two steps.

    tensors: name -> CPU tensor: "model.…", "ema.…", "average.…",
    "optimizer.<number of the parameter>.…"
    state: plain values: epoch and step where the training continues, loss_sum, curve, done (steps
    in all), micro (slices in one forward pass), scaler, processes (that share a step), and with
    `average_epochs` averaged (epochs in the mean)
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def state_among(self, processes: int, steps: int) -> dict[str, Any]:
        """Return `state` in steps of so many processes, of which an epoch has `steps`.

        Twice the processes share a step of twice the slices. The part of an epoch that does not
        fill such a step is trained on again.
        """
        before = self.state["processes"]
        if before == processes:
            return self.state
        step = min(steps, self.state["step"] * before // processes)  # the last one may be short
        done = (self.state["epoch"] - 1) * steps + step
        loss_sum = self.state["loss_sum"] * step / max(1, self.state["step"])
        return self.state | {"step": step, "done": done, "loss_sum": loss_sum}


def model_tensors(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return {f"{prefix}.…": tensor} of a module's weights and buffers."""
    return {f"{prefix}.{key}": value for key, value in module.state_dict().items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return {"optimizer.<number of the parameter>.<name>": tensor} of an optimizer's state."""
    tensors = {}
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{number}.{name}"] = value
    return tensors


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the tensors of `optimizer_tensors`; the optimizer keeps its own settings."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in with_prefix(tensors, "optimizer").items():
        number, name = key.split(".")
        weight = weights[int(number)]
        if value.shape == weight.shape:
            # in the weight's memory format, channels last
            value = torch.empty_like(weight, dtype=value.dtype).copy_(value)
        states.setdefault(int(number), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose name begins with f"{prefix}.", named without it."""
    start = f"{prefix}."
    return {
        key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)
    }


def on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies on the CPU that share no memory, as safetensors demands."""
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
