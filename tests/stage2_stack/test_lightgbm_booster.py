"""Boosters that start from a calibrated logit; one thread, except where threads are tested."""

import weakref

import lightgbm as lgb
import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from stage2_stack.learners import binned_features
from stage2_stack.learners.binned_features import FIXED, BinnedFeatures, relabel
from stage2_stack.learners.lightgbm_booster import (
    LightGBM,
    boosted_logit,
    fit_booster,
    gain_share,
)
from stage2_stack.tuning.search_space import FIRST

NAMES = ("any_z-1", "any_smooth2.5mm", "tilt_deg", "blood_share")
ALL = np.arange(len(NAMES))


def problem(seed=0, n=600):
    """Features whose first one matters, a base logit that explains a part, labels of 0 and 1."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, len(NAMES))).astype(np.float32)
    X[rng.random(X.shape) < 0.1] = np.nan
    base = rng.normal(-1.5, 1, n)
    y = (rng.random(n) < expit(base + 2 * np.nan_to_num(X[:, 0]))).astype(float)
    return X, y, base


def fit(X, y, base, rounds=20, seed=1, threads=1, valid=None, **params):
    features = BinnedFeatures(X if valid is None else np.vstack([X, valid[0]]), NAMES)
    data = features.dataset(ALL, np.arange(len(X)), y, base)
    valid = (
        ()
        if valid is None
        else [features.dataset(ALL, np.arange(len(X), len(features.X)), *valid[1:])]
    )
    return fit_booster(data, FIRST | params, rounds, seed, threads, valid)


def test_it_learns_what_the_base_does_not_explain():
    X, y, base = problem(0)
    booster, curves = fit(X, y, base, rounds=60)
    assert len(curves) == 0
    X, y, base = problem(1)
    assert log_loss(y, expit(boosted_logit(booster, X, base))) < log_loss(y, expit(base)) - 0.03
    above = boosted_logit(booster, np.float32([[2, 0, 0, 0], [-2, 0, 0, 0]]), np.zeros(2))
    assert above[0] > 0 > above[1]


def test_features_without_information_leave_the_base_alone():
    rng = np.random.default_rng(2)
    base = rng.normal(-1.5, 1.5, 2000)
    y = (rng.random(2000) < expit(base)).astype(float)
    booster, _ = fit(np.zeros((2000, 4), np.float32), y, base)
    np.testing.assert_allclose(
        boosted_logit(booster, np.zeros((2000, 4), np.float32), base), base, atol=1e-6
    )
    booster, _ = fit(rng.normal(size=(2000, 4)).astype(np.float32), y, base, rounds=5)
    moved = boosted_logit(booster, rng.normal(size=(2000, 4)).astype(np.float32), base) - base
    # a model without the base as its start would move them by 1.5
    assert np.abs(moved).mean() < 0.05


def test_the_base_is_added_exactly_once():
    X, y, base = problem(3)
    booster, _ = fit(X, y, base)
    np.testing.assert_allclose(
        boosted_logit(booster, X, base + 1), boosted_logit(booster, X, base) + 1, rtol=1e-12
    )
    np.testing.assert_array_equal(
        boosted_logit(booster, X, base), base + booster.predict(X, raw_score=True)
    )


def test_the_curve_is_the_log_loss_of_the_valid_rows_after_each_round():
    X, y, base = problem(4)
    booster, curves = fit(
        X[:400], y[:400], base[:400], rounds=15, valid=(X[400:], y[400:], base[400:])
    )
    assert curves.shape == (1, 15)
    for rounds in (1, 7, 15):
        p = expit(base[400:] + booster.predict(X[400:], raw_score=True, num_iteration=rounds))
        assert curves[0, rounds - 1] == pytest.approx(log_loss(y[400:], p), abs=1e-6)
    np.testing.assert_array_equal(
        boosted_logit(booster, X, base, rounds=7),
        base + booster.predict(X, raw_score=True, num_iteration=7),
    )
    shorter, _ = fit(
        X[:400], y[:400], base[:400], rounds=7, valid=(X[400:], y[400:], base[400:])
    )  # fewer rounds are the beginning of more
    assert boosted_logit(shorter, X, base) == pytest.approx(
        base + booster.predict(X, raw_score=True, num_iteration=7), abs=1e-12
    )


def test_labels_of_the_valid_rows_never_reach_the_model():
    X, y, base = problem(5)
    texts = [
        fit(X[:400], y[:400], base[:400], valid=(X[400:], v, base[400:]))[0].model_to_string()
        for v in (y[400:], 1 - y[400:])
    ]
    assert texts[0] == texts[1]


def test_any_number_of_threads_gives_the_same_model_losses_and_predictions():
    """With 20,000 rows, more than one thread gets work: LightGBM's own losses differ."""
    X, y, base = problem(6, n=20_000)
    features, rows, rest = BinnedFeatures(X, NAMES), np.arange(15_000), np.arange(15_000, 20_000)
    data, valid = (features.dataset(ALL, part, y[part], base[part]) for part in (rows, rest))
    learner, results = LightGBM(), []
    for threads in (1, 2, 3, 4):
        booster, curves = fit_booster(data, FIRST, 10, 1, threads, [valid])
        predictions = boosted_logit(booster, X, base, threads)
        contributions = learner.contributions(booster, X[:50], threads)
        arrays = (curves, predictions, contributions)
        results.append((learner.save(booster), *(array.tobytes() for array in arrays)))
    assert len(set(results)) == 1 and b"[num_threads: 1]" in results[0][0]


def test_the_seed_decides():
    X, y, base = problem(7)
    a, b, c = (boosted_logit(fit(X, y, base, seed=seed)[0], X, base) for seed in (1, 1, 2))
    assert (a == b).all() and (a != c).any()


def test_the_text_model_round_trips_exactly(tmp_path):
    X, y, base = problem(8)
    booster, _ = fit(X, y, base)
    (tmp_path / "m.txt").write_text(booster.model_to_string())
    back = lgb.Booster(model_str=(tmp_path / "m.txt").read_text())
    np.testing.assert_array_equal(boosted_logit(back, X, base), boosted_logit(booster, X, base))
    assert back.feature_name() == list(NAMES)


def test_min_data_in_leaf_can_be_lowered_on_a_dataset_that_is_built():
    X, y, base = problem(9)
    data = BinnedFeatures(X, NAMES).dataset(ALL, np.arange(len(X)), y, base)
    few, _ = fit_booster(data, FIRST | {"min_data_in_leaf": 100}, 5, 1, 1)
    many, _ = fit_booster(data, FIRST | {"min_data_in_leaf": 2, "num_leaves": 31}, 5, 1, 1)
    fresh, _ = fit(X, y, base, rounds=5, min_data_in_leaf=2, num_leaves=31)
    assert many.num_trees() == few.num_trees() == 5
    np.testing.assert_array_equal(boosted_logit(many, X, base), boosted_logit(fresh, X, base))


def test_a_feature_that_is_rarely_set_is_not_filtered_out():
    """It cannot split at LightGBM's default of 20 rows a leaf, but at the tuned number.

    The Dataset is built before min_data_in_leaf is tuned.
    """
    X, y = np.zeros((400, 4), np.float32), np.tile([0.0, 1.0], 200)
    X[:8, 1], y[:8] = 1, 1
    booster, _ = fit(X, y, np.zeros(400), min_data_in_leaf=2, feature_fraction=1.0)
    assert gain_share(booster).argmax() == 1 and gain_share(booster)[1] == pytest.approx(1)


def test_missing_values_are_split_on():
    """A neighbour past the end is NaN: the booster can split it from any value."""
    X, base = np.zeros((400, 4), np.float32), np.zeros(400)
    X[::2, 0] = np.nan
    booster, _ = fit(X, (np.arange(400) % 2 == 0).astype(float), base, feature_fraction=1.0)
    logits = boosted_logit(booster, X[:2], base[:2])
    assert logits[0] > 0.3 and logits[1] < -0.3


def test_gain_share():
    X, y, base = problem(10)
    share = gain_share(fit(X, y, base)[0])
    assert (
        share.shape == (4,)
        and share.sum() == pytest.approx(1)
        and share.argmax() == 0
        and share[0] > 0.5
    )
    nothing = gain_share(fit(np.zeros_like(X), y, base)[0])
    assert nothing.tolist() == [0, 0, 0, 0]


def test_binned_once_is_as_binned_for_each_label_and_fold():
    X, y, base = problem(11)
    features, other = BinnedFeatures(X, NAMES), 1 - y
    whole = lgb.Dataset(X, label=y, init_score=base, feature_name=list(NAMES), params=FIXED)
    plain, _ = fit_booster(whole, FIRST, 8, 1, 1)
    shared, _ = fit_booster(features.dataset(ALL, np.arange(600), y, base), FIRST, 8, 1, 1)
    np.testing.assert_array_equal(boosted_logit(plain, X, base), boosted_logit(shared, X, base))
    rows = np.flatnonzero(np.arange(600) % 3 != 1)
    fold = features.dataset(ALL, rows, other[rows], base[rows])
    fit_booster(fold, FIRST, 3, 1, 1)
    again, _ = fit_booster(relabel(fold, y[rows], base[rows] + 1), FIRST, 8, 1, 1)
    first, _ = fit_booster(
        BinnedFeatures(X, NAMES).dataset(ALL, rows, y[rows], base[rows] + 1), FIRST, 8, 1, 1
    )
    assert again.model_to_string() == first.model_to_string()


def test_bins_that_are_freed_are_made_again_alike():
    X, y, base = problem(13)
    features, two, rows = BinnedFeatures(X, NAMES), np.array([0, 2]), np.arange(400)
    models = []
    for _ in range(2):
        for columns in (ALL, two):
            models.append(
                fit_booster(features.dataset(columns, rows, y[:400], base[:400]), FIRST, 5, 1, 1)[
                    0
                ].model_to_string()
            )
        held = weakref.ref(features._binned(ALL)), weakref.ref(features._binned(two))
        features.keep_only([two])
        assert held[0]() is None and held[1]() is not None
        features.keep_only()
        assert held[1]() is None
    assert models[:2] == models[2:]


@pytest.mark.parametrize("sample", [200_000, 300])  # rows that the edges of the bins are made from
@pytest.mark.parametrize("columns", [np.arange(80), np.arange(1, 80, 2)])
def test_columns_that_are_binned_in_parts_make_the_same_models(monkeypatch, sample, columns):
    monkeypatch.setitem(FIXED, "bin_construct_sample_cnt", sample)
    rng, n = np.random.default_rng(14), 3000
    y = (rng.random(n) < 0.2).astype(float)
    hot = rng.integers(0, 30, n)[:, None] == np.arange(30)  # LightGBM bundles these
    floor = np.where(rng.random((n, 20)) < 0.9, -11.5, rng.normal(size=(n, 20)) + y[:, None])
    missing = np.where(rng.random((n, 10)) < 0.95, np.nan, rng.normal(size=(n, 10)))
    X = np.column_stack([rng.normal(size=(n, 20)) + y[:, None] / 3, hot, floor, missing])
    X = np.asfortranarray(X[:, rng.permutation(80)], np.float32)
    X[:, 16:24] = 1  # nothing to split on in a whole part
    names, rows, models = [f"f{i}" for i in range(80)], np.arange(0, n, 2), []
    params = FIRST | {"num_leaves": 15, "min_data_in_leaf": 5}
    for at_once in (100, 8, 1):
        monkeypatch.setattr(binned_features, "COLUMNS_AT_ONCE", at_once)
        data = BinnedFeatures(X, names).dataset(columns, rows, y[rows], np.full(len(rows), -1.3))
        assert data.get_feature_name() == [names[i] for i in columns]
        models.append(fit_booster(data, params, 20, 1, 1)[0].model_to_string())
    assert models[0] == models[1] == models[2] and models[0].count("split_feature") == 20


def test_columns_are_binned_alone_and_the_labels_of_other_rows_do_not_matter():
    X, y, base = problem(12)
    features, two = BinnedFeatures(X, NAMES), np.array([0, 2])
    data = features.dataset(two, np.arange(300), y[:300], base[:300])
    booster, _ = fit_booster(data, FIRST, 5, 1, 1)
    assert booster.feature_name() == ["any_z-1", "tilt_deg"]
    # the labels of rows that it is not fitted on
    flipped = np.where(np.arange(600) < 300, y, 1 - y)
    other, _ = fit_booster(
        BinnedFeatures(X, NAMES).dataset(two, np.arange(300), flipped[:300], base[:300]),
        FIRST,
        5,
        1,
        1,
    )
    assert other.model_to_string() == booster.model_to_string()
    np.testing.assert_array_equal(features.values(two, [5, 1]), X[[5, 1]][:, two])
