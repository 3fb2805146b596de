"""What a trained CNN thinks of slices it never saw, and how torch is set up for it."""

import os
from contextlib import contextmanager

import numpy as np
import torch

from ct.labels import LABELS
from stage1_cnn.data import neighbour_rows, read_ahead
from stage1_cnn.images import to_channels
from stage1_cnn.order import batches


def predict(model, slices, rows, read_hu, config, progress=None):
    """Six probabilities and the embedding of the slices in the rows `rows` of the table.

    rows: int (n,) row numbers of `slices`, whose other rows serve as neighbours
    read_hu(numbers) -> int16 (m, S, S) in HU for m row numbers of `slices`
    progress(step, steps), after each batch

    Returns probs (n, 6) float32 in [0, 1], columns LABELS, and embeddings (n, d) float16, in the order of `rows`; unreadable
    slices are NaN in both. The results do not depend on the size of the batches, but for the last bits.
    """
    table_rows, device = neighbour_rows(slices, config.neighbours), pick_device()
    model = model.eval().to(device, memory_format=torch.channels_last)
    rows = np.asarray(rows)
    seen = np.flatnonzero(slices["readable"].to_numpy(bool)[rows])
    probs = np.full((len(rows), len(LABELS)), np.nan, np.float32)
    embeddings = np.full((len(rows), model.width), np.nan, np.float16)
    order = batches(seen, config.batch)
    with torch_as_set(config), torch.inference_mode():
        for step, (at, hu) in enumerate(read_ahead(read_hu, table_rows[rows], order, device), 1):
            with mixed_precision(config, device):
                logits, embedding = model(to_channels(hu.to(device), config))
            probs[at] = torch.sigmoid(logits).cpu().numpy()
            embeddings[at] = embedding.clamp(-65504, 65504).cpu().numpy()  # the range of float16
            if progress:
                progress(step, len(order))
    return probs, embeddings


def pick_device():
    """Return the CUDA device of this process, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed_precision(config, device):
    """Context in which the CNN computes in bfloat16, where `config` and the device want it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.amp and device.type == "cuda")


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
