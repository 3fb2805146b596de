"""Metrics against scikit-learn and hand-computed values; the bootstrap against slow loops."""

import numpy as np
import pytest
from sklearn import metrics as sk

from ct.labels import LABELS, WEIGHTS
from ct.metrics import (
    auc,
    gain_table,
    log_loss,
    patient_bootstrap,
    reliability,
    score_table,
    weighted_log_loss,
)


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    y = (rng.random((200, 6)) < 0.2).astype(float)
    return (
        y,
        np.clip(0.2 + 0.3 * y + rng.normal(0, 0.1, y.shape), 0.001, 0.999),
        rng.integers(0, 30, 200),
    )


def test_log_loss_of_known_values():
    assert log_loss([1, 0, 1, 0], [0.5, 0.5, 0.25, 0.25]) == pytest.approx(
        [np.log(2), np.log(2), np.log(4), np.log(4 / 3)]
    )


def test_log_loss_is_clipped_as_kaggle_does():
    worst = -np.log(1e-15)
    assert log_loss([1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]) == pytest.approx(
        [worst, worst, 0, 0], rel=1e-3, abs=1e-14
    )
    assert worst == pytest.approx(34.54, abs=0.01)


def test_log_loss_against_scikit_learn(case):
    y, p, _ = case
    for j in range(6):
        assert log_loss(y[:, j], p[:, j]).mean() == pytest.approx(
            sk.log_loss(y[:, j], p[:, j]), abs=1e-12
        )


def test_weights_any_counts_double(case):
    y, p, _ = case
    each = [sk.log_loss(y[:, j], p[:, j]) for j in range(6)]
    assert weighted_log_loss(y, p) == pytest.approx(
        np.average(each, weights=[2, 1, 1, 1, 1, 1]), abs=1e-12
    )
    y0, half = np.zeros((1, 6)), np.full((1, 6), 1e-15)
    half[0, LABELS.index("any")] = 0.5
    assert weighted_log_loss(y0, half) == pytest.approx(2 * np.log(2) / 7)
    half[0] = np.roll(half[0], 1)
    assert weighted_log_loss(y0, half) == pytest.approx(np.log(2) / 7)


@pytest.mark.parametrize(
    "score", [log_loss, weighted_log_loss, lambda y, p: score_table(y, p, np.arange(200))]
)
def test_nan_is_refused(case, score):
    y, p, _ = case
    for spoiled in (0, 1):
        values = [y.copy(), p.copy()]
        values[spoiled][17, 3] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            score(*values)


def test_auc_refuses_nan_too(case):
    y, p, _ = case
    for spoiled in (0, 1):
        values = [y[:, 0].copy(), p[:, 0].copy()]
        values[spoiled][5] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            auc(*values)


@pytest.mark.parametrize("value", [-0.01, 1.01, np.inf, -np.inf])
def test_values_outside_0_to_1_are_refused(value):
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        log_loss([0, 1], [0.5, value])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        log_loss(np.zeros((4, 6)), np.full((4, 1), 0.5))


def test_auc(case):
    y, p, _ = case
    assert auc(y[:, 0], p[:, 0]) == pytest.approx(sk.roc_auc_score(y[:, 0], p[:, 0]))
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert auc([0, 1], [0.2, 0.2]) == 0.5
    assert auc([0, 0], [0.1, 0.2]) is None
    assert auc([1, 1], [0.1, 0.2]) is None


def test_reliability_by_hand():
    p = np.array([0.9, 0.1, 0.2, 0.8])
    y = np.array([1, 0, 1, 1])
    mean, positive, count = reliability(y, p, bins=2)
    assert mean == pytest.approx([0.15, 0.85])
    assert positive.tolist() == [0.5, 1.0]
    assert count.tolist() == [2, 2]
    mean, positive, count = reliability(y, p, bins=9)
    assert mean.tolist() == [0.1, 0.2, 0.8, 0.9]
    assert positive.tolist() == [0, 1, 1, 1]
    assert count.sum() == 4


def slow_bootstrap(values, patients, repeats, seed):
    """Bootstrap with loops: draw patients, gather all of their slices, take the mean."""
    names = sorted(set(patients))
    draws = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=repeats
    )
    means = []
    for draw in draws:
        rows = [
            v
            for times, name in zip(draw, names, strict=True)
            for v in values[patients == name].repeat(times)
        ]
        means.append(np.mean(rows))
    return np.quantile(means, [0.025, 0.975])


def test_bootstrap_against_a_slow_loop():
    rng = np.random.default_rng(1)
    patients = np.array([f"P{n}" for n in rng.integers(0, 12, 100)], dtype=object)
    values = rng.normal(size=100)
    assert patient_bootstrap(values, patients, repeats=200, seed=5) == pytest.approx(
        slow_bootstrap(values, patients, 200, 5)
    )


def test_bootstrap_of_two_patients_by_hand():
    """The ends of the interval are the means of the two patients.

    {A, A}, {A, B} and {B, B} are drawn with the probabilities 1/4, 1/2 and 1/4.
    """
    values, patients = np.array([1.0, 1.0, 1.0, 5.0]), np.array(["A", "A", "A", "B"])
    assert patient_bootstrap(values, patients) == (1.0, 5.0)
    low, high = patient_bootstrap(values, patients, repeats=4000)
    assert (low, high) == (1.0, 5.0)
    low, high = patient_bootstrap(np.column_stack([values, -values]), patients)
    assert low.tolist() == [1.0, -5.0] and high.tolist() == [5.0, -1.0]


def test_bootstrap_draws_patients_not_slices():
    """The slices of a patient are equal: their number must not make the interval narrow."""
    rng = np.random.default_rng(2)
    per_patient = rng.normal(size=25)
    narrow = np.subtract(*patient_bootstrap(per_patient.repeat(40), np.arange(1000))[::-1])
    wide = np.subtract(*patient_bootstrap(per_patient.repeat(40), np.arange(25).repeat(40))[::-1])
    assert wide == pytest.approx(2 * 1.96 * per_patient.std() / 5, rel=0.15)
    assert wide > 4 * narrow


def test_bootstrap_is_deterministic_and_widens_with_the_level():
    values, patients = np.random.default_rng(3).normal(size=60), np.arange(60) // 3
    assert patient_bootstrap(values, patients, seed=1) == patient_bootstrap(
        values, patients, seed=1
    )
    assert patient_bootstrap(values, patients, seed=1) != patient_bootstrap(
        values, patients, seed=2
    )
    low, high = patient_bootstrap(values, patients)
    inner = patient_bootstrap(values, patients, level=0.5)
    assert low < inner[0] < values.mean() < inner[1] < high


def test_score_table(case):
    y, p, patients = case
    y[:, 4] = 0
    table = score_table(y, p, patients, seed=3)
    assert list(table) == ["weighted", *LABELS]
    assert table["weighted"]["loss"] == pytest.approx(weighted_log_loss(y, p))
    losses = {
        "weighted": log_loss(y, p) @ WEIGHTS,
        **dict(zip(LABELS, log_loss(y, p).T, strict=True)),
    }
    for name, loss in losses.items():
        row = table[name]
        assert (row["low"], row["high"]) == pytest.approx(patient_bootstrap(loss, patients, seed=3))
        assert row["low"] < row["loss"] < row["high"]
    for j, label in enumerate(LABELS):
        assert table[label]["loss"] == pytest.approx(sk.log_loss(y[:, j], p[:, j], labels=[0, 1]))
        assert table[label]["positives"] == y[:, j].sum()
        if label == "subarachnoid":
            assert table[label]["auc"] is None
        else:
            assert table[label]["auc"] == pytest.approx(sk.roc_auc_score(y[:, j], p[:, j]))


def test_gain_is_positive_where_after_is_better(case):
    y, p, patients = case
    better = np.where(y == 1, np.maximum(p, 0.9), np.minimum(p, 0.05))
    gain = gain_table(y, p, better, patients)
    assert gain["weighted"]["gain"] == pytest.approx(
        weighted_log_loss(y, p) - weighted_log_loss(y, better)
    )
    assert all(
        0 < gain[n]["low"] < gain[n]["gain"] < gain[n]["high"] for n in ("weighted", *LABELS)
    )
    back = gain_table(y, better, p, patients)
    assert back["any"]["gain"] == pytest.approx(-gain["any"]["gain"]) and back["any"]["high"] < 0
    assert gain_table(y, p, p, patients)["weighted"] == {"gain": 0.0, "low": 0.0, "high": 0.0}


def test_scores_and_gains_of_one_patient_have_no_interval(case):
    y, p, _ = case
    for table, name in (
        (score_table(y, p, ["a"] * 200), "loss"),
        (gain_table(y, p, p * 0.5, ["a"] * 200), "gain"),
    ):
        assert all(row["low"] is None and row["high"] is None for row in table.values())
        assert all(np.isfinite(row[name]) for row in table.values())
