"""The control of swapped labels: heights keep their labels, studies lose theirs."""

import numpy as np
from tiny_tables import slice_table

from benchmarks.stacking.swapped_labels import BLOCKS, shuffled, swapped, turned


def test_blocks_take_the_labels_of_the_same_heights():
    """Labels that are a function of the height alone stay.

    The labels of a study are those of its donors, one block each.
    """
    slices = slice_table(*(("train", study, list(range(16))) for study in range(40)))
    height, study = np.tile(np.arange(16), 40), np.repeat(np.arange(40), 16)
    mixed = swapped(slices, np.column_stack([height, study]), np.random.default_rng(0))
    assert (mixed[:, 0] == height).all()
    donors = mixed[:, 1].reshape(40, BLOCKS, 4)
    assert (donors == donors[:, :, :1]).all()  # a block is of one study
    for block in range(BLOCKS):
        assert sorted(donors[:, block, 0]) == list(range(40))  # and each study gives it once
    assert (donors[:, :, 0] == np.arange(40)[:, None]).mean() < 0.2


def test_series_of_other_lengths_take_labels_of_the_same_relative_height():
    slices = slice_table(("train", 0, list(range(8))), ("train", 1, list(range(32))))
    height = (slices["place"].to_numpy() + 0.5) / slices["series_slices"].to_numpy()
    for seed in range(5):
        mixed = swapped(slices, height[:, None], np.random.default_rng(seed))
        assert np.abs(mixed[:, 0] - height).max() <= 0.5 / 8


def test_shuffled_labels_stay_in_their_fold():
    fold, y = np.tile(np.arange(5), 20), np.arange(100)[:, None]
    mixed = shuffled(y, fold, np.random.default_rng(0))
    assert (
        (fold[mixed[:, 0]] == fold).all()
        and sorted(mixed[:, 0]) == list(range(100))
        and (mixed != y).mean() > 0.5
    )


def test_turned_labels_stay_in_their_series_and_in_their_order():
    slices = slice_table(*(("train", study, list(range(4 + study))) for study in range(20)))
    study, place = slices["study_id"].to_numpy(), slices["place"].to_numpy()
    mixed = turned(
        slices,
        np.column_stack([place, np.unique(study, return_inverse=True)[1]]),
        np.random.default_rng(0),
    )
    assert (mixed[:, 1] == np.unique(study, return_inverse=True)[1]).all()
    for name in np.unique(study):
        own = mixed[study == name, 0]
        assert ((np.diff(own) - 1) % len(own) == 0).all()
    assert (mixed[:, 0] != place).mean() > 0.5
