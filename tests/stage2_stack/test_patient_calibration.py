"""Calibration by patient: few positive patients change the logits little, many give Platt's."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.metrics import log_loss

from stage2_stack.calibration import Platt, fit_platt
from stage2_stack.patient_calibration import fit_calibration

SLICES = 30  # of a patient


def sample(seed, positives, negatives, slope=1.0, intercept=0.0):
    """Return (raw, y, patients): a third of a positive patient's slices are positive.

    The line of these slope and intercept calibrates the logits.
    """
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(positives + negatives), SLICES)
    y = ((patients < positives) & (np.arange(len(patients)) % SLICES < SLICES // 3)).astype(float)
    truth = logit(max(y.mean(), 0.01)) + np.where(y == 1, 3.0, 0.0) + rng.normal(0, 1.5, len(y))
    fitted = fit_platt(truth, y)
    return (fitted.logit(truth) - intercept) / slope, y, patients


def test_without_patients_it_is_platts():
    raw, y, _ = sample(0, 5, 20)
    assert fit_calibration(raw, y, None) == fit_platt(raw, y)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_labels_all_alike_leave_the_logits_as_they_are(value):
    raw, _, patients = sample(1, 2, 5)
    platt = fit_calibration(raw, np.full(len(raw), value), patients)
    np.testing.assert_array_equal(platt.logit(raw), raw)
    assert 0 < expit(platt.prior) < 1


def test_hundreds_of_positive_patients_give_platts_line():
    raw, y, patients = sample(2, 400, 600, slope=0.6, intercept=-1.0)
    ours, platts = fit_calibration(raw, y, patients), fit_platt(raw, y)
    assert ours[:2] == pytest.approx(platts[:2], abs=0.03)


def test_three_positive_patients_of_equal_slices_do_not_move_every_slice_to_a_half():
    """Of six patients, three are bleeding all over; the logits of all are alike: -2."""
    patients = np.repeat(np.arange(6), SLICES)
    y, raw = (patients < 3).astype(float), np.full(6 * SLICES, -2.0)
    raw += np.random.default_rng(3).normal(0, 0.01, len(raw))
    assert expit(fit_platt(raw, y).logit(raw)).mean() == pytest.approx(0.5, abs=0.02)
    assert expit(fit_calibration(raw, y, patients).logit(raw)).mean() < 0.2


def test_logits_that_are_far_off_in_every_patient_are_shifted():
    """A CNN that is trained on as many positives as negatives predicts far too much."""
    raw, y, patients = sample(4, 20, 80, intercept=-3.0)
    platt = fit_calibration(raw, y, patients)
    assert platt.intercept < -1.5
    loss = log_loss(y, expit(platt.logit(raw)))
    assert loss < log_loss(y, expit(raw)) - 0.2
    assert loss < log_loss(y, expit(fit_platt(raw, y).logit(raw))) + 0.02


def test_calibrated_logits_of_few_patients_stay_as_they_are():
    kept = 0
    for seed in range(10):
        raw, y, patients = sample(seed, 8, 12)
        kept += fit_calibration(raw, y, patients)[:2] == (1.0, 0.0)
    assert kept >= 9


def test_the_pull_grows_with_the_number_of_slices_of_the_same_patients():
    """A patient whose slices are all given twice counts as one patient still."""
    raw, y, patients = sample(5, 60, 60, slope=0.5)
    once = fit_calibration(raw, y, patients)
    twice = fit_calibration(np.tile(raw, 2), np.tile(y, 2), np.tile(patients, 2))
    assert once[:2] == pytest.approx(twice[:2], abs=0.01)  # but for Platt's smoothed targets
    apart = fit_calibration(
        np.tile(raw, 20),
        np.tile(y, 20),
        np.arange(20).repeat(len(y)) * 1000 + np.tile(patients, 20),
    )
    assert abs(once.slope - 1) < abs(apart.slope - 1)


def test_the_line_has_the_least_penalised_loss():
    raw, y, patients = sample(6, 55, 60, slope=0.4, intercept=1.0)
    share = 55 / y.sum()
    target = np.where(y == 1, (y.sum() + 1) / (y.sum() + 2), 1 / (len(y) - y.sum() + 2))

    def loss(line):
        z = line[0] * raw + line[1]
        pull = ((line[0] - 1) / 0.5) ** 2 / 2 + line[1] ** 2 / 2
        return share * np.sum(np.logaddexp(0, z) - target * z) + pull

    expected = minimize(loss, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-7}).x
    assert fit_calibration(raw, y, patients)[:2] == pytest.approx(tuple(expected), abs=1e-3)


def test_the_order_is_never_reversed():
    raw, y, patients = sample(7, 60, 60)
    platt = fit_calibration(-raw, y, patients)
    assert platt.slope == 0.0 and expit(platt.intercept) == pytest.approx(y.mean(), abs=0.05)


def test_a_floor_of_many_patients_is_moved_down_and_the_order_stays():
    raw, y, patients = sample(8, 200, 200)
    floored = np.where((raw < np.median(raw)) & (y == 0), -8.0, raw.clip(-7))
    platt = fit_calibration(floored, y, patients)
    assert platt.floor == pytest.approx(-8, abs=0.01) and platt.step >= 0
    assert (np.diff(platt.logit(np.sort(floored))) >= 0).all()
    assert fit_calibration(floored, y, patients, clipped=False).floor is None


def test_rows_without_predictions_get_the_prior():
    raw, y, patients = sample(9, 60, 60)
    with_nan = np.where(np.arange(len(raw)) % 7 == 0, np.nan, raw)
    known = ~np.isnan(with_nan)
    platt = fit_calibration(with_nan, y, patients)
    assert platt[:2] == fit_calibration(raw[known], y[known], patients[known])[:2]
    assert expit(platt.logit([np.nan])[0]) == pytest.approx((y.sum() + 1) / (len(y) + 2))
    assert fit_calibration(np.full(4, np.nan), np.r_[1.0, 0, 0, 0], np.arange(4)) == Platt(
        1.0, 0.0, pytest.approx(logit(2 / 6))
    )


def test_the_names_of_patients_and_the_order_of_rows_do_not_matter():
    raw, y, patients = sample(10, 20, 40, intercept=-3.0)
    order = np.random.default_rng(0).permutation(len(raw))
    named = np.array([f"p{number:03}" for number in patients], object)
    before = fit_calibration(raw, y, patients)
    assert fit_calibration(raw[order], y[order], named[order]) == pytest.approx(before, abs=1e-6)
