"""The device a CNN runs on: which one, in which precision, torch's settings, and whether its memory
has run out.
"""

import os
from contextlib import contextmanager

import torch

from ct.errors import InputError
from stage1_cnn.distributed import this_process

# cuBLAS refuses determinism without it, or once it is in use
CUBLAS_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
FULL = (  # what errors say that are not torch.OutOfMemoryError, but come of memory that ran out
    # of CUDA itself, as for page-locked memory: torch.AcceleratorError, or RuntimeError in older
    # versions
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",  # cuBLAS makes a handle and a workspace of its own
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "Unable to find a valid cuDNN algorithm",  # none whose workspace fits
    "unable to find an engine to execute this computation",  # likewise, of cuDNN 8 and later
    "can't allocate memory",  # of torch on the CPU
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error that torch raised means that a device's memory has run out, so that
    fewer slices might fit.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)


def free_memory(device: torch.device) -> None:
    """Hand memory that torch keeps for later, but nobody uses, back to the device. Not while the
    error is being handled: its traceback holds the tensors of the attempt.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def weights_must_fit(config, device):
    """Context in which a CNN's weights, or what is kept of each of them, come to a device: no
    smaller batch would help.

    Raises InputError where its memory runs out.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"{config.name}: its weights, with what is kept of each, do not fit into the memory of {device}; choose a smaller "
            "backbone, or end what else uses that memory"
        ) from None


def pick_device(wanted="auto"):
    """Return the device that is `wanted`: "cpu", "cuda", or "auto", the CUDA device of this process
    where there is one.

    Raises InputError where CUDA is wanted and not there.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device=cuda: torch sees no CUDA device here; leave the flag out, or say --device=cpu"
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def autocast_type(config, device):
    """Return the type in which the CNN computes on `device`, or None for float32."""
    if config.precision == "auto":
        if device.type != "cuda":
            return None
        return (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[config.precision]


def mixed_precision(config, device):
    """Context in which the CNN computes in the type that `config` and the device want."""
    kind = autocast_type(config, device)
    return torch.autocast(device.type, dtype=kind, enabled=kind is not None)


@contextmanager
def torch_settings(config):
    """Context with torch's threads, determinism and precision of float32 as `config` says;
    afterwards they are as before.
    """
    before = _settings()
    if config.deterministic:
        os.environ.setdefault(*CUBLAS_WORKSPACE)
    _, tf32 = before
    _set_torch(
        (config.threads, config.deterministic, not config.deterministic, False),
        (False, False) if config.precision == "fp32" else tf32,
    )
    try:
        yield
    finally:
        _set_torch(*before)


def _settings():
    """Return torch's settings as _set_torch takes them."""
    first = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    return first, (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)


def _set_torch(settings, tf32):
    """Set torch's threads, determinism, cuDNN's benchmark, the filling of new memory, and TF32 in
    matrices and in cuDNN.

    Determinism would have torch fill all memory that it allocates, to show who reads it before
    writing: nobody does here. TF32 rounds float32 to 10 bits of mantissa. It is set by its older
    names: they set the newer ones, too, while to set those alone leaves a mixture that
    torch.compile refuses (pytorch#189955).
    """
    threads, deterministic, benchmark, fill = settings
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = benchmark
    torch.utils.deterministic.fill_uninitialized_memory = fill
    if tf32 != (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32):
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


ENVIRONMENT_FIELDS = ("processes", "device", "precision")
PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}


def environment(config) -> dict[str, int | str]:
    """Return {"processes", "device", "precision"} of what a CnnConfig is trained or asked under in
    this process.
    """
    device = pick_device()
    name = f"cuda, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
    return {
        "processes": this_process().world_size,
        "device": name,
        "precision": PRECISIONS[autocast_type(config, device)],
    }
