"""Run a trained CNN on slices it never saw: probabilities and embeddings."""

import numpy as np
import torch

from ct.errors import InputError
from ct.labels import LABELS
from stage1_cnn.augment import to_channels, views
from stage1_cnn.dataset import batches, read_ahead
from stage1_cnn.device import (
    free_memory,
    is_out_of_memory,
    mixed_precision,
    pick_device,
    torch_as_set,
    weights_must_fit,
)


def predict(model, table_rows, readable, read_hu, config, progress=None, device=None):
    """Six probabilities and the embedding of some slices, the mean over the plain view and those of
    `config.tta`.

    table_rows: int (n, c), row numbers of each slice and its neighbours, as of `neighbour_rows`;
    readable: bool (n,) read_hu(numbers, out=None) -> int16 (m, S, S) in HU for m row numbers;
    progress(slices), after each batch of so many; device: a torch.device, as of `pick_device` if
    None

    Returns probs (n, 6) float32 in [0, 1], columns LABELS, and embeddings (n, d) float16, in the
    order of `table_rows`; unreadable slices are NaN in both. The results do not depend on the size
    of the batches, but for the last bits. Raises InputError where the weights, or a single slice
    beside them, do not fit into the device's memory.
    """
    device, seen = device or pick_device(), np.flatnonzero(readable)
    with weights_must_fit(config, device):
        model = model.eval().to(device, memory_format=torch.channels_last)
    probs = np.full((len(table_rows), len(LABELS)), np.nan, np.float32)
    embeddings = np.full((len(table_rows), model.width), np.nan, np.float16)

    def look(at, hu):
        logits, embedding = _look(model, hu, config)
        probs[at] = torch.sigmoid(logits).cpu().numpy()
        embeddings[at] = embedding.clamp(-65504, 65504).cpu().numpy()  # the range of float16
        if progress:
            progress(len(at))

    with torch_as_set(config), torch.inference_mode():
        for_each_batch(seen, read_hu, table_rows, config, device, look)
    return probs, embeddings


def for_each_batch(seen, read_hu, table_rows, config, device, work):
    """Call work(rows, hu) with the slices `seen`, config.batch at once; where memory runs out, half
    as many from there on.

    seen: row numbers of table_rows; work may not keep what it did with a batch in which it raised;
    the others as in `predict` Raises InputError where a single slice does not fit into the device's
    memory.
    """
    done, batch = 0, config.batch
    while done < len(seen):
        full = False
        try:
            for at, hu in read_ahead(read_hu, table_rows, batches(seen[done:], batch), device):
                work(at, hu)
                done += len(at)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            full = True
        if full:  # not above, where the error still holds the tensors of the batch
            batch //= 2
            free_memory(device)
        if not batch:
            raise InputError(
                f"{config.name}: one slice does not fit into the memory of {device}; lower image_size"
            )


def _look(model, hu, config):
    """Return the logits (b, 6) and embeddings (b, d) of a batch in HU, each the mean over the
    views.
    """
    with mixed_precision(config, hu.device):
        seen = [model(to_channels(view, config)) for view in views(hu, config)]
    logits, embedding = (torch.stack(parts).mean(dim=0) for parts in zip(*seen, strict=True))
    return logits, embedding
