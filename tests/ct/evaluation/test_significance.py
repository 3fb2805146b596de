"""The lower end of a gain's interval: wider where few patients are positive."""

import numpy as np
import pytest
from scipy.stats import t

from ct.evaluation.significance import lower_end
from ct.metrics import patient_bootstrap


def gains(positive, patients=200, slices=5):
    """Return (gain, patients, y): gains around .1, and how many patients are positive."""
    of_row = np.repeat(np.arange(patients), slices)
    gain = np.random.default_rng(0).normal(0.1, 0.5, patients)[of_row]
    return gain, of_row, (of_row < positive).astype(float)


def test_without_labels_or_at_level_0_it_is_the_bootstrap():
    gain, patients, y = gains(3)
    for level in (0.95, 0.0):
        low = patient_bootstrap(gain, patients, seed=1, level=level)[0]
        assert lower_end(gain, patients, None, level, 1) == low
    assert lower_end(gain, patients, y, 0.0, 1) == low


def test_it_is_widened_by_students_t():
    gain, patients, y = gains(3)
    low, mean = patient_bootstrap(gain, patients, seed=1)[0], gain.mean()
    expected = mean - (mean - low) * t.ppf(0.975, 2) / 1.959964
    assert lower_end(gain, patients, y, 0.95, 1) == pytest.approx(expected, rel=1e-6)
    assert lower_end(gain, patients, 1 - y, 0.95, 1) == pytest.approx(expected, rel=1e-6)
    ends = [lower_end(*gains(count), 0.95, 1) for count in (2, 5, 20, 100)]
    assert ends == sorted(ends) and ends[-1] == pytest.approx(low, abs=0.002)


def test_one_positive_patient_proves_nothing():
    assert lower_end(*gains(1), 0.95, 0) == -np.inf


def test_the_best_of_many_is_widened_by_bonferroni():
    gain, patients, y = gains(30)
    low, mean = patient_bootstrap(gain, patients, seed=1)[0], gain.mean()
    expected = mean - (mean - low) * t.ppf(1 - 0.025 / 19, 29) / 1.959964
    assert lower_end(gain, patients, y, 0.95, 1, best_of=19) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="best_of = 19 needs y"):
        lower_end(gain, patients, None, 0.95, 1, best_of=19)


@pytest.mark.parametrize(("patients", "positive"), [(5, 3), (8, 4), (40, 5), (60, 30)])
@pytest.mark.parametrize("candidates", [1, 19])
def test_gains_that_are_noise_are_significant_as_often_as_the_level_claims(
    patients, positive, candidates
):
    """True gain 0, nearly all of the noise in positive patients; nominal are 2.5 %, one-sided."""
    rng, draws, of_row = np.random.default_rng(patients), 400, np.arange(patients)
    y, seen = (of_row < positive).astype(float), 0
    noise = np.where(y == 1, 1.0, 0.05)
    for seed in range(draws):
        gain = rng.normal(0, noise, (candidates, patients))
        best = gain[gain.mean(axis=1).argmax()]
        if best.mean() > 0:
            seen += lower_end(best, of_row, y, 0.95, seed, best_of=candidates) > 0
    assert seen / draws <= 0.025 + 2 * np.sqrt(0.025 / draws)  # its standard error
