"""CUDA tensors without a GPU, for tests: shapes, types and devices are computed, no values.

FakeTensorMode lets torch run on tensors that have no memory, and refuses two devices in one
operation. What needs a real GPU has a stand-in here: random generators, moving a module, the
backward pass, the question whether there is CUDA.
"""

import contextlib
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

DEVICE = torch.device("cuda:0")


class Generator:
    """Stands for torch.Generator, which exists only on a real device."""

    def __init__(self, device="cpu"):
        self.device = torch.device(device)

    def manual_seed(self, seed):
        return self


def drawing(function):
    """Return torch.rand or torch.randn for a Generator, which has to be on the tensor's device."""

    def draw(*shape, generator=None, device="cpu", **more):
        if generator is not None and generator.device != torch.device(device):
            raise RuntimeError(f"a generator on {generator.device}, a tensor on {device}")
        return function(*shape, device=device, **more)

    return draw


def moving(mode):
    """Return a stand-in of nn.Module.to, which swaps tensors: fake ones do not allow that."""

    def move(tensor, *args, memory_format=None, **kwargs):
        if not isinstance(tensor, FakeTensor):  # of a model that was built before
            tensor = mode.from_tensor(tensor)
        if memory_format is not None and tensor.ndim == 4:
            kwargs["memory_format"] = memory_format
        return tensor.detach().to(*args, **kwargs)

    def to(module, *args, **kwargs):
        for child in module.modules():
            for name, weight in child._parameters.items():
                if weight is not None:
                    moved = nn.Parameter(move(weight, *args, **kwargs), weight.requires_grad)
                    child._parameters[name] = moved
            for name, value in child._buffers.items():
                if value is not None:
                    child._buffers[name] = move(value, *args, **kwargs)
        return module

    return to


def backward_of(module):
    """Return a stand-in of Tensor.backward: each weight of `module` gets a gradient."""

    def backward(loss):
        if (loss.device, loss.dtype, loss.ndim) != (DEVICE, torch.float32, 0):
            raise RuntimeError(f"a loss of {loss.dtype} on {loss.device}")
        for weight in module.parameters():
            if weight.requires_grad:
                weight.grad = torch.empty_like(weight)

    return backward


@contextlib.contextmanager
def fake_cuda():
    """Context in which tensors can be made on DEVICE.

    A CNN is built before it: timm reads values while it builds one.
    """
    mode = FakeTensorMode()
    with contextlib.ExitStack() as stack:
        for owner, name, stand_in in (
            (torch, "Generator", Generator),
            (torch, "rand", drawing(torch.rand)),
            (torch, "randn", drawing(torch.randn)),
            (nn.Module, "to", moving(mode)),
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
        ):
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        # a copied model, such as the moving average, stays in the same mode
        same = {"create": True, "new": lambda mode, memo: mode}
        stack.enter_context(mock.patch.object(FakeTensorMode, "__deepcopy__", **same))
        yield stack.enter_context(mode)
