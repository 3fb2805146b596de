"""Run a trained CNN on slices that it was not trained on: logits and embeddings."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ct.errors import InputError
from ct.labels import LABELS
from stage1_cnn.batches.augment import to_channels, views
from stage1_cnn.batches.batch_reader import ReadHu, read_ahead
from stage1_cnn.batches.dataset import batches
from stage1_cnn.batches.head_crop import crop_to_head
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import mixed_precision, pick_device, torch_settings
from stage1_cnn.gpu_memory import free_memory, is_out_of_memory, weights_must_fit
from stage1_cnn.model import Cnn

FLOAT16_MAX = 65504


def predict(
    model: Cnn,
    table_rows: NDArray[np.int64],
    readable: NDArray[np.bool_],
    read_hu: ReadHu,
    config: CnnConfig,
    progress: Callable[[int], object] | None = None,
    device: torch.device | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """Return the logits and embeddings of some slices, means over the plain and TTA views.

    table_rows: int (n, c), row numbers of each slice and its neighbours, as returned by
    `neighbour_rows`; readable: bool (n,); read_hu: reads slices by row number; progress: called
    with the number of slices after each batch; device: `pick_device()` if None.

    Returns outputs (n, 6) float32, columns LABELS, and embeddings (n, d) float16, in the order of
    `table_rows`; unreadable slices are NaN in both. The outputs are logits, or probabilities where
    `config.outputs` is so. The results do not depend on the batch size, except in the last bits.
    Raises InputError where the weights, or the weights and a single
    slice, do not fit into the device's memory.
    """
    device, readable_rows = device or pick_device(), np.flatnonzero(readable)
    with weights_must_fit(config, device):
        model = model.eval().to(device).to(memory_format=torch.channels_last)
    outputs = np.full((len(table_rows), len(LABELS)), np.nan, np.float32)
    embeddings = np.full((len(table_rows), model.width), np.nan, np.float16)

    def predict_batch(rows: NDArray[np.int64], hu: Tensor) -> None:
        logits, embedding = _mean_of_views(model, hu, config)
        if config.outputs == "probabilities":
            logits = torch.sigmoid(logits)
        outputs[rows] = logits.cpu().numpy()
        embeddings[rows] = embedding.clamp(-FLOAT16_MAX, FLOAT16_MAX).cpu().numpy()
        if progress:
            progress(len(rows))

    with torch_settings(config), torch.inference_mode():
        for_each_batch(readable_rows, read_hu, table_rows, config, device, predict_batch)
    return outputs, embeddings


def plain_embeddings(
    model: Cnn,
    table_rows: NDArray[np.int64],
    read_hu: ReadHu,
    config: CnnConfig,
    device: torch.device,
) -> NDArray[np.float32]:
    """Return the embeddings (n, d) of some readable slices, without views, as the head gets them.

    Arguments as in `predict`; the model is on the device.
    """
    embeddings = np.empty((len(table_rows), model.width), np.float32)
    model.eval()

    def embed_batch(rows: NDArray[np.int64], hu: Tensor) -> None:
        with mixed_precision(config, device):
            _, embedding = model(to_channels(crop_to_head(hu, config), config))
        embeddings[rows] = embedding.cpu().numpy()

    with torch.inference_mode():
        for_each_batch(np.arange(len(table_rows)), read_hu, table_rows, config, device, embed_batch)
    return embeddings


def for_each_batch(
    rows: NDArray[np.int64],
    read_hu: ReadHu,
    table_rows: NDArray[np.int64],
    config: CnnConfig,
    device: torch.device,
    work: Callable[[NDArray[np.int64], Tensor], None],
) -> None:
    """Call work(batch_rows, hu) on batches of `rows`; halve the batch where memory runs out.

    rows: row numbers of table_rows; hu: int16 (b, c, S, S) on the device; the others as in
    `predict`. `work` must store nothing where it raises: the rows of its batch are read again.
    Raises InputError where a single slice does not fit into memory.
    """
    done, batch = 0, config.batch
    while done < len(rows):
        memory_is_full = False
        try:
            remaining = batches(rows[done:], batch)
            for batch_rows, hu in read_ahead(read_hu, table_rows, remaining, device):
                work(batch_rows, hu)
                done += len(batch_rows)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            memory_is_full = True
        if memory_is_full:  # not in the handler: there the error still holds the batch's tensors
            batch //= 2
            free_memory(device)
        if not batch:
            raise InputError(
                f"{config.name}: one slice does not fit into the memory of {device}; "
                "lower image_size"
            )


def _mean_of_views(model: Cnn, hu: Tensor, config: CnnConfig) -> tuple[Tensor, Tensor]:
    """Return the logits (b, 6) and embeddings (b, d) of a batch in HU, means over the views."""
    hu = crop_to_head(hu, config)
    with mixed_precision(config, hu.device):
        outputs = [model(to_channels(view, config)) for view in views(hu, config)]
    logits = torch.stack([view_logits for view_logits, _ in outputs]).mean(dim=0)
    embedding = torch.stack([view_embedding for _, view_embedding in outputs]).mean(dim=0)
    return logits, embedding
