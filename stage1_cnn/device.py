"""The device that a CNN runs on: choice, precision, torch's settings."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ct.errors import InputError
from stage1_cnn.config import GPU_OF_PROCESS, CnnConfig
from stage1_cnn.distributed import this_process
from stage1_cnn.gpu_memory import gpu_faults

# cuBLAS refuses determinism without it; it must be set before cuBLAS is first used
CUBLAS_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
ENVIRONMENT_FIELDS = ("processes", "device", "precision")  # keys of `environment`
PRECISION_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}


def pick_device(choice: str = "auto") -> torch.device:
    """Return the device of `choice`: "cpu", "cuda", or "auto", which is CUDA where there is one.

    Raises InputError for "cuda" where there is none, and for "auto" in a process that was started
    for a GPU: a fold that is trained on the CPU instead would take days.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device=cuda: torch finds no CUDA device here; leave the flag out, "
            "or use --device=cpu"
        )
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
        gpu = os.environ.get(GPU_OF_PROCESS)
        if gpu and choice == "cpu":
            raise InputError(
                f"GPU {gpu}: torch finds no CUDA device in the process that was started for it; "
                "see nvidia-smi there; --gpus takes others, and --gpus=cpu none; in a cluster "
                "start that machine's Ray with --num-gpus=0"
            )
    return torch.device(choice)


def autocast_type(config: CnnConfig, device: torch.device) -> torch.dtype | None:
    """Return the type in which the CNN computes on `device`, or None for float32."""
    if config.precision == "auto":
        if device.type != "cuda":
            return None
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float16
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[config.precision]


def mixed_precision(config: CnnConfig, device: torch.device) -> torch.autocast:
    """Return the context in which the CNN computes in `autocast_type`."""
    dtype = autocast_type(config, device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def environment(config: CnnConfig) -> dict[str, int | str]:
    """Return the number of processes, the device's name and the precision that a CNN runs with.

    Returns {name: value} with the names ENVIRONMENT_FIELDS.
    """
    device = pick_device()
    name = f"cuda, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
    return {
        "processes": this_process().world_size,
        "device": name,
        "precision": PRECISION_NAMES[autocast_type(config, device)],
    }


@contextmanager
def torch_settings(config: CnnConfig) -> Iterator[None]:
    """Context with torch's threads, determinism and TF32 as in `config`; restored at its end.

    Raises MachineFault where the GPU fails in it.
    """
    before = _get_settings()
    if config.deterministic:
        os.environ.setdefault(*CUBLAS_WORKSPACE)
    _, tf32 = before
    _set_settings(
        (config.threads, config.deterministic, not config.deterministic, False),
        (False, False) if config.precision == "fp32" else tf32,
    )
    try:
        with gpu_faults():
            yield
    finally:
        _set_settings(*before)


_Settings = tuple[int, bool, bool, bool]  # threads, determinism, benchmark, fill of new memory


def _get_settings() -> tuple[_Settings, tuple[bool, bool]]:
    """Return torch's settings, in the form that _set_settings takes."""
    settings = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]  # untyped
    )
    return settings, (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)


def _set_settings(settings: _Settings, tf32: tuple[bool, bool]) -> None:
    """Set torch's threads, determinism, cuDNN's benchmark, and TF32 in matrices and in cuDNN.

    Determinism would also fill all memory that torch allocates, to expose code that reads it before
    writing; no code here does. TF32 rounds float32 to 10 bits of mantissa. It is set by its older
    names, which also set the newer ones. The newer ones alone would leave a mixture that
    torch.compile refuses (pytorch#189955).
    """
    threads, deterministic, benchmark, fill = settings
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = benchmark
    torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]  # untyped
    if tf32 != (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32):
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
