"""The bootstrap over patients against scikit-learn's weighted figures, and by hand."""

import numpy as np
import pytest
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
    assert interval_of(1.0, areas) == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_means_and_their_intervals_equal_those_of_the_metrics():
    values, patient = np.random.default_rng(1).normal(size=300), np.arange(300) // 7
    interval = mean(values, draw_patients(patient, seed=5))
    assert interval["value"] == values.mean()
    expected = patient_bootstrap(values, patient, seed=5)
    np.testing.assert_allclose([interval["low"], interval["high"]], expected, rtol=1e-12)


def test_a_rate_by_hand():
    among, hit = np.array([1, 1, 1, 1, 0], bool), np.array([1, 1, 1, 0, 1], bool)
    found = rate(hit, among, draw_patients(np.arange(5)))
    assert found["value"] == 0.75 and found["low"] < 0.75 < found["high"] == 1
    assert rate(hit, np.zeros(5, bool), draw_patients(np.arange(5))) is None


def test_whole_patients_are_drawn_and_as_many_as_asked():
    draws = draw_patients(["b", "a", "b", "c"], size=2, repeats=50)
    assert draws.code.tolist() == [1, 0, 1, 2] and (draws.counts.sum(axis=1) == 2).all()
    np.testing.assert_array_equal(draws.sums([1, 0, 1, 0]), 2 * draws.counts[:, 1])
