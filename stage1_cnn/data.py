"""From the pixel cache to a batch in HU: each slice with its neighbours, read ahead of the training."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from ct.slices import SERIES

AHEAD = 2  # batches that are read while one is trained on


def neighbour_rows(slices, reach):
    """Row numbers of each slice and of its `reach` neighbours on each side, in the order of `place`.

    slices: (n rows) with SERIES, `place` and `readable`, in any order
    Returns (n, 2 * reach + 1) int64; the middle column is the slice itself. Neighbours are of the same series and split. Past
    either end the end slice is repeated, and an unreadable neighbour is replaced by the slice itself: a CNN has no NaN.
    """
    n = len(slices)
    series = slices.groupby(list(SERIES), sort=False, observed=True).ngroup().to_numpy()
    order = np.lexsort((slices["place"].to_numpy(), series))  # rows, series after series
    _, first, size = np.unique(series[order], return_index=True, return_counts=True)
    first, last = np.repeat(first, size), np.repeat(first + size - 1, size)
    at = np.arange(n)[:, None] + np.arange(-reach, reach + 1)
    rows = np.empty((n, 2 * reach + 1), np.int64)
    rows[order] = order[np.clip(at, first[:, None], last[:, None])]
    readable = slices["readable"].to_numpy(bool)
    return np.where(readable[rows], rows, np.arange(n)[:, None])


def read_batch(read_hu, table_rows):
    """Read the slices `table_rows` (b, c), each distinct one once. Returns an int16 tensor (b, c, S, S) in HU."""
    distinct, inverse = np.unique(table_rows, return_inverse=True)
    # numpy gathers, not torch: in read_ahead's thread torch would open a second OpenMP pool, and training take twice as long
    return torch.from_numpy(np.asarray(read_hu(distinct))[inverse.reshape(table_rows.shape)])


def read_ahead(read_hu, table_rows, order, device=None):
    """Yield (rows, HU tensor) for each array of row numbers in `order`, reading the next ones in a thread meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        waiting = deque()
        for rows in order:
            waiting.append((rows, thread.submit(read_batch, read_hu, table_rows[rows])))
            if len(waiting) > AHEAD:
                yield _ready(waiting)
        while waiting:
            yield _ready(waiting)


def _ready(waiting):
    rows, future = waiting.popleft()
    return rows, future.result()
