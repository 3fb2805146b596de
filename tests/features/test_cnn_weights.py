"""Weights of the CNNs: equal ones stay, weak ones go, labels of a fold never reach its rows."""

import numpy as np
import pytest
from scipy.special import expit
from tiny_tables import slice_table

from ct.averaging import held_out_mean, mean_logits, weighted_mean
from ct.labels import LABELS
from ct.metrics import log_loss
from features.build import build_features
from features.cnn_weights import cross_fit_weights, without_left_out
from features.config import FeatureConfig

FOLDS, PATIENTS, SLICES = 4, 240, 6


@pytest.fixture(scope="module")
def case():
    """True logits and labels (n, 6), patients and folds (n,); errors are a patient's and a slice's.

    The last label is rare: positive in a few patients alone.
    """
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(PATIENTS), SLICES)
    truth = -2 + 2.5 * rng.standard_normal((PATIENTS, 6))[patient]
    truth += rng.standard_normal(truth.shape)
    truth[:, -1] -= 5
    y = (rng.random(truth.shape) < expit(truth)).astype(float)
    return truth, y, patient, patient % FOLDS


def cnns(truth, *spreads):
    """Logits of one CNN for each spread of its errors."""
    rng = np.random.default_rng(1)
    return {
        f"cnn{i}": (truth + spread * rng.standard_normal(truth.shape)).astype(np.float32)
        for i, spread in enumerate(spreads)
    }


def fitted(case, logits):
    truth, y, patient, fold = case
    return cross_fit_weights(logits, y, patient, fold, FOLDS)


def test_equal_cnns_keep_equal_weights_and_the_plain_mean_bit_by_bit(case):
    logits = cnns(case[0], 1, 1, 1)
    weights = fitted(case, logits)
    assert weights.shape == (FOLDS + 1, 3, 6) and (weights == 1 / 3).all()
    mean = held_out_mean(logits, case[3], weights)
    assert mean.tobytes() == mean_logits(logits).tobytes()


def test_weak_cnns_lose_their_weight_in_every_label(case):
    logits = cnns(case[0], 0.5, 0.5, 4, 4, 4)
    weights = fitted(case, logits)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
    assert (weights >= 0).all() and weights[:, 2:].sum(axis=1).max() < 0.1  # of the rare label too
    truth, y, _, fold = case
    best = {name: logits[name] for name in ("cnn0", "cnn1")}
    losses = [
        log_loss(y, expit(z)).mean()
        for z in (mean_logits(best), held_out_mean(logits, fold, weights), mean_logits(logits))
    ]
    assert losses[1] - losses[0] < 0.1 * (losses[2] - losses[0])


def test_weights_are_those_of_the_logits_that_make_the_labels():
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 3, (2, 4000, 6)).astype(np.float32)
    y = (rng.random(a.shape) < expit(0.6 * a + 0.4 * b)).astype(float)
    patient = np.arange(len(y))
    weights = cross_fit_weights({"a": a, "b": b}, y, patient, patient % FOLDS, FOLDS)
    np.testing.assert_allclose(weights[:, 0], 0.6, atol=0.06)


def test_labels_of_a_fold_never_reach_its_rows(case):
    """But for the one bit whether weights are fitted at all, which these changes leave as it is."""
    truth, y, patient, fold = case
    logits = cnns(truth, 0.5, 1, 4)
    changed = np.where((fold == 1)[:, None] & (abs(truth) < 1), 1 - y, y)
    before, after = (cross_fit_weights(logits, each, patient, fold, FOLDS) for each in (y, changed))
    assert (before[1] == after[1]).all() and not (before[2] == after[2]).all()
    own = fold == 1
    means = [held_out_mean(logits, fold, weights)[own] for weights in (before, after)]
    assert means[0].tobytes() == means[1].tobytes()


def test_test_patients_get_the_weights_of_all_folds_or_of_theirs(case):
    logits = {"a": np.ones((3, 6), np.float32), "b": np.zeros((3, 6), np.float32)}
    weights = np.zeros((3, 2, 6))
    weights[:, 0], weights[:, 1] = [[0.1], [0.2], [0.3]], [[0.9], [0.8], [0.7]]
    mean = held_out_mean(logits, np.array([-1, 1, 0]), weights)
    np.testing.assert_allclose(mean[:, 0], [0.3, 0.2, 0.1], rtol=1e-6)


def test_rows_without_logits_or_labels_are_left_out(case):
    truth, y, patient, fold = case
    logits, labels = cnns(truth, 0.5, 0.5, 4), y.copy()
    logits["cnn1"][::7], labels[3::7] = np.nan, np.nan
    keep = np.isin(np.arange(len(y)) % 7, (1, 2, 4, 5, 6))
    of_kept = {name: values[keep] for name, values in logits.items()}
    all_rows = cross_fit_weights(logits, labels, patient, fold, FOLDS)
    known = cross_fit_weights(of_kept, y[keep], patient[keep], fold[keep], FOLDS)
    assert (all_rows == known).all() and all_rows[0, 2, 0] < 0.1
    mean = held_out_mean(logits, fold, all_rows)
    unknown = all_rows[fold][:, [0, 2]].sum(axis=1) == 0  # the CNN that lacks a row has all weight
    assert (np.isnan(mean[::7]) == unknown[::7]).all() and unknown[::7].any()
    assert not unknown[::7].all() and not np.isnan(mean[1::7]).any()


@pytest.mark.parametrize("patients", (2, 6))
def test_few_patients_keep_equal_weights(case, patients):
    truth, y, patient, fold = case
    some = patient < patients
    logits = {name: values[some] for name, values in cnns(truth, 0.5, 4).items()}
    weights = cross_fit_weights(logits, y[some], patient[some], fold[some], FOLDS)
    assert (weights == 0.5).all()


@pytest.mark.parametrize(("folds", "patients"), [(2, 240), (4, 240), (4, 30), (5, 20), (2, 12)])
def test_a_stacker_is_never_applied_to_another_kind_of_mean(case, folds, patients):
    """Weights are fitted in all folds and for new patients, or nowhere."""
    truth, y, patient, _ = case
    rows = patient < patients
    logits = {name: values[rows] for name, values in cnns(truth, 0.5, 4).items()}
    logits["cnn1"] = 0.5 * logits["cnn1"]
    weights = cross_fit_weights(logits, y[rows], patient[rows], patient[rows] % folds, folds)
    equal = (weights == 0.5).all(axis=(1, 2))
    assert len(set(equal)) == 1
    assert not equal.any() or patients < 240


def test_one_cnn_is_its_own_mean(case):
    logits = cnns(case[0], 1)
    weights = fitted(case, logits)
    assert (weights == 1).all()
    assert weighted_mean(logits, weights[0]).tobytes() == logits["cnn0"].tobytes()


def test_a_label_without_positives_has_the_weights_of_any(case):
    truth, y, patient, fold = case
    labels = y.copy()
    labels[:, 2] = 0
    weights = cross_fit_weights(cnns(truth, 0.5, 4), labels, patient, fold, FOLDS)
    assert (weights[:, :, 2] == weights[:, :, LABELS.index("any")]).all()
    assert weights[0, 1, 2] < 0.1


def test_a_cnn_that_is_left_out_has_no_columns_of_its_own(case):
    """Its logits are NaN where its weight is 0, and the spread is that of the other CNNs."""
    truth, _, _, fold = case
    logits = cnns(truth, 0.5, 0.5, 4)
    weights = fitted(case, logits)
    assert (weights[:, 2, :5] == 0).all()
    kept = without_left_out(logits, fold, weights)
    assert np.isnan(kept["cnn2"][:, :5]).all()
    for i, name in enumerate(logits):
        assert (np.isnan(kept[name]) == (weights[fold, i] == 0)).all()
    only_first = np.zeros((FOLDS + 1, 3, 6))
    only_first[:, 0] = 1
    only_first[1, :, 0] = [0.5, 0.5, 0]  # a row of fold 1 keeps the second CNN for `any`
    kept = without_left_out(logits, fold, only_first)
    assert (np.isnan(kept["cnn1"][:, 0]) == (fold != 1)).all()
    assert np.isnan(kept["cnn1"][:, 1:]).all()


def test_the_spread_is_that_of_the_cnns_that_are_not_left_out():
    table = slice_table(("train", "a", [0.0, 5.0, 10.0]))
    rng = np.random.default_rng(3)
    logits = {name: rng.normal(0, 2, (3, 6)).astype(np.float32) for name in "abc"}
    for values in logits.values():
        values[2] = np.nan  # an unreadable slice
    whole, names = build_features(table, logits, FeatureConfig(geometry=False))
    logits["b"][:, 4] = np.nan
    X, _ = build_features(table, logits, FeatureConfig(geometry=False), cnn_mean=logits["a"])
    spread = [names.index(f"{label}_spread") for label in LABELS]
    expected = whole[:, spread].copy()
    expected[:2, 4] = np.std([logits["a"][:2, 4], logits["c"][:2, 4]], axis=0)
    np.testing.assert_allclose(X[:, spread], expected, rtol=1e-5)
    assert (X[:2, :6] == logits["a"][:2]).all()
