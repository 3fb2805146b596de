"""Exhausted memory and other faults of a GPU: recognise them, raise one clear error."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ct.errors import InputError, MachineFault, reason_of
from ct.system.machine_faults import GOES_ON
from stage1_cnn.config import CnnConfig

OUT_OF_MEMORY_TEXTS = (  # in errors that are not torch.OutOfMemoryError, but mean the same
    # of CUDA itself, as for page-locked memory: torch.AcceleratorError, or RuntimeError in older
    # versions
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",  # cuBLAS allocates a handle and a workspace of its own
    "CUBLAS_STATUS_NOT_INITIALIZED",  # often in place of the former, where none is left at all
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
def gpu_faults() -> Iterator[None]:
    """Context in which errors of CUDA that are not exhausted memory become MachineFault.

    After most of them, no later call of CUDA works in the same process.
    """
    try:
        yield
    except torch.AcceleratorError as error:
        if is_out_of_memory(error):
            raise
        raise MachineFault(
            f"the GPU failed ({reason_of(error)}): see nvidia-smi and the system's log; if it "
            f"fails again at the same place, CUDA_LAUNCH_BLOCKING=1 shows where; {GOES_ON}"
        ) from error


@contextmanager
def weights_must_fit(config: CnnConfig, device: torch.device) -> Iterator[None]:
    """Context in which a CNN's weights, or the state of its optimizer, move to a device.

    Raises InputError where the device's memory is exhausted: a smaller batch would not help.
    """
    try:
        with gpu_faults():
            yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"{config.name}: its weights and the optimizer's state do not fit into the memory "
            f"of {device}; choose a smaller backbone, or end other programs that use this memory"
        ) from None
