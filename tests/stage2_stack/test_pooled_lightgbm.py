"""The pooled features: a row's own label first, under names that are the same for all labels."""

import numpy as np
import pytest

from ct.labels import LABELS, SUBTYPES
from stage2_stack.components import pooled_lightgbm
from stage2_stack.components.pooled_lightgbm import (
    OTHERS,
    PooledFeatures,
    PooledRows,
    own_kinds,
    pooled_names,
    pooled_rows,
    to_features,
)
from stage2_stack.learners.binned_features import FIXED, BinnedFeatures
from stage2_stack.learners.lightgbm_booster import fit_booster

KINDS = ("", "_z-1", "_z+1", "_study_max")
NAMES = [*(f"{label}{kind}" for kind in KINDS for label in LABELS), "tilt_deg", "brain_cm2"]


def matrix(n=7, seed=0):
    X = np.random.default_rng(seed).normal(size=(n, len(NAMES))).astype(np.float32)
    X[2] = np.nan
    return X


def pooled_matrix(X, names):
    """All pooled rows, one subtype below the other."""
    return np.vstack([pooled_rows(X, names, number) for number in range(len(SUBTYPES))])


def block(X, label):
    """The rows of one subtype as {name: values}."""
    rows = pooled_matrix(X, NAMES).reshape(5, len(X), -1)[SUBTYPES.index(label)]
    return dict(zip(pooled_names(NAMES), rows.T, strict=True))


def test_values_are_computed_when_they_are_needed():
    X = matrix(9)
    features, whole = PooledFeatures(X, NAMES), pooled_matrix(X, NAMES)
    every, some = np.arange(whole.shape[1]), np.array([3, 0, 7])
    rows = np.random.default_rng(1).permutation(len(whole))[:20]
    np.testing.assert_array_equal(features.values(every, rows), whole[rows])
    np.testing.assert_array_equal(features.values(some, rows), whole[np.ix_(rows, some)])
    assert features.values(every, rows[:0]).shape == (0, whole.shape[1])
    # it keeps none of them
    assert not [
        value for value in vars(features).values() if getattr(value, "nbytes", 0) > X.nbytes
    ]


@pytest.mark.parametrize("sample", [200_000, 50])  # rows that the edges of the bins are made from
def test_it_is_binned_like_its_whole_matrix(sample, monkeypatch):
    monkeypatch.setitem(FIXED, "bin_construct_sample_cnt", sample)
    monkeypatch.setattr(pooled_lightgbm, "BLOCK", 7)
    monkeypatch.setattr(PooledRows, "batch_size", 7)
    X, rows = matrix(60), np.arange(0, 300, 2)
    y, base, every = (
        (rows % 3 == 0).astype(float),
        np.zeros(len(rows)),
        np.arange(len(pooled_names(NAMES))),
    )
    texts = {
        fit_booster(features.dataset(every, rows, y, base), {"min_data_in_leaf": 2}, 4, 1, 1)[
            0
        ].model_to_string()
        for features in (
            PooledFeatures(X, NAMES),
            BinnedFeatures(pooled_matrix(X, NAMES), pooled_names(NAMES)),
        )
    }
    assert len(texts) == 1


def test_own_label_comes_first_then_the_others_then_what_they_share():
    X = matrix()
    names, own = pooled_names(NAMES), own_kinds(NAMES)
    assert own == list(KINDS) and names[:4] == ["own", "own_z-1", "own_z+1", "own_study_max"]
    assert names[4:8] == list(OTHERS) and names[-5:] == [f"is_{label}" for label in SUBTYPES]
    assert set(names[8:-5]) == {
        "any",
        "any_z-1",
        "any_z+1",
        "any_study_max",
        "tilt_deg",
        "brain_cm2",
    }
    for label in SUBTYPES:
        columns = block(X, label)
        for kind in KINDS:
            np.testing.assert_array_equal(
                columns[f"own{kind}"], X[:, NAMES.index(f"{label}{kind}")]
            )
            np.testing.assert_array_equal(columns[f"any{kind}"], X[:, NAMES.index(f"any{kind}")])
        np.testing.assert_array_equal(columns["tilt_deg"], X[:, NAMES.index("tilt_deg")])
        one_hot = np.stack([columns[f"is_{other}"] for other in SUBTYPES])
        assert (one_hot == np.array([[other == label] for other in SUBTYPES])).all()


def test_other_labels_are_sorted_largest_first():
    X = matrix()
    others = np.stack([X[:, NAMES.index(label)] for label in SUBTYPES if label != "subdural"])
    columns = block(X, "subdural")
    np.testing.assert_array_equal(
        np.stack([columns[name] for name in OTHERS]), -np.sort(-others, axis=0)
    )


def test_subtypes_may_change_their_names():
    """Exchanging the columns of two subtypes exchanges their rows, but for the one-hot columns."""
    X, exchanged = matrix(), matrix()
    for kind in KINDS:
        one, two = NAMES.index(f"epidural{kind}"), NAMES.index(f"subarachnoid{kind}")
        exchanged[:, [one, two]] = X[:, [two, one]]
    for label, other in (
        ("epidural", "subarachnoid"),
        ("subarachnoid", "epidural"),
        ("subdural", "subdural"),
    ):
        before, after = block(X, label), block(exchanged, other)
        for name in pooled_names(NAMES):
            if not name.startswith("is_"):
                np.testing.assert_array_equal(before[name], after[name])


def test_gain_is_mapped_back_to_the_features():
    names = pooled_names(NAMES)
    gain = np.zeros(len(names))
    gain[names.index("own_z+1")], gain[names.index("any")], gain[names.index("other_1")] = (
        0.5,
        0.3,
        0.2,
    )
    of_features = dict(zip(NAMES, to_features(gain, NAMES, "epidural"), strict=True))
    assert (of_features["epidural_z+1"], of_features["any"]) == (0.5, 0.3)
    # the others' logits are no feature of their own
    assert sum(of_features.values()) == pytest.approx(0.8)
