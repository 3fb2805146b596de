"""Which slices are seen in which order."""

import numpy as np
import torch

from stage1_cnn.order import batches


def generator(seed=0):
    """A seeded torch.Generator."""
    return torch.Generator().manual_seed(seed)


def test_batches_cover_all_rows_once_and_repeat_with_the_seed():
    rows = np.arange(10, 20)
    assert np.concatenate(batches(rows, 4)).tolist() == rows.tolist()
    shuffled = batches(rows, 4, generator(1))
    assert [len(b) for b in shuffled] == [4, 4, 2]
    assert sorted(np.concatenate(shuffled)) == rows.tolist()
    assert np.concatenate(shuffled).tolist() != rows.tolist()
    assert all((a == b).all() for a, b in zip(shuffled, batches(rows, 4, generator(1)), strict=True))


def test_batches_drop_a_rest_of_one_only_in_training():
    assert [len(b) for b in batches(np.arange(9), 4, generator())] == [4, 4]
    assert [len(b) for b in batches(np.arange(9), 4)] == [4, 4, 1]
    assert [len(b) for b in batches(np.arange(1), 4)] == [1]
