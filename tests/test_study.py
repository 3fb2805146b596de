"""Study features against a slow loop, and by hand."""

import warnings

import numpy as np
import pytest
from tiny_tables import random_table, slice_table

from features.study import study_features

NAN = np.nan


def slow_study(table, logits):
    """The same label by label with plain Python."""
    kinds = 5
    result = np.full((len(table), kinds * logits.shape[1]), NAN)
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
            found = (
                values[0],
                mean,
                (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5,
                sum(values[:3]) / len(values[:3]),
                table["position_mm"].iloc[n] - table["position_mm"].iloc[peak],
            )
            result[n, c :: logits.shape[1]] = found
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
    assert names[:6] == ["a_study_max", "b_study_max", "c_study_max", "a_study_mean", "b_study_mean", "c_study_mean"]
    assert names[6::3] == ["a_study_std", "a_study_top3", "a_peak_mm"]
    np.testing.assert_allclose(columns, slow_study(table, logits), rtol=1e-4, atol=1e-4)


def test_by_hand():
    table = slice_table(("train", "a", [0, 5, 10, 12.5]), ("train", "b", [100, 105]))
    columns, names = study_features(table, np.float32([[-1], [4], [2], [0], [-9], [-7]]), ("any",))
    by_name = dict(zip(names, columns.T, strict=True))
    assert by_name["any_study_max"].tolist() == [4, 4, 4, 4, -7, -7]
    assert by_name["any_study_mean"].tolist() == [1.25] * 4 + [-8, -8]
    assert by_name["any_study_top3"].tolist() == [2, 2, 2, 2, -8, -8]
    assert by_name["any_study_std"][4] == 1.0
    assert by_name["any_peak_mm"].tolist() == [-5, 0, 5, 7.5, -5, 0]  # below its peak: negative


def test_train_and_test_of_one_study_are_apart():
    table = slice_table(("train", "a", [0, 5]), ("test", "a", [0, 5]))
    columns, names = study_features(table, np.float32([[1], [2], [8], [9]]), ("any",))
    assert columns[:, names.index("any_study_max")].tolist() == [2, 2, 9, 9]


def test_without_any_opinion():
    table = slice_table(("train", "a", [0, 5]), ("train", "b", [0]))
    columns, _ = study_features(table, np.float32([[NAN, 1], [NAN, 2], [3, NAN]]), ("x", "y"))
    assert np.isnan(columns[:2, 0::2]).all() and not np.isnan(columns[:2, 1::2]).any()
    assert np.isnan(columns[2, 1::2]).all() and columns[2, 0::2].tolist() == [3, 3, 0, 3, 0]
