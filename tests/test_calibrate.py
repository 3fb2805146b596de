"""Platt's calibration: its direction, its limits, and that fold k's labels never reach fold k."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from stage2_stack.calibrate import Platt, cross_fit, fit_platt, smoothed_prior

NAN = np.nan


def sample(rng, n=4000, slope=0.5, intercept=-1.0):
    """Raw logits, and labels drawn with the chance expit(slope * raw + intercept)."""
    raw = rng.normal(0, 3, n)
    return raw, (rng.random(n) < expit(slope * raw + intercept)).astype(float)


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, -1.0), (1.7, 0.5), (1.0, -3.0)])
def test_finds_what_the_labels_were_drawn_with(slope, intercept):
    raw, y = sample(np.random.default_rng(0), 20000, slope, intercept)
    found = fit_platt(raw, y)
    reference = LogisticRegression(C=1e6).fit(raw[:, None], y)
    assert found.slope == pytest.approx(reference.coef_[0, 0], rel=0.02)
    assert found.intercept == pytest.approx(reference.intercept_[0], rel=0.03)
    assert found.slope == pytest.approx(slope, rel=0.1)


def test_calibrating_lowers_the_loss_of_an_overconfident_model_and_keeps_the_order():
    raw, y = sample(np.random.default_rng(1))
    found = fit_platt(raw, y).logit(raw)
    assert log_loss(y, expit(found)) < log_loss(y, expit(raw)) - 0.05
    assert (np.argsort(found) == np.argsort(raw)).all()
    assert expit(found).mean() == pytest.approx(y.mean(), abs=0.003)


def test_it_is_affine_and_nan_gets_the_prior():
    platt = Platt(2.0, -1.0, -3.0)
    np.testing.assert_array_equal(platt.logit(np.array([[0, 1], [NAN, -1]])), [[-1, 1], [-3, -3]])
    assert platt.logit(np.float32([1])).dtype == np.float64


def test_an_opinion_is_never_turned_around():
    raw, y = sample(np.random.default_rng(2))
    found = fit_platt(-raw, y)
    assert found.slope == 0.0
    assert expit(found.intercept) == pytest.approx(y.mean(), abs=0.002)
    for seed in range(30):  # few rows, labels by chance
        rng = np.random.default_rng(seed)
        raw, y = rng.normal(-4, 1, 12), np.r_[1.0, 0.0, rng.integers(0, 2, 10)]
        found = fit_platt(raw, y)
        assert found.slope >= 0 and np.isfinite(found).all()


@pytest.mark.parametrize(("value", "expected"), [(0, 1 / 52), (1, 51 / 52)])
def test_labels_all_alike_give_the_smoothed_prior(value, expected):
    found = fit_platt(np.random.default_rng(0).normal(size=50), np.full(50, float(value)))
    assert found.slope == 0.0
    assert expit(found.logit(np.array([-20, 0, 20, NAN]))) == pytest.approx([expected] * 4)
    assert smoothed_prior(np.full(50, float(value))) == expected


def test_smoothed_prior_is_laplaces():
    assert smoothed_prior(np.array([0, 0, 1])) == 2 / 5
    assert smoothed_prior(np.zeros(1000)) > 0
    assert smoothed_prior(np.array([])) == 0.5


def test_perfectly_separated_labels_stay_finite():
    raw = np.r_[np.full(20, -5.0), np.full(5, 5.0)]
    found = expit(fit_platt(raw, (raw > 0).astype(float)).logit(raw))
    assert 0.001 < found[0] < 0.1 and 0.7 < found[-1] < 0.99


def test_rows_without_opinion_count_for_the_prior_alone():
    raw, y = sample(np.random.default_rng(3), 500)
    with_nan = np.r_[raw, np.full(100, NAN)]
    found = fit_platt(with_nan, np.r_[y, np.ones(100)])
    assert found[:2] == fit_platt(raw, y)[:2]
    assert expit(found.prior) == pytest.approx((y.sum() + 101) / 602)
    nothing = fit_platt(np.full(10, NAN), np.r_[1.0, np.zeros(9)])
    assert nothing.slope == 0 and expit(nothing.intercept) == pytest.approx(2 / 12)


def test_cross_fit_uses_the_other_folds_alone():
    rng = np.random.default_rng(4)
    raw, y = sample(rng, 900)
    fold = rng.integers(0, 3, 900)
    calibrated, platts = cross_fit(raw, y, fold, 3)
    assert not np.isnan(calibrated).any() and len(platts) == 3
    for k in range(3):
        assert platts[k] == fit_platt(raw[fold != k], y[fold != k])
        np.testing.assert_array_equal(calibrated[fold == k], platts[k].logit(raw[fold == k]))


@pytest.mark.parametrize("k", range(3))
def test_labels_of_a_fold_never_reach_it(k):
    rng = np.random.default_rng(5)
    raw, y = sample(rng, 600)
    fold = rng.integers(0, 3, 600)
    before, _ = cross_fit(raw, y, fold, 3)
    after, _ = cross_fit(raw, np.where(fold == k, 1 - y, y), fold, 3)
    np.testing.assert_array_equal(before[fold == k], after[fold == k])
    for other in {0, 1, 2} - {k}:
        assert (before[fold == other] != after[fold == other]).all()  # the test would see a leak


def test_cross_fit_with_missing_labels_and_opinions():
    rng = np.random.default_rng(6)
    raw, y = sample(rng, 300)
    fold = rng.integers(0, 3, 300)
    y[::5], raw[::7] = NAN, NAN
    calibrated, platts = cross_fit(raw, y, fold, 3)
    assert np.isfinite(calibrated).all()  # unlabelled rows are predicted, too
    known = ~np.isnan(y) & (fold != 1)
    assert platts[1] == fit_platt(raw[known], y[known])
    lost = np.isnan(raw) & (fold == 1)
    assert lost.any() and (calibrated[lost] == logit(smoothed_prior(y[known]))).all()


def test_a_label_without_positives_elsewhere():
    """All positives in fold 0: what the others teach it is their smoothed prior, not 0."""
    raw, fold = np.linspace(-3, 3, 60), np.repeat([0, 1, 2], 20)
    y = np.where(fold == 0, np.tile([0.0, 1.0], 30), 0.0)
    calibrated, platts = cross_fit(raw, y, fold, 3)
    assert expit(calibrated[fold == 0]) == pytest.approx(np.full(20, 1 / 42))
    assert platts[0].slope == 0
