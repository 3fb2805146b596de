"""From the pixel cache to a batch in HU: each slice with its neighbours, read ahead of the training."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

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


def read_ahead(read_hu, table_rows, order, device):
    """Yield (rows, HU) for each array of row numbers in `order`, reading the next AHEAD in a thread meanwhile.

    read_hu(numbers, out=None) -> int16 (m, S, S) in HU, which is `out` if given; m may be 0
    table_rows: int (n, c), the slices that each row shows; order: arrays of b row numbers below n

    HU is an int16 tensor (b, c, S, S) on `device`. On the CPU it lies in one of AHEAD + 1 buffers that take turns: it is valid
    until the next one is asked for. What `read_hu` raises is raised here; once this generator is closed it is called no more.
    """
    device, size = torch.device(device), read_hu(np.empty(0, np.int64)).shape[-1]
    reader = (_ToCuda if device.type == "cuda" else _ToMemory)(read_hu, size, device)
    waiting, thread = deque(), ThreadPoolExecutor(1)
    try:
        for rows in order:
            if len(waiting) > AHEAD:
                yield _ready(waiting, reader)
            waiting.append((rows, thread.submit(reader.read, table_rows[rows])))
        while waiting:
            yield _ready(waiting, reader)
    finally:
        thread.shutdown(cancel_futures=True)


def _ready(waiting, reader):
    rows, future = waiting.popleft()
    return rows, reader.hand_over(future.result())


class _ToMemory:
    """Reads batches into buffers that take turns. `read` is for one thread, `hand_over` for the consumer's."""

    def __init__(self, read_hu, size, device):
        self.read_hu = read_hu
        self.slices, self.batches = _Buffer(size), cycle([_Buffer(size) for _ in range(AHEAD + 1)])

    def read(self, table_rows):
        """Read the slices `table_rows` (b, c), each distinct one once. Returns an int16 tensor (b, c, S, S)."""
        batch = next(self.batches).of(table_rows.size)
        if table_rows.shape[1] == 1:
            self.read_hu(table_rows[:, 0], batch.numpy())
        else:
            distinct, inverse = np.unique(table_rows, return_inverse=True)
            slices = self.read_hu(distinct, self.slices.of(table_rows.size)[: len(distinct)].numpy())
            # numpy gathers, not torch: torch would open a second OpenMP pool in this thread, and training take twice as long.
            # "clip", since numpy gathers into memory of its own first where an index might be refused
            slices.take(inverse.ravel(), axis=0, out=batch.numpy(), mode="clip")
        return batch.unflatten(0, table_rows.shape)

    def hand_over(self, hu):
        """Return what `read` returned, for the consumer."""
        return hu


class _ToCuda:
    """Reads batches into page-locked buffers that take turns, and copies them to a GPU on a stream beside the training's."""

    def __init__(self, read_hu, size, device):
        self.read_hu, self.stream = read_hu, torch.cuda.Stream(device)
        self.buffers = cycle([(_Buffer(size, pinned=True), torch.cuda.Event()) for _ in range(AHEAD + 1)])

    def read(self, table_rows):
        """Read the slices `table_rows` (b, c), each distinct one once. Returns an int16 tensor (b, c, S, S), and its event."""
        buffer, copied = next(self.buffers)
        copied.synchronize()  # the last copy from this buffer
        distinct, inverse = np.unique(table_rows, return_inverse=True)
        with torch.cuda.stream(self.stream):  # and on its device: a new thread begins on the first
            slices = buffer.of(table_rows.size)[: len(distinct)]
            self.read_hu(distinct, slices.numpy())
            place = torch.from_numpy(inverse.ravel()).to(self.stream.device)
            hu = slices.to(self.stream.device, non_blocking=True)[place]
            copied.record()
        return hu.unflatten(0, table_rows.shape), copied

    def hand_over(self, batch):
        """Return the tensor that `read` returned; what the consumer does with it waits, on the GPU, until it is there."""
        hu, copied = batch
        here = torch.cuda.current_stream(hu.device)
        here.wait_event(copied)
        hu.record_stream(here)  # its memory is not for the next copy before the consumer's work on it is done
        return hu


class _Buffer:
    """Memory for slices of `size` px, used again and again; it grows where it must."""

    def __init__(self, size, pinned=False):
        self.size, self.pinned, self.memory = size, pinned, None

    def of(self, count):
        """Return an int16 tensor (count, S, S)."""
        if self.memory is None or len(self.memory) < count:
            self.memory = torch.empty((count, self.size, self.size), dtype=torch.int16, pin_memory=self.pinned)
        return self.memory[:count]
