"""From the pixel cache to batches in HU."""

import threading

import numpy as np
import pandas as pd
import pytest
import torch
from cnn_slices import make_slices, reader

from stage1_cnn.data import neighbour_rows, read_ahead, read_batch
from stage1_cnn.order import batches


def test_neighbour_rows_against_a_slow_loop():
    rng = np.random.default_rng(0)
    slices, _ = make_slices(4, 5)
    slices.iloc[[6, 7, 14], slices.columns.get_loc("readable")] = False
    slices.iloc[12:15, slices.columns.get_loc("split")] = "test"  # one series in two splits
    slices["place"] = [int(p) for s in range(4) for p in rng.permutation(5)]
    got = neighbour_rows(slices, 2)
    for row in range(20):
        mine = slices.iloc[row]
        same = [r for r in range(20) if tuple(slices.iloc[r][["series_id", "split"]]) == (mine.series_id, mine.split)]
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


def test_read_batch_reads_each_slice_once():
    _, hu = make_slices(2, 4)
    calls = []
    rows = np.array([[5, 5, 6], [0, 1, 2], [1, 2, 3]])
    got = read_batch(reader(hu, calls), rows)
    assert got.dtype == torch.int16
    assert (got.numpy() == hu[rows]).all()
    assert calls == [[0, 1, 2, 3, 5, 6]]


def test_read_ahead_keeps_the_order_and_raises_what_reading_raised():
    _, hu = make_slices(2, 4)
    order = batches(np.arange(8), 1)
    got = list(read_ahead(reader(hu), np.arange(8)[:, None], order))
    assert [rows.tolist() for rows, _ in got] == [[i] for i in range(8)]
    assert all((pictures.numpy()[:, 0] == hu[rows]).all() for rows, pictures in got)

    def broken(numbers):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(read_ahead(broken, np.arange(8)[:, None], order))


def test_read_ahead_leaves_no_thread_behind():
    _, hu = make_slices(2, 4)
    before = threading.active_count()
    for _ in read_ahead(reader(hu), np.arange(8)[:, None], batches(np.arange(8), 2)):
        break
    assert threading.active_count() == before


def test_neighbours_in_a_shuffled_table_are_the_same_slices():
    slices, _ = make_slices(3, 4)
    shuffled = slices.sample(frac=1, random_state=0)
    names = pd.DataFrame(slices.index.to_numpy()[neighbour_rows(slices, 1)], index=slices.index)
    again = pd.DataFrame(shuffled.index.to_numpy()[neighbour_rows(shuffled, 1)], index=shuffled.index)
    pd.testing.assert_frame_equal(names, again.loc[slices.index])
