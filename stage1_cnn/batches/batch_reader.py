"""Read batches of slices in HU, with their neighbours, in threads that run ahead of the CNN."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AHEAD = 2  # batches that are read in parallel while the CNN works on one


class ReadHu(Protocol):
    """Read slices by row number, such as `PixelCache.read`; threads call it in parallel."""

    def __call__(
        self, numbers: NDArray[np.int64], /, out: NDArray[np.int16] | None = None
    ) -> NDArray[np.int16]:
        """Return the slices (m, S, S) in HU of the row numbers (m,); in `out` if that is given.

        m may be 0, which gives the shape of a slice.
        """


def read_ahead(
    read_hu: ReadHu,
    table_rows: NDArray[np.int64],
    order: Iterable[NDArray[np.int64]],
    device: torch.device | str,
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield (rows, HU) of each array of row numbers in `order`; threads read the next AHEAD.

    table_rows: int (n, c), row numbers of each slice and its neighbours; order: arrays of b row
    numbers below n.

    HU is an int16 tensor (b, c, S, S) on `device`. On the CPU it is one of AHEAD + 1 buffers that
    are used in turn, so it is valid until the next iteration. An error of `read_hu` is raised
    here. Once this generator is closed, `read_hu` is not called any more.
    """
    device, size = torch.device(device), read_hu(np.empty(0, np.int64)).shape[-1]
    batch_type = _CudaBatch if device.type == "cuda" else _CpuBatch
    buffers = cycle([batch_type(read_hu, size, device) for _ in range(AHEAD + 1)])
    # two batches at once: no core waits for the last slice of one
    waiting: deque[_Pending] = deque()
    threads = ThreadPoolExecutor(AHEAD)
    try:
        for rows in order:
            if len(waiting) > AHEAD:
                yield _next_batch(waiting)
            batch = next(buffers)
            reading = threads.submit(batch.read, table_rows[rows])
            waiting.append((rows, batch, reading.result))
        while waiting:
            yield _next_batch(waiting)
    finally:
        threads.shutdown(cancel_futures=True)


def _next_batch(waiting: "deque[_Pending]") -> tuple[NDArray[np.int64], Tensor]:
    """Return (rows, HU) of the oldest waiting batch, once it is read."""
    rows, batch, wait = waiting.popleft()
    wait()
    return rows, batch.hand_over()


class _CpuBatch:
    """Reusable CPU memory for a batch. A thread calls `read`, the consumer `hand_over`."""

    def __init__(self, read_hu: ReadHu, size: int, device: torch.device) -> None:
        self.read_hu = read_hu
        self.slices, self.batch = _Buffer(size), _Buffer(size)
        self.hu = torch.empty(0, dtype=torch.int16)

    def read(self, table_rows: NDArray[np.int64]) -> None:
        """Read the slices `table_rows` (b, c); a slice that occurs twice is read once."""
        batch = self.batch.view(table_rows.size)
        if table_rows.shape[1] == 1:
            self.read_hu(table_rows[:, 0], batch.numpy())
        else:
            distinct, inverse = np.unique(table_rows, return_inverse=True)
            buffer = self.slices.view(table_rows.size)[: len(distinct)]
            slices = self.read_hu(distinct, buffer.numpy())
            # numpy gathers, not torch: torch would open a second OpenMP pool in this thread, and
            # training would take twice as long. mode="clip": otherwise numpy gathers into a
            # temporary array first, to be able to refuse an index
            slices.take(inverse.ravel(), axis=0, out=batch.numpy(), mode="clip")
        self.hu = batch.unflatten(0, table_rows.shape)

    def hand_over(self) -> Tensor:
        """Return the int16 tensor (b, c, S, S) that was read last."""
        return self.hu


class _CudaBatch:
    """Page-locked memory for a batch, copied to a GPU on a stream of its own."""

    def __init__(self, read_hu: ReadHu, size: int, device: torch.device) -> None:
        self.read_hu, self.slices = read_hu, _Buffer(size, pinned=True)
        self.hu: Tensor | None = None
        self.stream, self.copied = torch.cuda.Stream(device), torch.cuda.Event()

    def read(self, table_rows: NDArray[np.int64]) -> None:
        """Read the slices `table_rows` (b, c), then start to copy and gather them on the GPU.

        A slice that occurs twice is read and copied once.
        """
        distinct, inverse = np.unique(table_rows, return_inverse=True)
        # the stream also sets the device. A new thread starts on the first GPU: any call of CUDA
        # outside of the block would allocate memory there
        with torch.cuda.stream(self.stream):
            self.copied.synchronize()  # the previous copy, from the same memory
            slices = self.slices.view(table_rows.size)[: len(distinct)]
            self.read_hu(distinct, slices.numpy())
            index = torch.from_numpy(inverse.ravel()).to(self.stream.device)
            on_gpu = slices.to(self.stream.device, non_blocking=True)
            self.hu = on_gpu[index].unflatten(0, table_rows.shape)
            self.copied.record()

    def hand_over(self) -> Tensor:
        """Return the int16 tensor (b, c, S, S) that was read last.

        The consumer's stream waits until the copy is complete.
        """
        if self.hu is None:
            raise ValueError("hand_over() needs a read() before it")
        consumer, hu = torch.cuda.current_stream(self.stream.device), self.hu
        # the memory is free once the consumer drops the tensor and its work on it is done
        self.hu = None
        consumer.wait_event(self.copied)
        hu.record_stream(consumer)
        return hu


class _Buffer:
    """Reusable memory for slices of `size` px; it grows as needed."""

    def __init__(self, size: int, pinned: bool = False) -> None:
        self.size, self.pinned = size, pinned
        self.memory: Tensor | None = None

    def view(self, count: int) -> Tensor:
        """Return an int16 tensor (count, S, S)."""
        if self.memory is None or len(self.memory) < count:
            shape = (count, self.size, self.size)
            self.memory = torch.empty(shape, dtype=torch.int16, pin_memory=self.pinned)
        return self.memory[:count]


# (rows, memory of the batch, function that waits until the batch is read)
_Pending = tuple[NDArray[np.int64], _CpuBatch | _CudaBatch, Callable[[], None]]
