"""Thresholds by hand, and their intervals on patients that they were not chosen on."""

import numpy as np
import pandas as pd
import pytest
from simulated_studies import simulated_slices

from ct.evaluation.operating_points import (
    POINTS,
    choose_threshold,
    operating_points,
    point_table,
    points_of_labels,
    reached_points,
    reached_rates,
)
from ct.labels import LABELS

FOLDS = 5


def test_thresholds_by_hand():
    y = np.array([0] * 10 + [1] * 10)
    p = np.concatenate([np.arange(10) / 20, np.arange(10) / 20 + 0.4])
    # nine of ten positives are at 0.45 and above
    assert choose_threshold(y, p, "sensitivity", 90) == p[11] == 0.45
    assert choose_threshold(y, p, "sensitivity", 95) == 0.4
    # nine of ten negatives are at 0.4 and below
    assert choose_threshold(y, p, "specificity", 90) == np.nextafter(0.4, 1)
    assert reached_rates(y, p, 0.45) == (0.9, 0.9)
    assert reached_rates(y, p, choose_threshold(y, p, "specificity", 95)) == (0.8, 1.0)


@pytest.mark.parametrize(("rate", "side"), [("sensitivity", 1), ("specificity", 0)])
def test_ties_never_cost_the_wanted_rate(rate, side):
    rng = np.random.default_rng(3)
    y, p = (rng.random(500) < 0.3).astype(int), rng.random(500).round(1)
    for percent in (90, 95):
        threshold = choose_threshold(y, p, rate, percent)
        assert reached_rates(y, p, threshold)[1 - side] >= percent / 100
        # and the next threshold, on the other side, misses it
        further = (
            np.unique(p)[np.unique(p) > threshold][:1] if side else np.unique(p[p < threshold])
        )
        missed = further[0] if side else further[-1]
        assert reached_rates(y, p, missed)[1 - side] < percent / 100


def test_rates_on_an_unseen_fold_lie_within_their_intervals():
    """On 20 made-up sets: 19 of 20 intervals of 95 % are expected to hold the rate, 18 are asked.

    The thresholds are chosen on all folds but the last one, the rates are measured there.
    """
    within = {(name, rate): 0 for name in POINTS for rate in (0, 1)}
    widths = {name: [] for name in POINTS}
    for seed in range(20):
        y, p, patient = simulated_slices(np.random.default_rng(seed))
        unseen = patient % FOLDS == FOLDS - 1
        points = operating_points(y[~unseen], p[~unseen], patient[~unseen], FOLDS - 1, seed)
        for name, point in points.items():
            reached = reached_rates(y[unseen], p[unseen], point["threshold"])
            for number, rate in enumerate(("sensitivity", "specificity")):
                low, high = point[rate]["low"], point[rate]["high"]
                within[name, number] += low <= reached[number] <= high
                assert low <= point[rate]["value"] <= high
            widths[name].append(point["sensitivity"]["high"] - point["sensitivity"]["low"])
    assert min(within[name, 0] for name in POINTS) >= 18, within
    assert min(within.values()) >= 17, within
    # the intervals are not simply wide: none holds more than a third of all rates
    assert max(map(np.mean, widths.values())) < 0.33
    assert np.mean(widths["sensitivity_95"]) < np.mean(widths["sensitivity_90"]) < 0.2


def test_an_interval_that_ignores_the_threshold_or_the_fold_is_narrower():
    y, p, patient = simulated_slices(np.random.default_rng(1))
    wide, narrow = (operating_points(y, p, patient, folds)["sensitivity_90"] for folds in (8, 1))
    assert wide["threshold"] == narrow["threshold"]
    width = [each["sensitivity"]["high"] - each["sensitivity"]["low"] for each in (wide, narrow)]
    assert width[0] > 1.5 * width[1]


def test_the_same_seed_gives_the_same_points():
    y, p, patient = simulated_slices(np.random.default_rng(2), patients=60)
    assert operating_points(y, p, patient, 3, 7) == operating_points(y, p, patient, 3, 7)
    assert operating_points(y, p, patient, 3, 7) != operating_points(y, p, patient, 3, 8)


def test_too_few_patients_of_a_class_give_none_and_the_reason():
    y = np.array([1.0] * 12 + [0.0] * 40)
    p, patient = np.linspace(1, 0, 52), np.arange(52)
    points = operating_points(y, p, patient, 4)
    assert points["sensitivity_95"] == {"why": "12 patients with positives, at least 20 are needed"}
    assert all(points[name]["threshold"] for name in POINTS if name != "sensitivity_95")
    few = operating_points(y, p, np.where(patient < 12, patient % 6, patient), 4)
    assert all(few[name]["why"].startswith("6 patients with positives") for name in POINTS)
    none = operating_points(np.zeros(52), p, patient, 4)
    assert none["specificity_90"]["why"].startswith("0 patients with positives")
    # positives and negatives that share the probability 1 cannot be told apart
    ones = operating_points(y, np.ones(52), patient, 4)
    assert ones["specificity_90"] == {"why": "negatives have the probability 1"}


def test_a_rate_of_one_is_not_certain():
    """Classes that a threshold separates: the exact interval, of as many patients as in a fold."""
    y = np.array([1.0] * 20 + [0.0] * 40)
    point = operating_points(y, np.linspace(1, 0, 60), np.arange(60), 4)["specificity_95"]
    assert (point["sensitivity"]["value"], point["sensitivity"]["high"]) == (1, 1)
    assert point["sensitivity"]["low"] == pytest.approx(0.05 ** (1 / 5))


def test_reached_points_and_their_table():
    p = np.tile(np.array([[0.2], [0.5], [np.nan]]), 6)
    table = pd.DataFrame(p, columns=list(LABELS), index=["a", "b", "c"])
    rates = {"value": 0.9, "low": 0.8, "high": 1.0}
    point = {"threshold": 0.5, "sensitivity": rates, "specificity": rates}
    points = {label: dict.fromkeys(POINTS, point) for label in LABELS}
    points["any"] = dict.fromkeys(POINTS, {"why": "too few"})
    reached = reached_points(table, points)
    assert reached["subdural_sensitivity_95"].fillna(-1).tolist() == [0, 1, -1]
    assert reached[[f"any_{name}" for name in POINTS]].isna().all(axis=None)
    sheet = point_table({"slices": points}).set_index(["label", "point"])
    assert len(sheet) == 24 and sheet.loc[("any", "specificity_90"), "why"] == "too few"
    row = sheet.loc[("subdural", "sensitivity_90")]
    assert (row["threshold"], row["sensitivity_low"], row["specificity"]) == (0.5, 0.8, 0.9)


def test_each_label_has_its_own_points():
    y, p, patient = simulated_slices(np.random.default_rng(4), patients=80)
    columns = np.column_stack([y] * 6), np.column_stack([p ** (j + 1) for j in range(6)])
    points = points_of_labels(*columns, patient, 4, 0)
    alone = operating_points(columns[0][:, 3], columns[1][:, 3], patient, 4, 0)
    assert points[LABELS[3]] == alone and points[LABELS[2]] != alone
