"""The pooled features: a row's own label first, under names that are the same for all labels."""

import numpy as np
import pytest

from ct.labels import LABELS, SUBTYPES
from stage2_stack.calibration import Platt
from stage2_stack.components import pooled_features
from stage2_stack.components.component import InferenceContext, load_component
from stage2_stack.components.pooled_features import (
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
    monkeypatch.setattr(pooled_features, "BLOCK", 7)
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


def mirrored(X):
    """The same slices seen from the other end of the series."""
    swapped = [
        name.replace("_z-", "_z#").replace("_z+", "_z-").replace("_z#", "_z+") for name in NAMES
    ]
    return X[:, [NAMES.index(name) for name in swapped]]


def test_symmetric_features_are_those_of_the_mirrored_series():
    X = matrix()
    every = np.arange(len(pooled_names(NAMES)))
    both = [
        PooledFeatures(each, NAMES, symmetric=True).values(every, np.arange(5 * len(X)))
        for each in (X, mirrored(X))
    ]
    np.testing.assert_array_equal(*both)
    plain = PooledFeatures(X, NAMES).values(every, np.arange(5 * len(X)))
    assert not np.array_equal(both[0], plain, equal_nan=True)


def test_a_cnn_may_be_called_like_a_distance_or_an_end_of_a_pair():
    kinds = [
        f"_z{step}_by_{cnn}" for step in ("-1", "+1") for cnn in ("m_low", "m_high", "net_z-1")
    ]
    names = [f"{label}{kind}" for label in LABELS for kind in ("", *kinds)]
    pooled = pooled_names(names, symmetric=True)
    assert len(set(pooled)) == len(pooled)
    for end in ("low", "high"):
        for cnn in ("m_low", "m_high", "net_z-1"):
            assert f"own_z1_{end}_by_{cnn}" in pooled


def test_a_pair_holds_the_smaller_and_the_larger_value_and_nan_gives_way():
    X = matrix()
    X[:, NAMES.index("subdural_z-1")] = [1, 2, np.nan, np.nan, 5, 6, 7]
    X[:, NAMES.index("subdural_z+1")] = [2, 1, np.nan, 4, np.nan, 5, 8]
    names = pooled_names(NAMES, symmetric=True)
    features = PooledFeatures(X, NAMES, symmetric=True)
    assert features.names == names and "own_z-1" not in names and "any_z1_high" in names
    rows = SUBTYPES.index("subdural") * len(X) + np.arange(len(X))
    columns = np.array([names.index("own_z1_low"), names.index("own_z1_high")])
    expected = [[1, 2], [1, 2], [np.nan, np.nan], [4, 4], [5, 5], [5, 6], [7, 8]]
    np.testing.assert_array_equal(features.values(columns, rows), expected)


def test_the_gain_of_a_pair_is_shared_by_both_slices():
    names = pooled_names(NAMES, symmetric=True)
    gain = np.zeros(len(names))
    gain[names.index("own_z1_low")], gain[names.index("own_z1_high")] = 0.5, 0.1
    gain[names.index("any_z1_high")] = 0.4
    shares = to_features(gain, NAMES, "epidural", symmetric=True)
    of_features = dict(zip(NAMES, shares, strict=True))
    for name, share in (("epidural", 0.3), ("any", 0.2)):
        assert of_features[f"{name}_z-1"] == of_features[f"{name}_z+1"] == pytest.approx(share)


def test_a_stored_booster_says_whether_it_is_symmetric():
    """An older one, or one of the other kind, is read by the names of its features."""
    X, every = matrix(60), np.arange(len(pooled_names(NAMES)))
    rng, component = np.random.default_rng(0), load_component("pooled")
    platts = dict.fromkeys(SUBTYPES, Platt(1.0, 0.0, 0.0))
    rows = InferenceContext(X, NAMES, None, platts)
    for symmetric in (False, True):
        features = PooledFeatures(X, NAMES, symmetric=symmetric)
        y = rng.integers(0, 2, 300).astype(float)
        data = features.dataset(every, np.arange(300), y, np.zeros(300))
        booster, _ = fit_booster(data, {"min_data_in_leaf": 2}, 5, 0, 1)
        raw = component.learner.save(booster)
        component.check_file(raw, NAMES)
        logits = component.predict(rows, [component.load(raw)], SUBTYPES)
        base = X[:, [NAMES.index(label) for label in SUBTYPES]].T
        added = booster.predict(features.values(every, np.arange(300)), raw_score=True)
        expected = np.where(np.isnan(base), 0, base) + added.reshape(5, -1)
        np.testing.assert_allclose(logits, expected, rtol=1e-6, atol=1e-6)
