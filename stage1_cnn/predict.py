"""What a trained CNN thinks of slices it never saw, and how torch is set up for it."""

import os
from contextlib import contextmanager

import numpy as np
import torch

from ct.errors import InputError
from ct.labels import LABELS
from stage1_cnn.data import read_ahead
from stage1_cnn.images import to_channels, views
from stage1_cnn.order import batches


def predict(model, table_rows, readable, read_hu, config, progress=None, device=None):
    """Six probabilities and the embedding of some slices, the mean over the plain view and those of `config.tta`.

    table_rows: int (n, c), row numbers of each slice and its neighbours, as of `neighbour_rows`; readable: bool (n,)
    read_hu(numbers, out=None) -> int16 (m, S, S) in HU for m row numbers; progress(slices), after each batch of so many;
    device: a torch.device, as of `pick_device` if None

    Returns probs (n, 6) float32 in [0, 1], columns LABELS, and embeddings (n, d) float16, in the order of `table_rows`;
    unreadable slices are NaN in both. The results do not depend on the size of the batches, but for the last bits.
    Raises InputError where a single slice does not fit into the device's memory.
    """
    device, seen = device or pick_device(), np.flatnonzero(readable)
    model = model.eval().to(device, memory_format=torch.channels_last)
    probs = np.full((len(table_rows), len(LABELS)), np.nan, np.float32)
    embeddings = np.full((len(table_rows), model.width), np.nan, np.float16)
    done, batch = 0, config.batch
    with torch_as_set(config), torch.inference_mode():
        while done < len(seen):
            try:
                for at, hu in read_ahead(read_hu, table_rows, batches(seen[done:], batch), device):
                    logits, embedding = _look(model, hu, config)
                    probs[at] = torch.sigmoid(logits).cpu().numpy()
                    embeddings[at] = embedding.clamp(-65504, 65504).cpu().numpy()  # the range of float16
                    done += len(at)
                    if progress:
                        progress(len(at))
            except torch.OutOfMemoryError:
                batch //= 2
            if not batch:
                raise InputError(f"{config.name}: one slice does not fit into the memory of {device}; lower image_size")
    return probs, embeddings


def _look(model, hu, config):
    """Return the logits (b, 6) and embeddings (b, d) of a batch in HU, each the mean over the views."""
    with mixed_precision(config, hu.device):
        seen = [model(to_channels(view, config)) for view in views(hu, config)]
    logits, embedding = (torch.stack(parts).mean(dim=0) for parts in zip(*seen, strict=True))
    return logits, embedding


def pick_device(wanted="auto"):
    """Return the device that is `wanted`: "cpu", "cuda", or "auto", the CUDA device of this process where there is one.

    Raises InputError where CUDA is wanted and not there.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("--device=cuda: torch sees no CUDA device here; leave the flag out, or say --device=cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def autocast_type(config, device):
    """Return the type in which the CNN computes on `device`, or None for float32."""
    if config.precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[config.precision]


def mixed_precision(config, device):
    """Context in which the CNN computes in the type that `config` and the device want."""
    kind = autocast_type(config, device)
    return torch.autocast(device.type, dtype=kind, enabled=kind is not None)


@contextmanager
def torch_as_set(config):
    """Context with torch's threads and determinism as `config` says; afterwards they are as before."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS refuses determinism without it
    _set_torch(config.threads, config.deterministic, not config.deterministic)
    try:
        yield
    finally:
        _set_torch(*before)


def _set_torch(threads, deterministic, benchmark):
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = benchmark
