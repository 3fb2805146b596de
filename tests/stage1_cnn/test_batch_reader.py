"""Batches in HU: read once, in order, ahead of the consumer, by threads that end."""

import contextlib
import threading
import time

import numpy as np
import pytest
import torch
from cnn_slices import SIZE, make_slices, reader

from stage1_cnn.batches.batch_reader import AHEAD, _CudaBatch, read_ahead
from stage1_cnn.batches.dataset import batches, neighbour_rows, shuffled


def copies(read_hu, table_rows, order):
    """Return [(rows, copy of the HU (b, c, SIZE, SIZE))]: the buffers are reused."""
    return [(rows, hu.numpy().copy()) for rows, hu in read_ahead(read_hu, table_rows, order, "cpu")]


def test_each_slice_of_a_batch_is_read_once():
    _, hu = make_slices(2, 4)
    calls = []
    table_rows = np.array([[5, 5, 6], [0, 1, 2], [1, 2, 3], [7, 7, 7]])
    got = copies(reader(hu, calls), table_rows, [np.array([0, 1, 2]), np.array([3, 0])])
    assert sorted(calls) == [[0, 1, 2, 3, 5, 6], [5, 6, 7]]
    for (_, images), rows in zip(got, [[0, 1, 2], [3, 0]], strict=True):
        assert images.dtype == np.int16 and (images == hu[table_rows[rows]]).all()


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_read_ahead_against_plain_indexing(reach):
    """With batches of different sizes, so that the buffers grow."""
    slices, hu = make_slices(5, 6)
    table_rows = neighbour_rows(slices, reach)
    mixed = np.random.default_rng(1).permutation(30)
    order = [
        mixed[:2],
        mixed[2:9],
        mixed[9:10],
        mixed[10:10],
        mixed[10:17],
        mixed[17:24],
        mixed[24:],
    ]
    got = copies(reader(hu), table_rows, order)
    assert all(rows is expected for (rows, _), expected in zip(got, order, strict=True))
    assert all(images.shape == (len(rows), 2 * reach + 1, SIZE, SIZE) for rows, images in got)
    assert all((images == hu[table_rows[rows]]).all() for rows, images in got)
    assert copies(reader(hu), table_rows, []) == []


def test_read_ahead_raises_the_error_of_the_reader():
    _, hu = make_slices(2, 4)

    def broken(numbers, out=None):
        if 5 in numbers:
            raise OSError("the disk is gone")
        return reader(hu)(numbers, out)

    rows_read = []
    with pytest.raises(OSError, match="the disk is gone"):
        rows_read.extend(
            rows
            for rows, _ in read_ahead(
                broken, np.arange(8)[:, None], batches(np.arange(8), 1), "cpu"
            )
        )
    assert len(rows_read) == 5  # the batches before it are not lost


@pytest.mark.parametrize("reach", [0, 1])
def test_a_few_buffers_are_used_in_turn(reach):
    slices, hu = make_slices(6, 4)
    read = read_ahead(reader(hu), neighbour_rows(slices, reach), batches(np.arange(24), 2), "cpu")
    places = [images.data_ptr() for _, images in read]
    assert len(places) == 12 and len(set(places)) == AHEAD + 1
    assert places == (places[: AHEAD + 1] * 12)[:12]


@pytest.mark.parametrize("reach", [0, 1])
def test_a_buffer_waits_for_its_consumer(reach):
    """Reading stops before it would overwrite the buffer that a slow consumer still uses."""
    slices, hu = make_slices(6, 4)
    table_rows, calls = neighbour_rows(slices, reach), []
    read = read_ahead(reader(hu, calls), table_rows, batches(np.arange(24), 2), "cpu")
    for turn, (rows, images) in enumerate(read, 1):
        ahead = min(turn + AHEAD, 12)
        until = time.monotonic() + 5
        while len(calls) < ahead and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.005)  # for one too many
        assert len(calls) == ahead
        assert (images.numpy() == hu[table_rows[rows]]).all()


def test_read_ahead_ends_its_threads():
    _, hu = make_slices(2, 4)
    before, calls = threading.active_count(), []
    for _ in read_ahead(reader(hu, calls), np.arange(8)[:, None], batches(np.arange(8), 1), "cpu"):
        break
    assert threading.active_count() == before
    assert len(calls) <= AHEAD + 1


streams = []  # whose blocks are open


@contextlib.contextmanager
def block_of(stream):
    streams.append(stream)
    yield
    streams.pop()


class StandIn:
    """Stands for a CUDA stream or event: it records the calls of its methods."""

    device = torch.device("cpu")

    def __init__(self, *_):
        self.log = []

    def __getattr__(self, name):
        return lambda *args: self.log.append((name, *args))

    def synchronize(self):
        assert streams, "outside of the stream's block, a thread uses the first GPU"
        self.log.append(("synchronize",))


def test_a_cuda_batch_synchronises_its_copies(monkeypatch):
    """Memory is written only after its copy; the consumer waits for its batch. Without a GPU."""
    slices, hu = make_slices(2, 4)
    consumer, empty = StandIn(), torch.empty
    for name in ("Stream", "Event"):
        monkeypatch.setattr(torch.cuda, name, StandIn)
    monkeypatch.setattr(torch.cuda, "stream", block_of)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: consumer)
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: empty(shape, dtype=dtype))
    monkeypatch.setattr(
        torch.Tensor,
        "record_stream",
        lambda tensor, stream: stream.log.append(("recorded", tensor)),
    )
    table_rows, order = neighbour_rows(slices, 1), [np.array([3, 1]), np.array([7])]
    batch = _CudaBatch(reader(hu, batch_log := []), SIZE, "cuda")
    for turn, rows in enumerate(order, 1):
        batch.read(table_rows[rows])
        got = batch.hand_over()
        assert (got.numpy() == hu[table_rows[rows]]).all() and len(batch_log) == turn
        assert batch.copied.log == [("synchronize",), ("record",)] * turn
        assert (
            consumer.log[-2] == ("wait_event", batch.copied)
            and consumer.log[-1][0] == "recorded"
            and consumer.log[-1][1] is got
        )
        assert batch.hu is None  # nothing else holds the consumer's tensor


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("reach", [0, 1])
def test_batches_on_a_gpu(reach):
    """A batch does not change while the next ones are copied, even if the GPU uses it late."""
    slices, hu = make_slices(10, 20)
    table_rows, order = (
        neighbour_rows(slices, reach),
        batches(shuffled(np.arange(200), 0), 4),
    )
    used = []
    for rows, images in read_ahead(reader(hu), table_rows, order, "cuda"):
        assert images.device.type == "cuda" and images.dtype == torch.int16
        torch.cuda._sleep(1_000_000)  # delays the consumer's work
        used.append((rows, images.float()))
    assert all((images.cpu().numpy() == hu[table_rows[rows]]).all() for rows, images in used)
