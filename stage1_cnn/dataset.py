"""From the pixel cache to a batch in HU: each slice with its neighbours, read ahead of the
training.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import numpy as np
import torch

from ct.slices import SERIES

AHEAD = 2  # batches that are read, side by side, while one is trained on


def neighbour_rows(slices, reach):
    """Row numbers of each slice and of its `reach` neighbours on each side, in the order of
    `place`.

    slices: (n rows) with SERIES, `place` and `readable`, in any order Returns (n, 2 * reach + 1)
    int64; the middle column is the slice itself. Neighbours are of the same series and split. Past
    either end the end slice is repeated, and an unreadable neighbour is replaced by the slice
    itself: a CNN has no NaN.
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
    """Yield (rows, HU) for each array of row numbers in `order`, while threads read the next AHEAD
    batches.

    read_hu(numbers, out=None) -> int16 (m, S, S) in HU, which is `out` if given; m may be 0.
    Threads call it side by side table_rows: int (n, c), the slices that each row shows; order:
    arrays of b row numbers below n

    HU is an int16 tensor (b, c, S, S) on `device`. On the CPU it lies in one of AHEAD + 1 buffers
    that take turns: it is valid until the next one is asked for. What `read_hu` raises is raised
    here; once this generator is closed it is called no more.
    """
    device, size = torch.device(device), read_hu(np.empty(0, np.int64)).shape[-1]
    kind = _CudaBatch if device.type == "cuda" else _Batch
    turns = cycle([kind(read_hu, size, device) for _ in range(AHEAD + 1)])
    # two batches at once: no core waits for the last slice of one
    waiting, threads = deque(), ThreadPoolExecutor(AHEAD)
    try:
        for rows in order:
            if len(waiting) > AHEAD:
                yield _ready(waiting)
            batch = next(turns)
            waiting.append((rows, batch, threads.submit(batch.read, table_rows[rows])))
        while waiting:
            yield _ready(waiting)
    finally:
        threads.shutdown(cancel_futures=True)


def _ready(waiting):
    rows, batch, future = waiting.popleft()
    future.result()
    return rows, batch.hand_over()


class _Batch:
    """Memory for a batch on the CPU, read into again and again. `read` is for a thread, `hand_over`
    for the consumer.
    """

    def __init__(self, read_hu, size, device):
        self.read_hu, self.slices, self.batch, self.hu = read_hu, _Buffer(size), _Buffer(size), None

    def read(self, table_rows):
        """Read the slices `table_rows` (b, c), each distinct one once."""
        batch = self.batch.of(table_rows.size)
        if table_rows.shape[1] == 1:
            self.read_hu(table_rows[:, 0], batch.numpy())
        else:
            distinct, inverse = np.unique(table_rows, return_inverse=True)
            slices = self.read_hu(
                distinct, self.slices.of(table_rows.size)[: len(distinct)].numpy()
            )
            # numpy gathers, not torch: torch would open a second OpenMP pool in this thread, and
            # training take twice as long. "clip", since numpy gathers into memory of its own first
            # where an index might be refused
            slices.take(inverse.ravel(), axis=0, out=batch.numpy(), mode="clip")
        self.hu = batch.unflatten(0, table_rows.shape)

    def hand_over(self):
        """Return the int16 tensor (b, c, S, S) that was read last."""
        return self.hu


class _CudaBatch:
    """Page-locked memory for a batch, which is copied to a GPU from there, on a stream beside the
    consumer's.
    """

    def __init__(self, read_hu, size, device):
        self.read_hu, self.slices, self.hu = read_hu, _Buffer(size, pinned=True), None
        self.stream, self.copied = torch.cuda.Stream(device), torch.cuda.Event()

    def read(self, table_rows):
        """Read the slices `table_rows` (b, c), each distinct one once, and begin to copy and gather
        them on the GPU.
        """
        self.copied.synchronize()  # the copy before this one, from the same memory
        distinct, inverse = np.unique(table_rows, return_inverse=True)
        with torch.cuda.stream(self.stream):  # and on its device: a new thread begins on the first
            slices = self.slices.of(table_rows.size)[: len(distinct)]
            self.read_hu(distinct, slices.numpy())
            place = torch.from_numpy(inverse.ravel()).to(self.stream.device)
            self.hu = slices.to(self.stream.device, non_blocking=True)[place].unflatten(
                0, table_rows.shape
            )
            self.copied.record()

    def hand_over(self):
        """Return the int16 tensor (b, c, S, S) that was read last; what the GPU does with it waits
        until it is there.
        """
        here, hu = torch.cuda.current_stream(self.stream.device), self.hu
        self.hu = None  # the consumer's alone: its memory is free when the consumer lets go of it,
        here.wait_event(self.copied)
        hu.record_stream(here)  # and not before the consumer's work on it is done
        return hu


class _Buffer:
    """Memory for slices of `size` px, used again and again; it grows where it must."""

    def __init__(self, size, pinned=False):
        self.size, self.pinned, self.memory = size, pinned, None

    def of(self, count):
        """Return an int16 tensor (count, S, S)."""
        if self.memory is None or len(self.memory) < count:
            self.memory = torch.empty(
                (count, self.size, self.size), dtype=torch.int16, pin_memory=self.pinned
            )
        return self.memory[:count]


LEAST = 2  # slices of a batch in training: batch norm cannot train on one


def batches(rows, batch):
    """Cut the row numbers `rows` (n,) into arrays of `batch`; the last one may be shorter."""
    return [rows[at : at + batch] for at in range(0, len(rows), batch)]


def training_steps(rows, size, least=LEAST):
    """Cut shuffled row numbers into the steps of an epoch, arrays of `size`; a rest of fewer than
    `least` is left out.
    """
    steps = batches(rows, size)
    return steps[:-1] if steps and len(steps[-1]) < least else steps


def shuffled(rows, seed):
    """Return the row numbers in random order."""
    return np.random.default_rng(seed).permutation(rows)


def balanced(rows, positive, studies, share, seed):
    """Draw len(rows) row numbers with replacement, `share` of them positive, in random order.

    rows: (n,); positive: bool (n,); studies: (n,) the study of each

    Each draw takes a study that has such slices, all alike, then one of its slices: neither long
    studies nor those with many positive slices rule the epoch. Where all slices are of one kind,
    that kind is drawn. The share of positives is no longer the true one, so the probabilities
    learned are too high; calibration takes that back.
    """
    rng = np.random.default_rng(seed)
    wanted = (
        round(share * len(rows))
        if positive.any() and not positive.all()
        else len(rows) * int(positive.any())
    )
    drawn = [
        _draw(rows[kind], studies[kind], n, rng)
        for kind, n in ((positive, wanted), (~positive, len(rows) - wanted))
        if n
    ]
    return rng.permutation(np.concatenate(drawn))


def _draw(rows, studies, n, rng):
    """Draw n of `rows`: a study, then one of its rows."""
    _, code, count = np.unique(studies, return_inverse=True, return_counts=True)
    by_study, first = rows[np.argsort(code, kind="stable")], np.cumsum(count) - count
    study = rng.integers(len(count), size=n)
    return by_study[first[study] + (rng.random(n) * count[study]).astype(int)]
