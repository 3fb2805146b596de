"""Study summaries and those of the patient's other studies, against slow loops and by hand."""

import warnings

import numpy as np
import pytest
from tiny_tables import random_table, slice_table

from features.study import OTHER_KINDS, STUDY_KINDS, other_study_features, study_features

NAN = np.nan


def slow_study(table, logits):
    """The study features, label by label in plain Python."""
    result = np.full((len(table), len(STUDY_KINDS) * logits.shape[1]), NAN)
    position = table["position_mm"].to_numpy()
    studies = list(zip(table["split"], table["study_id"], strict=True))
    for n, study in enumerate(studies):
        rows = [m for m, other in enumerate(studies) if other == study]
        for c in range(logits.shape[1]):
            known = [(float(logits[m, c]), m) for m in rows if not np.isnan(logits[m, c])]
            if not known:
                continue
            values = sorted((v for v, _ in known), reverse=True)
            mean = sum(values) / len(values)
            peak = next(m for v, m in known if v == values[0])
            own = position[
                (
                    table[["split", "study_id", "series_id"]]
                    == table[["split", "study_id", "series_id"]].iloc[peak]
                ).all(axis=1)
            ]
            height = (
                (position[peak] - own.min()) / (own.max() - own.min())
                if own.max() > own.min()
                else NAN
            )
            summaries = (
                values[0],
                mean,
                (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5,
                sum(values[:3]) / len(values[:3]),
                sum(v > 0 for v in values) / len(values),
                position[n] - position[peak],
                abs(position[n] - position[peak]),
                height,
            )
            result[n, c :: logits.shape[1]] = summaries
    return result


@pytest.mark.parametrize("seed", range(3))
def test_against_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    table = random_table(rng)
    logits = rng.normal(size=(len(table), 3)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.25] = NAN
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        columns, names = study_features(table, logits, ("a", "b", "c"))
    assert columns.dtype == np.float32
    assert names[:6] == [
        "a_study_max",
        "b_study_max",
        "c_study_max",
        "a_study_mean",
        "b_study_mean",
        "c_study_mean",
    ]
    assert names[6::3] == [
        "a_study_std",
        "a_study_top3",
        "a_study_share",
        "a_peak_mm",
        "a_peak_away_mm",
        "a_peak_rel",
    ]
    np.testing.assert_allclose(columns, slow_study(table, logits), rtol=1e-4, atol=1e-4)


def test_values_computed_by_hand():
    table = slice_table(("train", "a", [0, 5, 10, 12.5]), ("train", "b", [100, 105]))
    columns, names = study_features(table, np.float32([[-1], [4], [2], [0], [-9], [-7]]), ("any",))
    by_name = dict(zip(names, columns.T, strict=True))
    assert by_name["any_study_max"].tolist() == [4, 4, 4, 4, -7, -7]
    assert by_name["any_study_mean"].tolist() == [1.25] * 4 + [-8, -8]
    assert by_name["any_study_top3"].tolist() == [2, 2, 2, 2, -8, -8]
    assert by_name["any_study_std"][4] == 1.0
    assert by_name["any_peak_mm"].tolist() == [-5, 0, 5, 7.5, -5, 0]  # below its peak: negative
    assert by_name["any_peak_away_mm"].tolist() == [5, 0, 5, 7.5, 5, 0]
    assert by_name["any_peak_rel"].tolist() == pytest.approx([0.4] * 4 + [1, 1])
    # a logit of 0 is not above one half
    assert by_name["any_study_share"].tolist() == [0.5] * 4 + [0, 0]


def test_train_and_test_of_one_study_are_apart():
    table = slice_table(("train", "a", [0, 5]), ("test", "a", [0, 5]))
    columns, names = study_features(table, np.float32([[1], [2], [8], [9]]), ("any",))
    assert columns[:, names.index("any_study_max")].tolist() == [2, 2, 9, 9]


def test_a_study_without_any_logit_is_nan():
    table = slice_table(("train", "a", [0, 5]), ("train", "b", [0]))
    columns, _ = study_features(table, np.float32([[NAN, 1], [NAN, 2], [3, NAN]]), ("x", "y"))
    assert np.isnan(columns[:2, 0::2]).all() and not np.isnan(columns[:2, 1::2]).any()
    assert np.isnan(columns[2, 1::2]).all()
    assert columns[2, 0::2][:-1].tolist() == [3, 3, 0, 3, 1, 0, 0]
    assert np.isnan(columns[2, -2])  # a series of one slice has no height


def test_two_series_of_a_study_share_its_summaries():
    table = slice_table(
        ("train", "a", [0, 5]), ("train", "a", [50, 60, 70]), series_id=["R1"] * 2 + ["R2"] * 3
    )
    columns, names = study_features(table, np.float32([[1], [2], [3], [9], [4]]), ("any",))
    by_name = dict(zip(names, columns.T, strict=True))
    assert by_name["any_study_max"].tolist() == [9] * 5
    assert by_name["any_peak_mm"].tolist() == [-60, -55, -10, 0, 10]
    assert by_name["any_peak_rel"].tolist() == [0.5] * 5


def slow_others(table, logits):
    """The features of other studies, study by study in plain Python."""
    studies = list(zip(table["split"], table["patient_id"], table["study_id"], strict=True))
    best = {}
    for study in set(studies):
        for c in range(logits.shape[1]):
            rows = [
                m
                for m, other in enumerate(studies)
                if other == study and not np.isnan(logits[m, c])
            ]
            top = sorted((float(logits[m, c]) for m in rows), reverse=True)[:3]
            best[study, c] = (top[0], sum(top) / len(top)) if top else (NAN, NAN)
    result = np.full((len(table), 2 * logits.shape[1]), NAN)
    for n, (split, patient, study) in enumerate(studies):
        for c in range(logits.shape[1]):
            others = [
                v
                for (s, p, u), _ in zip(studies, studies, strict=True)
                if s == split and p == patient and u != study
                for v in [best[(s, p, u), c]]
                if not np.isnan(v[0])
            ]
            if others:
                result[n, c :: logits.shape[1]] = (
                    max(v[0] for v in others),
                    max(v[1] for v in others),
                )
    return result


@pytest.mark.parametrize("seed", range(3))
def test_other_studies_against_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    table = random_table(rng)
    patient = dict(zip(table["study_id"].unique(), rng.integers(0, 6, 12), strict=True))
    table["patient_id"] = table["study_id"].map(patient).map("P{}".format)
    table["split"] = table["study_id"].map(
        dict(zip(patient, rng.choice(["train", "test"], 12), strict=True))
    )
    logits = rng.normal(size=(len(table), 2)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.4] = NAN
    columns, names = other_study_features(table, logits, ("a", "b"))
    assert names == [f"{name}_{kind}" for kind in OTHER_KINDS for name in ("a", "b")]
    assert columns.dtype == np.float32
    expected = slow_others(table, logits)
    assert np.isnan(expected).any() and not np.isnan(expected).all()
    np.testing.assert_allclose(columns, expected, rtol=1e-5)


def test_a_patient_of_one_study_has_no_others():
    table = slice_table(("train", "a", [0, 5]), ("test", "a", [0, 5]), ("train", "b", [0]))
    assert np.isnan(other_study_features(table, np.ones((5, 1), np.float32), ("any",))[0]).all()
