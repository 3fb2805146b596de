"""Exhausted memory of a GPU or of the CPU: recognise it, free it, or raise one clear error."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ct.errors import InputError
from stage1_cnn.config import CnnConfig

OUT_OF_MEMORY_TEXTS = (  # in errors that are not torch.OutOfMemoryError, but mean the same
    # of CUDA itself, as for page-locked memory: torch.AcceleratorError, or RuntimeError in older
    # versions
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",  # cuBLAS allocates a handle and a workspace of its own
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "Unable to find a valid cuDNN algorithm",  # none whose workspace fits
    "unable to find an engine to execute this computation",  # the same, of cuDNN 8 and later
    "can't allocate memory",  # of torch on the CPU
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch means that a device's memory is exhausted."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in OUT_OF_MEMORY_TEXTS
    )


def free_memory(device: torch.device) -> None:
    """Return the unused memory that torch caches to the device.

    Call it after the `except` block: in it the traceback still holds the tensors of the attempt.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def weights_must_fit(config: CnnConfig, device: torch.device) -> Iterator[None]:
    """Context in which a CNN's weights, or the state of its optimizer, move to a device.

    Raises InputError where the device's memory is exhausted: a smaller batch would not help.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"{config.name}: its weights and the optimizer's state do not fit into the memory "
            f"of {device}; choose a smaller backbone, or end other programs that use this memory"
        ) from None
