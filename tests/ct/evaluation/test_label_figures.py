"""The figures of an evaluation against scikit-learn's."""

import numpy as np
import pandas as pd
import pytest
from simulated_studies import simulated_slices
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, log_loss, roc_auc_score

from ct.evaluation.calibration_line import calibration_line
from ct.evaluation.label_figures import (
    Evaluated,
    auc_interval,
    figure_table,
    figures,
    group_table,
)
from ct.evaluation.operating_points import POINTS
from ct.evaluation.patient_draws import draw_patients
from ct.labels import LABELS


def evaluated(patients=60, groups=None):
    """Slices whose six labels have the same truth, and probabilities that get worse."""
    y, p, patient = simulated_slices(np.random.default_rng(0), patients)
    rng, columns = np.random.default_rng(1), list(LABELS)
    probs = np.column_stack([(1 - j / 8) * p + j / 8 * rng.random(len(p)) for j in range(6)])
    truth = pd.DataFrame(np.column_stack([y] * 6), columns=columns)
    groups = pd.DataFrame(index=truth.index) if groups is None else groups(truth.index)
    return Evaluated(truth, pd.DataFrame(probs, columns=columns), patient.astype(object), groups)


@pytest.fixture(scope="module")
def result():
    rates = {"value": 0.5, "low": 0.4, "high": 0.6}
    point = {"threshold": 0.3, "sensitivity": rates, "specificity": rates}
    points = {label: dict.fromkeys(POINTS, {"why": "too few"}) for label in LABELS}
    points["epidural"]["sensitivity_90"] = point
    return figures(evaluated(), points)


def test_auc_log_loss_and_counts_equal_scikit_learns(result):
    data, weights = evaluated(), [2, 1, 1, 1, 1, 1]
    losses = []
    for label in LABELS:
        y, p = data.truth[label].to_numpy(), data.probs[label].to_numpy()
        values = result["labels"][label]
        assert values["auc"]["value"] == pytest.approx(roc_auc_score(y, p), abs=1e-12)
        assert values["auc"]["low"] < values["auc"]["value"] < values["auc"]["high"]
        losses.append(log_loss(y, p))
        assert values["log_loss"]["value"] == pytest.approx(losses[-1], abs=1e-12)
        points = values["operating_points"]
        assert set(points) == {"half"} | ({"sensitivity_90"} if label == "epidural" else set())
        for point in points.values():
            tn, fp, fn, tp = confusion_matrix(y, p >= point["threshold"]).ravel()
            assert (point["true_positives"], point["false_positives"]) == (tp, fp)
            assert (point["true_negatives"], point["false_negatives"]) == (tn, fn)
            assert point["sensitivity"]["value"] == tp / (tp + fn)
            assert point["specificity"]["value"] == tn / (tn + fp)
    mean = np.average(losses, weights=weights)
    assert result["weighted_log_loss"]["value"] == pytest.approx(mean, abs=1e-12)
    assert (result["rows"], result["patients"]) == (480, 60)


def test_the_line_of_calibration_equals_an_unpenalized_logistic_regression(result):
    data = evaluated()
    for label in LABELS:
        y, p = data.truth[label].to_numpy(), data.probs[label].to_numpy()
        model = LogisticRegression(C=np.inf, tol=1e-10).fit(np.log(p / (1 - p))[:, None], y)
        line = result["labels"][label]["calibration"]
        assert line["slope"] == pytest.approx(model.coef_[0, 0], abs=1e-5)
        assert line["intercept"] == pytest.approx(model.intercept_[0], abs=1e-5)


def test_bins_equal_scikit_learns_of_equal_counts(result):
    data = evaluated()
    y, p = data.truth["any"].to_numpy(), data.probs["any"].to_numpy()
    observed, expected = calibration_curve(y, p, n_bins=10, strategy="quantile")
    bins = result["labels"]["any"]["calibration"]["bins"]
    np.testing.assert_allclose([each["observed"] for each in bins], observed, atol=1e-12)
    np.testing.assert_allclose([each["expected"] for each in bins], expected, atol=1e-12)
    assert sum(each["count"] for each in bins) == 480


def test_a_line_that_does_not_exist_is_none():
    y = np.array([0, 0, 1, 1])
    assert calibration_line(y, np.array([0.1, 0.2, 0.3, 0.4])) is None  # separated
    assert calibration_line(y, np.array([0.4, 0.3, 0.2, 0.1])) is None
    assert calibration_line(y, np.full(4, 0.3)) is None
    assert calibration_line(np.ones(4), np.array([0.1, 0.2, 0.3, 0.4])) is None
    slope, intercept = calibration_line(np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4]))
    assert slope > 0 and np.isfinite(intercept)


def test_calibrated_probabilities_have_the_slope_1_and_extreme_ones_a_smaller_one():
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 1.5, 20000)
    y = (rng.random(20000) < 1 / (1 + np.exp(-logits))).astype(float)
    slope, intercept = calibration_line(y, 1 / (1 + np.exp(-logits)))
    assert slope == pytest.approx(1, abs=0.05) and intercept == pytest.approx(0, abs=0.05)
    slope, intercept = calibration_line(y, 1 / (1 + np.exp(-2 * logits - 1)))
    assert slope == pytest.approx(0.5, abs=0.03) and intercept == pytest.approx(-0.5, abs=0.05)


def test_a_label_of_one_class_has_no_auc_and_no_sensitivity():
    data = evaluated(patients=8)
    nothing = data._replace(truth=data.truth * 0)
    values = figures(nothing, None)["labels"]["any"]
    assert values["auc"] is None and values["calibration"]["slope"] is None
    assert values["operating_points"]["half"]["sensitivity"] is None
    assert values["operating_points"]["half"]["specificity"]["value"] > 0
    assert figure_table(figures(nothing, None))["auc"].isna().all()


@pytest.mark.parametrize("positive", [[1, 0, 0, 0], [1, 1, 1, 0]])
def test_the_auc_of_one_patient_of_a_class_has_no_interval(positive):
    """Its value is by hand; with a second such patient, who has a worse one, it has an interval."""
    patient, p = np.arange(8) // 2, np.array([0.9, 0.8, 0.2, 0.6, 0.3, 0.5, 0.4, 0.7])
    y = np.repeat(positive, 2)
    value = roc_auc_score(y, p)
    draws = draw_patients(patient)
    assert auc_interval(y, p, draws) == {"value": value, "low": None, "high": None}
    y[-1] = 1 - y[-1]
    y[2] = 1 - y[2]
    found = auc_interval(y, p, draws)
    assert found["low"] < found["value"] < found["high"]
    apart = auc_interval(np.array([1, 1, 0, 0]), p[[0, 1, 2, 6]], draw_patients(np.arange(4)))
    assert apart == {"value": 1.0, "low": None, "high": None}


def test_a_group_of_one_patient_has_figures_without_intervals():
    data = evaluated(patients=2)
    groups = pd.DataFrame({"spacing": np.where(data.patients == 0, "thin", "thick")})
    table = group_table(data._replace(groups=groups))
    assert (table["patients"] == 1).all() and table["log_loss"].notna().all()
    assert table[["auc_low", "auc_high", "log_loss_low", "log_loss_high"]].isna().all(axis=None)


def test_groups_are_measured_alone():
    def halves(index):
        return pd.DataFrame({"spacing": np.where(index < 240, "thin", "thick")}, index=index)

    data = evaluated(groups=halves)
    table = group_table(data).set_index(["by", "group", "label"])
    assert len(table) == 12
    thin = table.loc[("spacing", "thin", "subdural")]
    y, p = data.truth["subdural"][:240], data.probs["subdural"][:240]
    assert thin["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert thin["log_loss"] == pytest.approx(log_loss(y, p), abs=1e-12)
    assert (thin["rows"], thin["patients"], thin["positives"]) == (240, 30, y.sum())
