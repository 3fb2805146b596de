"""Whole studies: the three largest logits, and a calibration that is fitted without the patient."""

import numpy as np
import pytest
from scipy.special import expit, logit

from ct.labels import LABELS
from stage2_stack.calibration import fit_platt
from stage2_stack.patient_calibration import fit_calibration
from stage2_stack.study_level import fit_studies, study_probabilities, top_logits

CLIP = 1e-5


def example_studies(seed=0, studies=60, slices=5):
    """Slices of some studies, two a patient, whose logits rise where the study is positive."""
    rng = np.random.default_rng(seed)
    positive = rng.random((studies, 6)) < 0.4
    y = np.repeat(positive, slices, axis=0) * (rng.random((studies * slices, 6)) < 0.5)
    study = np.repeat([f"s{i:02}" for i in range(studies)], slices)
    fold = np.repeat(np.arange(studies) // 2 % 3, slices)
    return study, expit(rng.normal(size=y.shape) + 2 * y - 1), y.astype(float), fold


def test_the_mean_of_the_three_largest_by_hand():
    p = np.tile(expit(np.array([[1.0], [5.0], [-2.0], [3.0], [0.5], [7.0]])), (1, 6))
    table = top_logits(["b", "b", "b", "b", "a", "a"], p, CLIP)
    assert list(table.index) == ["a", "b"]
    np.testing.assert_allclose(table["any"], [(0.5 + 7) / 2, (1 + 5 + 3) / 3])
    edge = top_logits(["a", "a"], np.array([[0.0] * 6, [1.0] * 6]), CLIP)  # legal, and finite
    np.testing.assert_allclose(edge, 0, atol=1e-9)


def test_calibrations_of_all_studies_and_scores_by_those_of_the_other_folds():
    study, p, y, fold = example_studies()
    platts, table = fit_studies(study, p, y, fold, CLIP)
    raw = top_logits(study, p, CLIP)
    truth = y.reshape(60, 5, 6).max(axis=1)
    np.testing.assert_array_equal(table[list(LABELS)], truth)
    held = table["fold"] == 1
    for j, label in enumerate(LABELS):
        assert platts[label] == fit_platt(raw[label].to_numpy(), truth[:, j])
        other = fit_platt(raw[label][~held].to_numpy(), truth[~held, j])
        np.testing.assert_allclose(
            table.loc[held, f"p_{label}"], expit(other.logit(raw[label][held]))
        )


def test_a_label_without_positives_keeps_the_logits_of_slices_and_of_studies():
    study, p, y, fold = example_studies()
    p[:, 1], y[:, 1] = expit(logit(p[:, 1]) - 9), 0.0
    patients = np.char.add("p", study)
    platts, table = fit_studies(study, p, y, fold, CLIP, clipped=False, patients=patients)
    raw = top_logits(study, p, CLIP)
    np.testing.assert_array_equal(platts["epidural"].logit(raw["epidural"]), raw["epidural"])
    np.testing.assert_array_equal(table["p_epidural"], expit(raw["epidural"]))
    of_slices = fit_calibration(logit(p[:, 1]), y[:, 1], patients, clipped=False)
    assert of_slices[:2] == platts["epidural"][:2] == (1.0, 0.0)
    assert study_probabilities(study, p, platts, CLIP)["epidural"].max() < 0.05


def test_studies_are_calibrated_by_patient_as_slices_are():
    study, p, y, fold = example_studies()
    patients = np.repeat(np.arange(30), 10)  # of two studies each
    platts, table = fit_studies(study, p, y, fold, CLIP, patients=patients)
    raw, truth = top_logits(study, p, CLIP), y.reshape(60, 5, 6).max(axis=1)
    of_study, held = patients[::5], table["fold"].to_numpy() == 1
    for j, label in enumerate(LABELS):
        x = raw[label].to_numpy()
        assert platts[label] == fit_calibration(x, truth[:, j], of_study)
        other = fit_calibration(x[~held], truth[~held, j], of_study[~held])
        np.testing.assert_allclose(table.loc[held, f"p_{label}"], expit(other.logit(x[held])))


def test_labels_of_a_fold_do_not_reach_its_own_studies():
    study, p, y, fold = example_studies()
    _, before = fit_studies(study, p, y, fold, CLIP)
    _, after = fit_studies(study, p, np.where(fold[:, None] == 1, 1 - y, y), fold, CLIP)
    own = before["fold"] == 1
    columns = [f"p_{label}" for label in LABELS]
    np.testing.assert_array_equal(before.loc[own, columns], after.loc[own, columns])
    assert (before.loc[~own, columns] != after.loc[~own, columns]).all(axis=None)


def test_a_study_with_an_unlabelled_slice_is_left_out():
    """It may bleed there, so that it is no negative study."""
    study, p, y, fold = example_studies()
    y[study == "s07"], y[3, 2] = np.nan, np.nan
    platts, table = fit_studies(study, p, y, fold, CLIP)
    kept = ~np.isin(study, ["s00", "s07"])
    alone, expected = fit_studies(study[kept], p[kept], y[kept], fold[kept], CLIP)
    assert platts == alone and len(table) == 58
    np.testing.assert_array_equal(table, expected)


def test_where_no_study_is_labelled_as_a_whole_their_labelled_slices_count():
    study, p, y, fold = example_studies()
    y[::5, 0] = np.nan
    _, table = fit_studies(study, p, y, fold, CLIP)
    assert len(table) == 60
    np.testing.assert_array_equal(table["any"], y[:, 0].reshape(60, 5)[:, 1:].max(axis=1))


def test_a_new_study_gets_its_calibrated_probability():
    study, p, y, fold = example_studies()
    platts, _ = fit_studies(study, p, y, fold, CLIP)
    table = study_probabilities(["x"] * 4, p[:4], platts, CLIP)
    top = np.sort(logit(p[:4, 5]))[1:].mean()
    assert table.loc["x", "subdural"] == pytest.approx(expit(platts["subdural"].logit(top)))
