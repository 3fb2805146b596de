"""From the pixel cache to batches in HU."""

import contextlib
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from cnn_slices import SIZE, make_slices, reader

from stage1_cnn.batch_reader import AHEAD, _CudaBatch, read_ahead
from stage1_cnn.dataset import batches, neighbour_rows, shuffled


def test_neighbour_rows_against_a_slow_loop():
    rng = np.random.default_rng(0)
    slices, _ = make_slices(4, 5)
    slices.iloc[[6, 7, 14], slices.columns.get_loc("readable")] = False
    slices.iloc[12:15, slices.columns.get_loc("split")] = "test"  # one series in two splits
    slices["place"] = [int(p) for s in range(4) for p in rng.permutation(5)]
    got = neighbour_rows(slices, 2)
    for row in range(20):
        mine = slices.iloc[row]
        same = [
            r
            for r in range(20)
            if tuple(slices.iloc[r][["series_id", "split"]]) == (mine.series_id, mine.split)
        ]
        same.sort(key=lambda r: slices.iloc[r].place)
        at = same.index(row)
        want = [same[min(max(at + step, 0), len(same) - 1)] for step in range(-2, 3)]
        assert got[row].tolist() == [r if slices.iloc[r].readable else row for r in want]


def test_neighbour_rows_by_hand():
    slices, _ = make_slices(2, 3)
    want = [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 4], [3, 4, 5], [4, 5, 5]]
    assert neighbour_rows(slices, 1).tolist() == want
    assert neighbour_rows(slices, 0).tolist() == [[i] for i in range(6)]
    assert neighbour_rows(slices.iloc[:1], 1).tolist() == [[0, 0, 0]]


def copies(read_hu, table_rows, order):
    """[(rows, HU (b, c, SIZE, SIZE))], since the buffers are used again."""
    return [(rows, hu.numpy().copy()) for rows, hu in read_ahead(read_hu, table_rows, order, "cpu")]


def test_each_slice_of_a_batch_is_read_once():
    _, hu = make_slices(2, 4)
    calls = []
    table_rows = np.array([[5, 5, 6], [0, 1, 2], [1, 2, 3], [7, 7, 7]])
    got = copies(reader(hu, calls), table_rows, [np.array([0, 1, 2]), np.array([3, 0])])
    assert sorted(calls) == [[0, 1, 2, 3, 5, 6], [5, 6, 7]]
    for (_, pictures), rows in zip(got, [[0, 1, 2], [3, 0]], strict=True):
        assert pictures.dtype == np.int16 and (pictures == hu[table_rows[rows]]).all()


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_read_ahead_against_plain_indexing(reach):
    """Batches of differing sizes, which first grow."""
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
    assert all(rows is wanted for (rows, _), wanted in zip(got, order, strict=True))
    assert all(pictures.shape == (len(rows), 2 * reach + 1, SIZE, SIZE) for rows, pictures in got)
    assert all((pictures == hu[table_rows[rows]]).all() for rows, pictures in got)
    assert copies(reader(hu), table_rows, []) == []


def test_read_ahead_raises_the_error_of_the_reader():
    _, hu = make_slices(2, 4)

    def broken(numbers, out=None):
        if 5 in numbers:
            raise OSError("the disk is gone")
        return reader(hu)(numbers, out)

    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        seen.extend(
            rows
            for rows, _ in read_ahead(
                broken, np.arange(8)[:, None], batches(np.arange(8), 1), "cpu"
            )
        )
    assert len(seen) == 5  # those before it are not lost


@pytest.mark.parametrize("reach", [0, 1])
def test_a_few_buffers_are_used_in_turn(reach):
    slices, hu = make_slices(6, 4)
    shown = read_ahead(reader(hu), neighbour_rows(slices, reach), batches(np.arange(24), 2), "cpu")
    places = [pictures.data_ptr() for _, pictures in shown]
    assert len(places) == 12 and len(set(places)) == AHEAD + 1
    assert places == (places[: AHEAD + 1] * 12)[:12]


@pytest.mark.parametrize("reach", [0, 1])
def test_a_buffer_waits_for_its_consumer(reach):
    """However long the consumer takes, reading stops before it would overwrite what the consumer
    looks at.
    """
    slices, hu = make_slices(6, 4)
    table_rows, calls = neighbour_rows(slices, reach), []
    shown = read_ahead(reader(hu, calls), table_rows, batches(np.arange(24), 2), "cpu")
    for turn, (rows, pictures) in enumerate(shown, 1):
        ahead = min(turn + AHEAD, 12)
        until = time.monotonic() + 5
        while len(calls) < ahead and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.005)  # for one too many
        assert len(calls) == ahead
        assert (pictures.numpy() == hu[table_rows[rows]]).all()


def test_read_ahead_ends_its_threads():
    _, hu = make_slices(2, 4)
    before, calls = threading.active_count(), []
    for _ in read_ahead(reader(hu, calls), np.arange(8)[:, None], batches(np.arange(8), 1), "cpu"):
        break
    assert threading.active_count() == before
    assert len(calls) <= AHEAD + 1


class StandIn:
    """A stream or an event of a GPU that is not there: it notes what it is asked for."""

    device = torch.device("cpu")

    def __init__(self, *_):
        self.log = []

    def __getattr__(self, name):
        return lambda *with_what: self.log.append((name, *with_what))


def test_a_cuda_batch_synchronises_its_copies(monkeypatch):
    """Where there is no GPU: the memory is written only after the copy from it, and the consumer
    waits for its batch.
    """
    slices, hu = make_slices(2, 4)
    here, empty = StandIn(), torch.empty
    for name in ("Stream", "Event"):
        monkeypatch.setattr(torch.cuda, name, StandIn)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: here)
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: empty(shape, dtype=dtype))
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: stream.log.append(("keeps", tensor))
    )
    table_rows, order = neighbour_rows(slices, 1), [np.array([3, 1]), np.array([7])]
    batch = _CudaBatch(reader(hu, batch_log := []), SIZE, "cuda")
    for turn, rows in enumerate(order, 1):
        batch.read(table_rows[rows])
        got = batch.hand_over()
        assert (got.numpy() == hu[table_rows[rows]]).all() and len(batch_log) == turn
        assert batch.copied.log == [("synchronize",), ("record",)] * turn
        assert (
            here.log[-2] == ("wait_event", batch.copied)
            and here.log[-1][0] == "keeps"
            and here.log[-1][1] is got
        )
        assert batch.hu is None  # nothing else holds the consumer's tensor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("reach", [0, 1])
def test_batches_on_a_gpu(reach):
    """Every one stays what it was while the next ones are copied, even if the GPU looks at it only
    later.
    """
    slices, hu = make_slices(10, 20)
    table_rows, order = (
        neighbour_rows(slices, reach),
        batches(shuffled(np.arange(200), 0), 4),
    )
    kept = []
    for rows, pictures in read_ahead(reader(hu), table_rows, order, "cuda"):
        assert pictures.device.type == "cuda" and pictures.dtype == torch.int16
        torch.cuda._sleep(1_000_000)  # the consumer's work is behind
        kept.append((rows, pictures.float()))
    assert all((pictures.cpu().numpy() == hu[table_rows[rows]]).all() for rows, pictures in kept)


def test_neighbours_in_a_shuffled_table_are_the_same_slices():
    slices, _ = make_slices(3, 4)
    mixed = slices.sample(frac=1, random_state=0)
    names = pd.DataFrame(slices.index.to_numpy()[neighbour_rows(slices, 1)], index=slices.index)
    again = pd.DataFrame(mixed.index.to_numpy()[neighbour_rows(mixed, 1)], index=mixed.index)
    pd.testing.assert_frame_equal(names, again.loc[slices.index])
