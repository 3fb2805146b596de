"""What an interrupted training needs to go on: tensors for safetensors, and plain values for its
header.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Checkpoint:
    """The state of one training between two steps.

    tensors: name -> CPU tensor: "model.…", "ema.…", "optimizer.<number of the parameter>.…"
    state: plain values: epoch, step (both to go on with), loss_sum, curve, done, micro, scaler
    """

    tensors: dict
    state: dict


def model_tensors(module, name):
    """Return {f"{name}.…": tensor} of a module's weights and buffers."""
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


def optimizer_tensors(optimizer):
    """Return {"optimizer.<parameter>.<what>": tensor} of what an optimizer keeps of each
    parameter.
    """
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{what}": value
        for number, kept in state.items()
        for what, value in kept.items()
    }


def load_optimizer(optimizer, tensors):
    """Give an optimizer what `optimizer_tensors` returned; its settings stay its own."""
    weights, kept = [weight for group in optimizer.param_groups for weight in group["params"]], {}
    for name, value in of(tensors, "optimizer").items():
        number, what = name.split(".")
        weight = weights[int(number)]
        if value.shape == weight.shape:
            # in the weight's memory format, channels last
            value = torch.empty_like(weight, dtype=value.dtype).copy_(value)
        kept.setdefault(int(number), {})[what] = value
    optimizer.load_state_dict(
        {"state": kept, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def of(tensors, name):
    """Return the tensors whose name begins with f"{name}.", without that."""
    return {
        key.removeprefix(f"{name}."): value
        for key, value in tensors.items()
        if key.startswith(f"{name}.")
    }


def on_cpu(tensors):
    """Return contiguous copies on the CPU, none sharing its memory: safetensors refuses those that
    do.
    """
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
