"""Logits, their mean over models, and the combination of the folds' test predictions."""

import numpy as np
import pytest
from scipy.special import expit, logit

from ct import averaging
from ct.averaging import combine_folds, mean_logits, over_models, to_logits, weighted_mean


def test_logits_are_clipped_and_keep_nan():
    p = np.array([0.0, 1e-7, 0.25, 0.5, 1.0, np.nan])
    logits = to_logits(p, 1e-5)
    assert logits.dtype == np.float32
    expected = [logit(1e-5), logit(1e-5), -np.log(3), 0, logit(1 - 1e-5), np.nan]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-7)
    assert logits[0] == pytest.approx(-11.5129, abs=1e-3)


def test_mean_is_of_logits_not_of_probabilities():
    logits = mean_logits({"a": np.full((1, 6), logit(0.9)), "b": np.zeros((1, 6))})
    assert logits.shape == (1, 6) and logits.dtype == np.float32
    np.testing.assert_allclose(expit(logits), 0.75, rtol=1e-5)  # not 0.7
    far = mean_logits({"a": np.full((1, 6), -40.0), "b": np.full((1, 6), -20.0)})
    np.testing.assert_array_equal(far, -30)  # a CNN's logits are not clipped


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 30])
def test_blocks_of_rows_change_no_bit(monkeypatch, rows):
    monkeypatch.setattr(averaging, "BLOCK_ROWS", 8)
    logits = np.random.default_rng(0).normal(-3, 4, (20, rows, 6)).astype(np.float32)
    logits[2, 0] = np.nan
    by_model = {f"cnn{number}": each for number, each in enumerate(logits)}
    for function in (np.mean, np.std):
        whole = function(logits, axis=0, dtype=np.float32)
        np.testing.assert_array_equal(over_models(function, by_model), whole)
    by_model["cnn2"] = logits[0]
    whole = np.mean(list(by_model.values()), axis=0, dtype=np.float32)
    np.testing.assert_array_equal(mean_logits(by_model), whole)


@pytest.mark.parametrize("weights", [(0.25, 0.25, 0.25, 0.25), (0.5, 0.3, 0.2, 0.0)])
def test_a_model_that_lacks_a_slice_leaves_the_mean_of_the_others(weights):
    values = np.random.default_rng(0).normal(-3, 4, (4, 5, 6)).astype(np.float32)
    values[3, 1] = np.nan  # without a weight, in the second case
    values[0, 2, 4] = np.nan
    values[:, 3] = np.nan
    values[:3, 4] = np.nan
    by_model = dict(zip("abcd", values, strict=True))
    mean = weighted_mean(by_model, np.repeat(np.array(weights)[:, None], 6, axis=1))
    known = np.where(np.isnan(values), 0, np.array(weights)[:, None, None])
    with np.errstate(invalid="ignore"):
        expected = (np.nan_to_num(values) * known).sum(axis=0) / known.sum(axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    assert np.isnan(mean[3]).all() and np.isnan(mean[4]).all() == (weights[3] == 0)
    assert np.isfinite(mean[:3]).all() and mean.dtype == np.float32


def test_folds_are_averaged_and_a_patient_in_train_gets_one_fold_alone():
    per_fold = np.arange(3 * 4 * 6, dtype=float).reshape(3, 4, 6)
    combined = combine_folds(per_fold, np.array([-1, 2, -1, 0]))
    np.testing.assert_array_equal(combined[0], per_fold[:, 0].mean(axis=0))
    np.testing.assert_array_equal(combined[1], per_fold[2, 1])
    np.testing.assert_array_equal(combined[2], per_fold[:, 2].mean(axis=0))
    np.testing.assert_array_equal(combined[3], per_fold[0, 3])
