"""Platt's calibration: direction, floor, limits; fold k's labels never reach fold k."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from ct.averaging import to_logits
from ct.labels import LABELS
from stage2_stack.calibration import Platt, cross_fit, fit_platt, smoothed_prior

NAN = np.nan


def sample(rng, n=4000, slope=0.5, intercept=-1.0):
    """Return raw logits, and labels drawn with the chance expit(slope * raw + intercept)."""
    raw = rng.normal(0, 3, n)
    return raw, (rng.random(n) < expit(slope * raw + intercept)).astype(float)


@pytest.mark.parametrize(("slope", "intercept"), [(0.5, -1.0), (1.7, 0.5), (1.0, -3.0)])
def test_the_line_that_the_labels_are_drawn_from_is_found(slope, intercept):
    raw, y = sample(np.random.default_rng(0), 20000, slope, intercept)
    platt = fit_platt(raw, y)
    reference = LogisticRegression(C=1e6).fit(raw[:, None], y)
    assert platt.slope == pytest.approx(reference.coef_[0, 0], rel=0.02)
    assert platt.intercept == pytest.approx(reference.intercept_[0], rel=0.03)
    assert platt.slope == pytest.approx(slope, rel=0.1)


def test_calibrating_lowers_the_loss_of_an_overconfident_model_and_keeps_the_order():
    raw, y = sample(np.random.default_rng(1))
    platt = fit_platt(raw, y).logit(raw)
    assert log_loss(y, expit(platt)) < log_loss(y, expit(raw)) - 0.05
    assert (np.argsort(platt) == np.argsort(raw)).all()
    assert expit(platt).mean() == pytest.approx(y.mean(), abs=0.003)


def test_it_is_affine_and_nan_gets_the_prior():
    platt = Platt(2.0, -1.0, -3.0)
    np.testing.assert_array_equal(platt.logit(np.array([[0, 1], [NAN, -1]])), [[-1, 1], [-3, -3]])
    assert platt.logit(np.float32([1])).dtype == np.float64


def test_the_order_is_never_reversed():
    raw, y = sample(np.random.default_rng(2))
    platt = fit_platt(-raw, y)
    assert platt.slope == 0.0
    assert expit(platt.intercept) == pytest.approx(y.mean(), abs=0.002)
    for seed in range(30):  # few rows, labels by chance
        rng = np.random.default_rng(seed)
        raw, y = rng.normal(-4, 1, 12), np.r_[1.0, 0.0, rng.integers(0, 2, 10)]
        platt = fit_platt(raw, y)
        assert platt.slope >= 0 and np.isfinite(platt[:3]).all()


@pytest.mark.parametrize(("value", "expected"), [(0, 1 / 52), (1, 51 / 52)])
def test_labels_all_alike_give_the_smoothed_prior(value, expected):
    platt = fit_platt(np.random.default_rng(0).normal(size=50), np.full(50, float(value)))
    assert platt.slope == 0.0
    assert expit(platt.logit(np.array([-20, 0, 20, NAN]))) == pytest.approx([expected] * 4)
    assert smoothed_prior(np.full(50, float(value))) == expected


def test_smoothed_prior_is_laplaces():
    assert smoothed_prior(np.array([0, 0, 1])) == 2 / 5
    assert smoothed_prior(np.zeros(1000)) > 0
    assert smoothed_prior(np.array([])) == 0.5


def test_perfectly_separated_labels_stay_finite():
    raw = np.r_[np.full(20, -5.0), np.full(5, 5.0)]
    platt = expit(fit_platt(raw, (raw > 0).astype(float)).logit(raw))
    assert 0.001 < platt[0] < 0.1 and 0.7 < platt[-1] < 0.99


def test_rows_without_predictions_count_for_the_prior_alone():
    raw, y = sample(np.random.default_rng(3), 500)
    with_nan = np.r_[raw, np.full(100, NAN)]
    platt = fit_platt(with_nan, np.r_[y, np.ones(100)])
    assert platt[:2] == fit_platt(raw, y)[:2]
    assert expit(platt.prior) == pytest.approx((y.sum() + 101) / 602)
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
        assert (before[fold == other] != after[fold == other]).all()  # a leak would show here


def test_cross_fit_with_missing_labels_and_predictions():
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
    """All positives are in fold 0, which gets the smoothed prior of the others, not 0."""
    raw, fold = np.linspace(-3, 3, 60), np.repeat([0, 1, 2], 20)
    y = np.where(fold == 0, np.tile([0.0, 1.0], 30), 0.0)
    calibrated, platts = cross_fit(raw, y, fold, 3)
    assert expit(calibrated[fold == 0]) == pytest.approx(np.full(20, 1 / 42))
    assert platts[0].slope == 0


def with_a_floor(rng, n=20000, step=2.0):
    """Return logits, half of them on the floor at -8, and labels.

    A label is 1 with the chance expit(raw / 2 + 1), on the floor expit(raw / 2 + 1 - step).
    """
    raw = np.where(rng.random(n) < 0.5, -8.0, rng.normal(-3, 2, n).clip(-7.9))
    return raw, (rng.random(n) < expit(raw / 2 + 1 - step * (raw == -8))).astype(float)


def test_the_floor_by_hand():
    platt = Platt(2.0, 1.0, -3.0, -8.0, 0.5)
    np.testing.assert_array_equal(
        platt.logit(np.array([-9, -8, -7.5, 0, NAN])), [-17.5, -15.5, -14, 1, -3]
    )
    np.testing.assert_array_equal(Platt(2.0, 1.0, -3.0).logit(np.array([-9, -8])), [-17, -15])


def test_a_step_at_the_floor_is_recovered():
    raw, y = with_a_floor(np.random.default_rng(10))
    platt = fit_platt(raw, y)
    assert platt.slope == pytest.approx(0.5, abs=0.03) and platt.intercept == pytest.approx(
        1, abs=0.1
    )
    assert platt.step == pytest.approx(2, abs=0.4) and -8 < platt.floor < -7.9
    reference = LogisticRegression(C=1e6).fit(np.column_stack([raw, raw == -8]), y)
    assert platt[:2] == pytest.approx((reference.coef_[0, 0], reference.intercept_[0]), rel=0.02)
    assert platt.step == pytest.approx(-reference.coef_[0, 1], rel=0.15)  # the prior draws it to 0
    assert expit(platt.logit(raw[raw == -8])).mean() == pytest.approx(y[raw == -8].mean(), abs=1e-3)


def test_the_floor_is_never_raised():
    """With more bleeds on the floor than the line predicts, the step is 0: the order stays."""
    raw, y = with_a_floor(np.random.default_rng(11), step=-2.0)
    platt = fit_platt(raw, y)
    assert platt.step == 0
    ordered = np.sort(raw)
    assert (np.diff(platt.logit(ordered)) >= 0).all()


def test_a_floor_is_what_one_row_in_a_hundred_shares():
    rng = np.random.default_rng(12)
    raw, y = sample(rng, 1000)
    assert fit_platt(raw, y).floor is None and fit_platt(raw, y).step == 0
    lowest = np.argsort(raw)
    for rows, has in ((9, False), (10, True)):
        shared = raw.copy()
        shared[lowest[:rows]] = raw.min() - 0.5
        shared[lowest[0]] += 1e-6  # rounding does not take a row off it
        assert (fit_platt(shared, y).floor is not None) == has
    assert fit_platt(raw[raw > 0], y[raw > 0]).floor is None


def test_logits_that_are_not_clipped_have_no_floor():
    """Equal smallest logits of a CNN, as of slices of air, are no floor."""
    raw, y = with_a_floor(np.random.default_rng(13), 400)
    fold = np.arange(len(raw)) % 3
    assert fit_platt(raw, y).floor is not None
    platt = fit_platt(raw, y, clipped=False)
    assert (platt.floor, platt.step) == (None, 0)
    np.testing.assert_allclose(platt.logit(raw), platt.slope * raw + platt.intercept)
    assert {platt.floor for platt in cross_fit(raw, y, fold, 3, clipped=False)[1]} == {None}


def test_all_rows_on_the_floor_get_their_share_of_positives():
    platt = fit_platt(np.full(400, -11.5), np.tile([0.0, 0, 0, 1], 100))
    assert platt.floor is None and platt.step == 0 and platt.slope >= 0
    assert expit(platt.logit(np.array([-11.5]))) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_class_alone_has_no_step(value):
    raw, _ = with_a_floor(np.random.default_rng(13), 100)
    platt = fit_platt(raw, np.full(100, value))
    assert platt.slope == 0 and platt.step == 0 and platt.floor is None


def test_a_real_cnn_that_predicts_0_for_half_the_slices(real_data):
    """Calibration is better than the best constant clip, and the step lowers the loss of `any`.

    The clip is even chosen on the rows that it is scored on.
    """
    file = real_data / "stage_two/resnet50_holdout.csv.gz"
    if not file.is_file():
        pytest.skip(f"{file} is not there (ICH_REAL_DATA names the folder of the real data)")
    table = pd.read_csv(file)
    fold = np.random.default_rng(0).integers(0, 3, len(table))
    for label in LABELS:
        y, p = table[label].to_numpy(float), table[f"p_{label}"].to_numpy()
        raw = to_logits(p, 1e-5)
        calibrated, platts = cross_fit(raw, y, fold, 3)
        clipped = min(log_loss(y, np.clip(p, clip, 1 - clip)) for clip in 10.0 ** np.arange(-6, -1))
        assert log_loss(y, expit(calibrated)) < clipped, label
        assert all(platt.floor == pytest.approx(logit(1e-5), abs=2e-3) for platt in platts)
        order = np.argsort(raw, kind="stable")
        assert all((np.diff(platt.logit(raw[order])) >= 0).all() for platt in platts)
        if label == "any":
            flat = expit(
                np.concatenate(
                    [platts[k]._replace(step=0.0).logit(raw[fold == k]) for k in range(3)]
                )
            )
            truth = np.concatenate([y[fold == k] for k in range(3)])
            assert log_loss(y, expit(calibrated)) < log_loss(truth, flat) - 3e-4
