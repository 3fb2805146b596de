"""Bins that are narrow in the tails: their edges, missing values, LightGBM's use of them."""

import lightgbm as lgb
import numpy as np
import pytest
from scipy.special import expit

from ct.metrics import log_loss
from stage2_stack.config import StackConfig
from stage2_stack.learners.binned_features import FIXED, BinnedFeatures, bins_key
from stage2_stack.learners.lightgbm_booster import boosted_logit, fit_booster
from stage2_stack.learners.tail_bins import SAMPLED, bin_centres, sampled_rows

BINS = 15
PARAMS = {"learning_rate": 0.3, "num_leaves": 7, "min_data_in_leaf": 5}


def made_up(n=2000):
    """Columns: normal, with missing values, constant, two that are 0 but in a few rows each."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 5)).astype(np.float32)
    X[rng.random(n) < 0.2, 1] = np.nan
    X[:, 2] = 3
    # in ascending order they are never other than 0 in one row, in the rows themselves they are
    few = rng.random(n) < 0.1
    X[:, 3], X[:, 4] = np.where(few, -1, 0), np.where(few, rng.random(n) + 0.5, 0)
    evidence = 2 * X[:, 0] + np.where(np.isnan(X[:, 1]), 2, 0) + 3 * (X[:, 4] > 1) - X[:, 3]
    return X, (rng.random(n) < expit(evidence - 2)).astype(float)


def features_of(X, tail_bins=BINS):
    return BinnedFeatures(X, [f"f{i}" for i in range(X.shape[1])], tail_bins=tail_bins)


def fit(features, y, rounds=30):
    """Return a booster fitted on the first 1,500 rows, and its curve on the others."""
    every = np.arange(len(features.names))
    parts = np.split(np.arange(len(y)), [1500])
    train, valid = (
        features.dataset(every, rows, y[rows], np.full(len(rows), -1.0)) for rows in parts
    )
    booster, curves = fit_booster(train, PARAMS, rounds, 1, 1, [valid])
    return booster, curves[0]


def test_quantiles_are_close_together_in_both_tails():
    rng = np.random.default_rng(1)
    column = rng.permutation(np.append(np.arange(101), 50)).astype(np.float32)
    missing = rng.permutation(np.append(np.arange(101), np.nan)).astype(np.float32)
    centres = bin_centres(np.stack([column, missing, np.full(102, np.nan)], axis=1), 5)
    # sin^2 of 0, 22.5, 45, 67.5 and 90 degrees: 0, .146, .5, .854, 1
    np.testing.assert_array_equal(centres[[0, 1, 3, 4, 5], 0], [0, 15, 85, 100, 100])
    np.testing.assert_array_equal(centres[:, 1], [0, 15, 50, 85, 100, np.nan])
    assert np.isnan(centres[:, 2]).all()


def test_splits_lie_between_the_centres_of_bins():
    X, y = made_up()
    booster, _ = fit(features_of(X), y)
    centres = np.unique(bin_centres(X, BINS)[:BINS, 0])
    trees = booster.trees_to_dataframe()
    splits = trees.threshold[trees.split_feature == "f0"].unique()
    between = np.append((centres[1:] + centres[:-1]) / 2, 0)  # LightGBM splits at 0, too
    assert 5 < len(splits) <= BINS + 1
    np.testing.assert_allclose(np.abs(splits[:, None] - between).min(axis=1), 0, atol=1e-6)


def test_binned_rows_and_values_have_the_same_predictions():
    """Missing values, constant columns and columns of zeros have the bins that trees read."""
    X, y = made_up()
    booster, curve = fit(features_of(X), y)
    predictions = expit(boosted_logit(booster, X[1500:], -1.0))
    assert log_loss(y[1500:], predictions).mean() == pytest.approx(curve[-1], abs=1e-12)
    _, own = fit(features_of(X, 0), y)
    assert curve.min() < own.min() * 1.03
    used = booster.feature_importance()
    assert (used[[0, 1, 4]] > 0).all() and used[2] == 0


def test_the_kept_file_of_bins_gives_the_same_model(tmp_path):
    X, y = made_up()
    kept = []

    def store(key, make):
        path = tmp_path / f"{len(kept)}.bin"
        kept.append(key)
        make().save_binary(path)
        return lgb.Dataset(path, params={**key["parameters"], "num_threads": 1}).construct()

    stored = BinnedFeatures(X, features_of(X).names, 1, store, BINS)
    assert fit(stored, y)[0].model_to_string() == fit(features_of(X), y)[0].model_to_string()
    assert kept[0]["tail_bins"] == BINS


def test_without_the_setting_bins_and_their_files_are_those_of_before():
    X, y = made_up()
    assert StackConfig().tail_bins == 0
    assert bins_key(["a"]) == {"rows": "features", "columns": ["a"], "parameters": FIXED}
    ours = features_of(X, 0).dataset(np.arange(5), np.arange(2000), y, np.zeros(2000))
    plain = lgb.Dataset(X, y, params={**FIXED, "num_threads": 1}).construct()
    bins = [[data.feature_num_bin(i) for i in range(5)] for data in (ours, plain)]
    assert bins[0] == bins[1] and bins[0][0] == 255
    few = features_of(X).dataset(np.arange(5), np.arange(2000), y, np.zeros(2000))
    assert few.feature_num_bin(0) <= BINS + 2


def test_many_rows_are_sampled_the_same_in_every_call():
    rows = sampled_rows(SAMPLED + 1000)
    assert len(np.unique(rows)) == SAMPLED and (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, sampled_rows(SAMPLED + 1000))
    np.testing.assert_array_equal(sampled_rows(7), np.arange(7))
