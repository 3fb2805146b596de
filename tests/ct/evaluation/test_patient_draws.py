"""The bootstrap over patients against scikit-learn's weighted figures, and by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest
from simulated_studies import simulated_slices
from sklearn.metrics import roc_auc_score

from ct.evaluation import patient_draws
from ct.evaluation.patient_draws import draw_patients, drawn_aucs, interval_of, mean, rate
from ct.metrics import patient_bootstrap


@pytest.mark.parametrize("most_cells", [10, patient_draws.MOST_CELLS])
def test_aucs_of_draws_equal_scikit_learns(monkeypatch, most_cells):
    monkeypatch.setattr(patient_draws, "MOST_CELLS", most_cells)  # one draw at a time, or all
    y, p, patient = simulated_slices(np.random.default_rng(0), patients=60)
    p = p.round(1)  # many ties
    draws = draw_patients(patient, repeats=20)
    expected = [roc_auc_score(y, p, sample_weight=counts[draws.code]) for counts in draws.counts]
    np.testing.assert_allclose(drawn_aucs(y, p, draws), expected, rtol=1e-12)


def test_a_draw_of_one_class_has_no_auc():
    draws = draw_patients(np.arange(3), repeats=200)
    areas = drawn_aucs(np.array([1, 0, 0]), np.array([0.9, 0.1, 0.2]), draws)
    assert np.isnan(areas).any() and (areas[np.isfinite(areas)] == 1).all()
    assert interval_of(1.0, areas) == {"value": 1.0, "low": None, "high": None}
    assert interval_of(0.5, np.full(5, np.nan)) == {"value": 0.5, "low": None, "high": None}


def test_means_and_their_intervals_equal_those_of_the_metrics():
    values, patient = np.random.default_rng(1).normal(size=300), np.arange(300) // 7
    interval = mean(values, draw_patients(patient, seed=5))
    assert interval["value"] == values.mean()
    expected = patient_bootstrap(values, patient, seed=5)
    np.testing.assert_allclose([interval["low"], interval["high"]], expected, rtol=1e-12)


def test_figures_of_one_patient_and_means_that_never_differ_have_no_interval():
    one, two = (draw_patients(np.arange(6) % patients) for patients in (1, 2))
    assert mean(np.arange(6.0), one) == {"value": 2.5, "low": None, "high": None}
    assert mean(np.full(6, 0.1), two)["low"] is None
    everything, hit = np.ones(6, bool), np.arange(6) < 4
    assert rate(hit, everything, one) == {"value": 4 / 6, "low": None, "high": None}
    # two patients, but one alone has rows that count
    assert rate(hit, np.arange(6) % 2 == 0, two)["low"] is None


def test_a_rate_that_never_differs_has_the_exact_interval():
    """Against scipy's: one-sided of 0 and 1, of the number of patients and not of rows."""
    draws = draw_patients(np.arange(40) % 10)
    everything, nothing = np.ones(40, bool), np.zeros(40, bool)
    found = rate(everything, everything, draws)
    expected = binomtest(10, 10, alternative="greater").proportion_ci(0.95, "exact")
    assert (found["value"], found["high"]) == (1, 1)
    assert found["low"] == pytest.approx(expected.low) == pytest.approx(0.05**0.1)
    found = rate(nothing, everything, draws)
    assert (found["value"], found["low"]) == (0, 0)
    assert found["high"] == pytest.approx(1 - expected.low)
    found = rate(np.arange(40) < 20, everything, draws)  # half of each patient's rows
    expected = binomtest(5, 10).proportion_ci(0.95, "exact")
    assert [found["low"], found["high"]] == pytest.approx([expected.low, expected.high])


def test_a_rate_by_hand():
    among, hit = np.array([1, 1, 1, 1, 0], bool), np.array([1, 1, 1, 0, 1], bool)
    found = rate(hit, among, draw_patients(np.arange(5)))
    assert found["value"] == 0.75 and found["low"] < 0.75 < found["high"] == 1
    assert rate(hit, np.zeros(5, bool), draw_patients(np.arange(5))) is None


def test_whole_patients_are_drawn_and_as_many_as_asked():
    draws = draw_patients(["b", "a", "b", "c"], size=2, repeats=50)
    assert draws.code.tolist() == [1, 0, 1, 2] and (draws.counts.sum(axis=1) == 2).all()
    np.testing.assert_array_equal(draws.sums([1, 0, 1, 0]), 2 * draws.counts[:, 1])
