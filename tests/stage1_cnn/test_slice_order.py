"""Which slices are seen in which order."""

import numpy as np

from stage1_cnn.dataset import balanced, batches, shuffled, training_steps


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
    assert [len(b) for b in training_steps(np.arange(11), 8, least=4)] == [8]  # two ranks
    assert training_steps(np.arange(1), 4) == []


def make_studies():
    """Study 0: 90 negative slices; 1: 9 negative, 1 positive; 2: 50 positive; row numbers that are
    no positions.
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
    of = {name: ((studies[at] == name) & positive[at]).sum() / (40 * 60) for name in "abc"}
    # one positive slice of study b weighs as much as the fifty of c
    assert of["a"] == 0 and abs(of["b"] - 0.5) < 0.05
    negative = ((studies[at] == "b") & ~positive[at]).sum() / (40 * 90)
    assert abs(negative - 0.5) < 0.05
    counts = np.bincount(drawn[(studies[at] == "c")] - 1000, minlength=150)
    assert counts.max() < 60  # of 1,200 draws among 50 slices: none is favoured


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
