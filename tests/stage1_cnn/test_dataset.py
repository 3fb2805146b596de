"""Row numbers: neighbours, folds, and the order of the slices in an epoch."""

import numpy as np
import pandas as pd
import pytest
from cnn_slices import make_slices
from tiny_tables import slice_table

from stage1_cnn.batches.dataset import (
    balanced,
    batches,
    fold_rows,
    neighbour_rows,
    neighbour_rows_by_mm,
    shuffled,
    training_steps,
)


def test_neighbour_rows_against_a_slow_loop():
    rng = np.random.default_rng(0)
    slices, _ = make_slices(4, 5)
    slices.iloc[[6, 7, 14], slices.columns.get_loc("readable")] = False
    slices.iloc[12:15, slices.columns.get_loc("split")] = "test"  # one series in two splits
    slices["place"] = [int(p) for s in range(4) for p in rng.permutation(5)]
    got = neighbour_rows(slices, 2)
    for row in range(20):
        this = slices.iloc[row]
        same = [
            r
            for r in range(20)
            if tuple(slices.iloc[r][["series_id", "split"]]) == (this.series_id, this.split)
        ]
        same.sort(key=lambda r: slices.iloc[r].place)
        at = same.index(row)
        expected = [same[min(max(at + step, 0), len(same) - 1)] for step in range(-2, 3)]
        assert got[row].tolist() == [r if slices.iloc[r].readable else row for r in expected]


def test_neighbour_rows_by_hand():
    slices, _ = make_slices(2, 3)
    expected = [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 4], [3, 4, 5], [4, 5, 5]]
    assert neighbour_rows(slices, 1).tolist() == expected
    assert neighbour_rows(slices, 0).tolist() == [[i] for i in range(6)]
    assert neighbour_rows(slices.iloc[:1], 1).tolist() == [[0, 0, 0]]


def test_neighbours_in_a_shuffled_table_are_the_same_slices():
    slices, _ = make_slices(3, 4)
    mixed = slices.sample(frac=1, random_state=0)
    names = pd.DataFrame(slices.index.to_numpy()[neighbour_rows(slices, 1)], index=slices.index)
    again = pd.DataFrame(mixed.index.to_numpy()[neighbour_rows(mixed, 1)], index=mixed.index)
    pd.testing.assert_frame_equal(names, again.loc[slices.index])


def test_training_rows_are_readable_labelled_and_of_other_folds():
    slices, _ = make_slices(4, 4)
    fold = np.arange(16) // 4 % 2
    slices.iloc[4, slices.columns.get_loc("readable")] = False
    slices.iloc[5, slices.columns.get_loc("epidural")] = np.nan
    # patient 3, who has a fold too
    slices.iloc[12:, slices.columns.get_loc("split")] = "test"
    train, held = fold_rows(slices, fold, 0)
    assert train.tolist() == [6, 7]
    assert held.tolist() == [*range(4), *range(8, 12)]
    # slices without labels or pixels are held out too
    assert fold_rows(slices, fold, 1)[1].tolist() == [4, 5, 6, 7]


def test_a_patient_on_both_sides_is_an_error():
    slices, _ = make_slices(10, 4)
    fold = np.arange(40) // 4 % 2
    fold[0] = 1
    with pytest.raises(ValueError, match="patient ID_00 is in fold 1"):
        fold_rows(slices, fold, 1)


def test_batches_cover_all_rows_once_in_their_order():
    assert [b.tolist() for b in batches(np.arange(10, 19), 4)] == [
        [10, 11, 12, 13],
        [14, 15, 16, 17],
        [18],
    ]
    assert batches(np.arange(0), 4) == []


def test_shuffled_repeats_with_the_seed():
    rows = np.arange(10, 30)
    assert sorted(shuffled(rows, 1)) == rows.tolist() != shuffled(rows, 1).tolist()
    assert shuffled(rows, 1).tolist() == shuffled(rows, 1).tolist() != shuffled(rows, 2).tolist()


def test_training_drops_a_rest_too_small_for_batch_norm():
    assert [len(b) for b in training_steps(np.arange(9), 4)] == [4, 4]
    assert [len(b) for b in training_steps(np.arange(10), 4)] == [4, 4, 2]
    assert [len(b) for b in training_steps(np.arange(11), 8, min_size=4)] == [8]  # two processes
    assert training_steps(np.arange(1), 4) == []


def make_studies():
    """Return (row numbers, positive, study) of 150 slices, shuffled.

    Study a: 90 negative slices; b: 9 negative, 1 positive; c: 50 positive. The row numbers are not
    positions: they begin at 1000.
    """
    studies = np.repeat(["a", "b", "c"], [90, 10, 50]).astype(object)
    positive = np.array([False] * 99 + [True] * 51)
    order = np.random.default_rng(0).permutation(150)
    return np.arange(1000, 1150)[order], positive[order], studies[order]


def test_a_balanced_draw_has_its_share_of_positives_and_takes_studies_equally():
    rows, positive, studies = make_studies()
    drawn = np.concatenate([balanced(rows, positive, studies, 0.4, seed) for seed in range(40)])
    assert len(drawn) == 40 * 150 and set(drawn) <= set(rows)
    at = np.argsort(rows)[drawn - 1000]
    assert positive[at].mean() == 0.4
    share = {name: ((studies[at] == name) & positive[at]).sum() / (40 * 60) for name in "abc"}
    # the one positive slice of study b is drawn as often as the fifty of c
    assert share["a"] == 0 and abs(share["b"] - 0.5) < 0.05
    negative = ((studies[at] == "b") & ~positive[at]).sum() / (40 * 90)
    assert abs(negative - 0.5) < 0.05
    counts = np.bincount(drawn[(studies[at] == "c")] - 1000, minlength=150)
    assert counts.max() < 60  # of 1,200 draws among 50 slices: no slice dominates


def test_a_balanced_draw_repeats_with_the_seed_and_mixes_the_kinds():
    rows, positive, studies = make_studies()
    first = balanced(rows, positive, studies, 0.5, 3)
    assert first.tolist() == balanced(rows, positive, studies, 0.5, 3).tolist()
    assert first.tolist() != balanced(rows, positive, studies, 0.5, 4).tolist()
    kinds = positive[np.argsort(rows)[first - 1000]]
    assert 20 < np.abs(np.diff(kinds.astype(int))).sum() < 130


def test_a_balanced_draw_from_one_kind_draws_that_kind():
    rows, positive, studies = make_studies()
    for kind in (positive, ~positive):
        only = np.full(kind.sum(), positive[kind][0])
        assert len(balanced(rows[kind], only, studies[kind], 0.3, 0)) == kind.sum()


def test_neighbours_by_millimetres():
    """At the usual spacing they are those by place; at another one the nearest to 5 and 10 mm."""
    usual = slice_table(("test", 0, [0.0, 5, 10, 15]), ("test", 1, [0.0, 5]))
    usual = usual.assign(readable=[True, True, False, True, True, True])
    assert (neighbour_rows_by_mm(usual, 2, 5.0) == neighbour_rows(usual, 2)).all()
    thick = slice_table(("test", 0, [0.0, 7.5, 15]), readable=True)
    assert neighbour_rows_by_mm(thick, 1, 5.0).tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 2]]
    far = slice_table(("test", 0, [0.0, 12, 24]), readable=True)
    assert neighbour_rows_by_mm(far, 1, 5.0).tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    assert neighbour_rows_by_mm(far, 2, 5.0)[1].tolist() == [0, 1, 1, 1, 2]
    near = slice_table(("test", 0, [0.0, 3.75, 7.5, 11.25]), readable=True)
    assert neighbour_rows_by_mm(near, 2, 5.0)[0].tolist() == [0, 0, 0, 1, 3]
