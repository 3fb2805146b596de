"""Linear probes: against the textbook discriminant; cross-fitted over patients; read in batches."""

import numpy as np
import pytest
from scipy.special import logit
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from features import linear_probe as module
from features.linear_probe import (
    PARTS,
    Moments,
    cross_fit_probe,
    fit_probe,
    held_out_probe_logits,
    part_of_patient,
)

NAN = np.nan


@pytest.fixture
def case():
    """60 patients of 12 slices; label 0 shifts the embedding, 1 is noise, 2 is never positive."""
    rng = np.random.default_rng(0)
    n, d = 720, 10
    y = np.column_stack([rng.random(n) < 0.3, rng.random(n) < 0.1, np.zeros(n)]).astype(np.float64)
    x = 5 + rng.normal(size=(n, d)) @ (np.eye(d) + 0.1 * rng.normal(size=(d, d)))
    x += 0.8 * y[:, [0]] * rng.normal(size=d)
    return x.astype(np.float16), y, np.repeat([f"P{i}" for i in range(60)], 12)


def moments_of(x, y):
    moments = Moments.zeros(x.shape[1], y.shape[1])
    moments.add(x.astype(np.float32), y.astype(np.float32))
    return moments


def test_with_many_rows_the_probe_equals_the_discriminant_of_scikit_learn(case):
    # so many rows that the shrinkage is negligible
    x, y, _ = (np.tile(values, (400,) + (1,) * (values.ndim - 1)) for values in case)
    known = LinearDiscriminantAnalysis(solver="lsqr").fit(x.astype(np.float64), y[:, 0])
    probe = fit_probe(moments_of(x, y), np.zeros(10, np.float32))
    np.testing.assert_allclose(
        probe.logits(x[:700])[:, 0], known.decision_function(x[:700].astype(np.float64)), atol=0.01
    )


def test_shrinkage_by_hand(case):
    """The covariance within the classes, shrunk towards the identity by d / (d + n)."""
    x, y, _ = (values[:25] for values in case)
    x, n, d = x.astype(np.float64), 25, 10
    one, zero = x[y[:, 0] == 1], x[y[:, 0] == 0]
    within = (len(one) * np.cov(one.T, bias=True) + len(zero) * np.cov(zero.T, bias=True)) / n
    shrink = d / (d + n)
    total = np.cov(x.T, bias=True)
    weights = np.linalg.solve(
        (1 - shrink) * within + shrink * np.trace(total) / d * np.eye(d), one.mean(0) - zero.mean(0)
    )
    expected = (x - (one.mean(0) + zero.mean(0)) / 2) @ weights + logit((len(one) + 1) / (n + 2))
    centre = np.float32([5] * 10)
    np.testing.assert_allclose(
        fit_probe(moments_of(x - centre, y), centre).logits(x)[:, 0], expected, rtol=1e-3, atol=1e-3
    )


def test_the_logits_separate_a_real_signal_and_not_noise(case):
    logits, probe, _ = cross_fit_probe(*case)
    y = case[1]
    assert logits.shape == y.shape and logits.dtype == np.float32
    assert logits[y[:, 0] == 1, 0].mean() - logits[y[:, 0] == 0, 0].mean() > 2
    # noise, out of sample
    assert abs(logits[y[:, 1] == 1, 1].mean() - logits[y[:, 1] == 0, 1].mean()) < 0.3
    assert (logits[:, 2] < -5).all()  # without positives: the smoothed prior
    np.testing.assert_allclose(probe.logits(case[0])[:, 2], logit(1 / 722), rtol=1e-5)


@pytest.mark.parametrize("part", range(PARTS))
def test_labels_of_a_patient_never_reach_their_own_rows(case, part):
    x, y, patients = case
    own = part_of_patient(patients) == part
    before, *_ = cross_fit_probe(x, y, patients)
    after, *_ = cross_fit_probe(x, np.where(own[:, None], 1 - y, y), patients)
    np.testing.assert_array_equal(before[own], after[own])
    assert (before[~own] != after[~own]).all()  # the test would detect a leak


def test_new_rows_of_a_known_patient_get_the_probe_without_the_patients_part(case):
    x, y, patients = case
    logits, probe, parts = cross_fit_probe(x, y, patients)
    part = part_of_patient(patients)
    assert len(parts) == PARTS
    np.testing.assert_array_equal(held_out_probe_logits(probe, parts, x, part), logits)
    part[:100] = -1  # patients outside the fit
    logits_of_new = held_out_probe_logits(probe, parts, x, part)
    # matrix products of other shapes, so not bit-identical
    np.testing.assert_allclose(logits_of_new[:100], probe.logits(x[:100]), rtol=1e-5)
    np.testing.assert_allclose(logits_of_new[100:], logits[100:], rtol=1e-5)
    assert (logits_of_new[:100] != logits[:100]).all()


def test_embeddings_of_a_patient_never_reach_their_own_probe(case):
    """A row's logits change only with the row itself: its probe was fitted without the patient."""
    x, y, patients = case
    own = part_of_patient(patients) == 0
    changed = x.copy()
    changed[own & (patients != patients[own][0])] += 3
    first = patients == patients[own][0]
    before, after = cross_fit_probe(x, y, patients)[0], cross_fit_probe(changed, y, patients)[0]
    # another centre rounds differently
    np.testing.assert_allclose(after[first], before[first], rtol=1e-3, atol=2e-3)


def test_parts_hold_whole_patients_and_depend_on_names_alone(case):
    patients = case[2]
    part = part_of_patient(patients)
    assert np.bincount(part).tolist() == [144] * 5
    assert all(len(set(part[patients == patient])) == 1 for patient in set(patients))
    shuffled = np.random.default_rng(0).permutation(len(patients))
    np.testing.assert_array_equal(part_of_patient(patients[shuffled]), part[shuffled])


def test_unknown_rows_do_not_change_the_fit(case):
    x, y, patients = case
    x, y = x.copy(), y.copy()
    unreadable, unlabelled = np.arange(720) % 7 == 0, np.arange(720) % 11 == 0
    x[unreadable] = NAN
    y[unlabelled, 1] = NAN
    logits, *_ = cross_fit_probe(x, y, patients)
    np.testing.assert_array_equal(np.isnan(logits).all(axis=1), unreadable)
    assert not np.isnan(logits[~unreadable]).any()
    usable = ~unreadable & ~unlabelled
    other = cross_fit_probe(x[usable], y[usable], patients[usable])[0]
    np.testing.assert_allclose(logits[usable], other, rtol=1e-3, atol=1e-3)


def test_reading_in_batches_gives_the_same_logits(case, tmp_path, monkeypatch):
    x, y, patients = case
    whole, probe, _ = cross_fit_probe(x, y, patients)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(module, "BATCH_ROWS", 50)
    batched, other, _ = cross_fit_probe(np.load(tmp_path / "x.npy", mmap_mode="r"), y, patients)
    np.testing.assert_allclose(batched, whole, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(other.logits(x), probe.logits(x), rtol=1e-3, atol=2e-3)


def test_the_number_of_threads_makes_no_difference():
    """On two threads, the sums of a matrix product have other last bits."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 300)).astype(np.float16)
    y = (rng.random((3000, 6)) < 0.1).astype(np.float64)
    patients = np.repeat([f"P{i}" for i in range(100)], 30)

    def fit(threads):
        with threadpool_limits(threads, "blas"):
            logits, probe, parts = cross_fit_probe(x, y, patients)
            test_logits = held_out_probe_logits(probe, parts, x, np.full(len(x), -1))
        return logits, probe.weights, probe.intercept, test_logits

    for one, two in zip(fit(1), fit(2), strict=True):
        np.testing.assert_array_equal(one, two)


def test_more_dimensions_than_rows():
    rng = np.random.default_rng(1)
    y = (np.arange(40) % 4 == 0).astype(float)[:, None]
    x = (rng.normal(size=(40, 300)) + 0.4 * y).astype(np.float16)
    logits, *_ = cross_fit_probe(x, y, np.arange(40).astype(str))
    assert np.isfinite(logits).all() and roc_auc_score(y[:, 0], logits[:, 0]) > 0.9


def test_a_single_patient_and_no_rows_at_all():
    x, y = np.ones((4, 3), np.float16), np.array([[0], [1], [0], [1.0]])
    logits, probe, parts = cross_fit_probe(x, y, np.array(["P"] * 4))
    assert not parts
    assert (
        np.isnan(held_out_probe_logits(probe, parts, x, np.array([0, 0, -1, -1])))
        .all(axis=1)
        .tolist()
        == [True] * 2 + [False] * 2
    )
    assert np.isnan(logits).all() and np.isfinite(probe.logits(x)).all()
    logits, probe, _ = cross_fit_probe(x[:0], y[:0], np.array([], dtype=object))
    assert logits.shape == (0, 1) and np.isfinite(probe.logits(x)).all()
