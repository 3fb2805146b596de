"""Nested predictions: by models that are fitted without the row's own fold and the outer one."""

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from stage2_stack.config import StackConfig
from stage2_stack.learners import nested_fit
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.learners.lightgbm_booster import LightGBM
from stage2_stack.learners.model_input import TabularInput
from stage2_stack.learners.nested_fit import FitSettings, fit_nested
from stage2_stack.nested_cv import (
    NestedFolds,
    feature_predictions,
    inner_folds,
    why_not_stacked,
)

PARAMS = {"learning_rate": 0.2, "num_leaves": 4, "min_data_in_leaf": 5}
ALL = np.arange(3)


def case(k_folds=4, n=480, seed=0):
    """Rows whose second feature adds to their logit; every seventh row is unlabelled."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(float)
    X = rng.normal(size=(n, 3)).astype(np.float32)
    X[:, 0] += y
    X[:, 1] += 2 * y
    patients = np.repeat(np.arange(n // 4), 4)
    fold = np.random.default_rng(1).integers(0, k_folds, n // 4)[patients]
    return X, np.where(np.arange(n) % 7 == 0, np.nan, y), fold, patients


def nested_folds(y, fold, patients):
    return NestedFolds(fold, ~np.isnan(y), patients, np.nan_to_num(y), fold.max() + 1, 0)


def boosted(X, y, fold, patients, rounds=8, settings=None, **config):
    """The FittedComponent of a booster that starts from the first feature."""
    folds = nested_folds(y, fold, patients)
    features = BinnedFeatures(X, ["a", "b", "c"])
    source = TabularInput(features, ALL, X[:, :1].T, y[None], LightGBM())
    settings = settings or [FitSettings(PARAMS, rounds)] * folds.k_folds
    config = StackConfig(max_rounds=12, **config)
    (fitted,) = fit_nested(folds, [source] * folds.k_folds, settings, config, 0)
    return fitted


def test_a_model_without_two_folds_serves_both():
    _, y, fold, patients = case()
    folds = nested_folds(y, fold, patients)
    splits = folds.inner_splits([("same",)] * 4)
    assert len(splits) == 6 and len(folds.inner_splits(["a", "a", "b", "c"])) == 1 + 2 * 5
    assert len(folds.inner_splits(["a", None, "a", "a"])) == 3 + 3
    assert folds.inner_splits([None] * 4) == []
    for split in splits:
        j, k = split.predict
        assert set(fold[split.fit]) == set(range(4)) - {j, k} and not np.isnan(y[split.fit]).any()
        np.testing.assert_array_equal(split.predict[k], np.flatnonzero(fold == j))
        np.testing.assert_array_equal(split.predict[j], np.flatnonzero(fold == k))
    for k in range(4):
        rows = np.concatenate([split.predict[k] for split in splits if k in split.predict])
        np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(fold != k))
        outer = folds.outer_split(k)
        np.testing.assert_array_equal(outer.fit, np.flatnonzero((fold != k) & ~np.isnan(y)))
        np.testing.assert_array_equal(outer.predict[k], np.flatnonzero(fold == k))


def test_two_outer_folds_have_inner_ones_by_patient():
    _, y, fold, patients = case(k_folds=2)
    splits = nested_folds(y, fold, patients).inner_splits(["same", "same"])
    assert len(splits) == 6
    for split in splits:
        ((k, rows),) = split.predict.items()
        assert (fold[split.fit] != k).all() and (fold[rows] != k).all()
        assert not {*patients[split.fit]} & {*patients[rows]}


def test_models_never_predict_folds_and_patients_that_they_are_fitted_on(monkeypatch):
    """The rows of each Dataset are noted, and those of each prediction."""
    X, y, fold, patients = case()
    fitted, training_data, predict = {}, TabularInput.training_data, TabularInput.predict

    def note_data(source, platts, rows):
        data = training_data(source, platts, rows)
        fitted[id(platts)] = rows, platts
        return data

    def note_predictions(source, models, platts, rows, rounds=None):
        fit = fitted[id(platts)][0]
        assert not {*fold[fit]} & {*fold[rows]} and not {*patients[fit]} & {*patients[rows]}
        predicted.append((len({*fold[fit]}), len(rows)))
        return predict(source, models, platts, rows, rounds)

    predicted = []
    monkeypatch.setattr(TabularInput, "training_data", note_data)
    monkeypatch.setattr(TabularInput, "predict", note_predictions)
    boosted(X, y, fold, patients)
    assert [folds for folds, _ in predicted] == [2] * 12 + [3] * 4
    assert sum(rows for folds, rows in predicted if folds == 2) == 3 * len(y)
    assert sum(rows for folds, rows in predicted if folds == 3) == len(y)


def test_a_factor_multiplies_the_rounds_of_nested_and_final_models():
    """Rounds that are searched for are those best without it, among as many as are tried then."""
    X, y, fold, patients = case()
    longer = boosted(X, y, fold, patients, settings=[FitSettings(PARAMS, 6, factor=2.5)] * 4)
    expected = boosted(X, y, fold, patients, rounds=15)
    assert set(longer.rounds.values()) == {15} and longer.files == expected.files
    for of_both in zip(longer.predictions, expected.predictions, strict=True):
        np.testing.assert_array_equal(*of_both)
    searched = boosted(X, y, fold, patients, settings=[FitSettings(PARAMS)] * 4)
    doubled = boosted(X, y, fold, patients, settings=[FitSettings(PARAMS, factor=2)] * 4)
    assert doubled.rounds == {k: 2 * rounds for k, rounds in searched.rounds.items()}


@pytest.mark.parametrize("rounds", [8, None])
def test_models_that_are_fitted_side_by_side_are_those_of_one_after_the_other(rounds, monkeypatch):
    one, many = [], []
    for values, count in ((one, 1), (many, 3)):
        monkeypatch.setattr(nested_fit, "cores", lambda count=count: count)
        fitted = boosted(*case(), rounds, seeds=2)
        values += [fitted.rounds, *fitted.predictions]
        values += [*fitted.gain.values(), *fitted.contributions.values()]
        values += [raw for files in fitted.files.values() for raw in files]
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rounds", [8, None])
@pytest.mark.parametrize("k", [0, 2])
def test_labels_of_a_fold_reach_nothing_that_is_decided_for_it(rounds, k):
    X, y, fold, patients = case()
    one = boosted(X, y, fold, patients, rounds)
    two = boosted(X, np.where(fold == k, 1 - y, y), fold, patients, rounds)
    assert one.rounds[k] == two.rounds[k]
    a, b = one.predictions, two.predictions
    np.testing.assert_array_equal(a.nested[k], b.nested[k])
    np.testing.assert_array_equal(a.oof[fold == k], b.oof[fold == k])
    assert one.files[k] == two.files[k]  # and so the test slices' predictions
    other = (k + 1) % 4
    assert one.files[other] != two.files[other]
    assert (a.oof[fold == other] != b.oof[fold == other]).mean() > 0.9  # a leak would show here
    apart = a.nested[other] != b.nested[other]
    assert apart[(fold != k) & (fold != other)].mean() > 0.9
    if rounds:  # a row's own fold's labels reach it only through the number of rounds
        assert not apart[fold == k].any()


def test_it_learns_and_predicts_nothing_for_the_outer_fold_itself():
    X, y, fold, patients = case()
    fitted = boosted(X, y, fold, patients, None)
    predictions, known = fitted.predictions, ~np.isnan(y)
    assert np.isnan(predictions.nested[np.arange(4)[:, None] == fold]).all()
    assert np.isfinite(predictions.oof).all()
    base = feature_predictions(nested_folds(y, fold, patients), X[:, 0])
    for logits in (predictions.oof, *(predictions.nested[k] for k in range(4))):
        use = known & np.isfinite(logits)
        assert log_loss(y[use], expit(logits[use])) < log_loss(y[use], expit(base.oof[use])) - 0.1
    assert all(1 <= rounds <= 12 for rounds in fitted.rounds.values())
    assert sorted(fitted.files) == [0, 1, 2, 3]
    for share in fitted.gain.values():
        assert share.sum() == pytest.approx(1) and share.argmax() == 1


def test_contributions_are_those_of_held_out_rows_to_the_mean_model(monkeypatch):
    """Of 40 drawn rows of each fold; by hand from the files, one seed and row after the other."""
    monkeypatch.setattr(nested_fit, "EXPLAINED", 40)
    X, y, fold, patients = case()
    fitted = boosted(X, y, fold, patients, 8, seeds=2)
    drawn, contributions = [], TabularInput.contributions

    def note(source, models, rows):
        drawn.append(rows)
        return contributions(source, models, rows)

    monkeypatch.setattr(TabularInput, "contributions", note)
    boosted(X, y, fold, patients, 8, seeds=2)
    assert len(drawn) == 4
    for k, rows in enumerate(drawn):
        assert len(rows) == 40 == len(set(rows))
        assert (fold[rows] == k).all() and list(rows) == sorted(rows)
        boosters = [lgb.Booster(model_str=raw.decode()) for raw in fitted.files[k]]
        total = np.zeros(X.shape[1])
        for row in rows:
            one, two = (
                booster.predict(X[row : row + 1], pred_contrib=True)[0, :-1] for booster in boosters
            )
            total += np.abs((one + two) / 2) / len(rows)
        np.testing.assert_allclose(fitted.contributions[k], total, rtol=1e-6, atol=1e-12)
        assert total.argmax() == 1


def test_a_fold_without_settings_has_no_predictions():
    X, y, fold, patients = case()
    settings = FitSettings(PARAMS, 5)
    fitted = boosted(X, y, fold, patients, settings=[settings, None, settings, settings])
    assert np.isnan(fitted.predictions.nested[1]).all()
    assert np.isnan(fitted.predictions.oof[fold == 1]).all()
    whole = boosted(X, y, fold, patients, 5)
    np.testing.assert_array_equal(
        fitted.predictions.nested[[0, 2, 3]], whole.predictions.nested[[0, 2, 3]]
    )
    assert sorted(fitted.files) == sorted(fitted.rounds) == [0, 2, 3]


def test_several_seeds_are_averaged():
    X, y, fold, patients = case()
    settings = [FitSettings({**PARAMS, "feature_fraction": 0.5}, 5)] * 4
    one, two = (boosted(X, y, fold, patients, settings=settings, seeds=seeds) for seeds in (1, 2))
    assert [len(files) for files in two.files.values()] == [2] * 4
    a, b = two.files[0]
    assert a != b and one.files[0] == [a]


def test_a_feature_is_its_own_predictions():
    _, y, fold, patients = case()
    x = np.arange(480, dtype=np.float32)
    predictions = feature_predictions(nested_folds(y, fold, patients), x)
    assert predictions.nested.shape == (4, 480) and (predictions.oof == x).all()
    for k in range(4):
        assert np.isnan(predictions.nested[k][fold == k]).all()
        assert (predictions.nested[k][fold != k] == x[fold != k]).all()


def test_inner_folds_are_the_other_outer_folds():
    fold = np.array([0, 0, 2, 2, 3])
    assert inner_folds(np.zeros(5), fold, np.arange(5), 0) is fold


def test_inner_folds_of_two_outer_folds_are_by_patient():
    rng = np.random.default_rng(0)
    patients = rng.permutation(np.repeat([f"P{n}" for n in range(20)], 6)).astype(object)
    y = np.isin(patients, ["P1", "P5", "P7", "P9"]).astype(float)
    fold = np.ones(120, int)
    inner = inner_folds(y, fold, patients, seed=3)
    assert set(inner) == {0, 1, 2}
    assert (pd.Series(inner).groupby(patients).nunique() == 1).all()
    assert all(y[inner == j].any() for j in range(3))
    assert (inner == inner_folds(y, fold, patients, seed=3)).all()
    assert (inner != inner_folds(y, fold, patients, seed=4)).any()


def test_each_inner_fold_of_two_outer_folds_has_labelled_rows():
    patients = np.repeat([f"P{n:02}" for n in range(40)], 3).astype(object)
    labelled = patients < "P04"
    y = np.where(patients < "P02", 1.0, 0.0)
    for seed in range(20):
        inner = inner_folds(y, np.ones(120, int), patients, seed, labelled)
        assert {*inner[labelled]} == {*inner} == {0, 1, 2}
        assert (pd.Series(inner).groupby(patients).nunique() == 1).all()


def test_one_patient_outside_a_fold_cannot_be_split_and_is_not_stacked():
    fold = np.array([0] * 10 + [1] * 5)
    patients = np.repeat(np.array(list("abc"), dtype=object), 5)
    folds = NestedFolds(fold, np.ones(15, bool), patients, np.zeros(15), 2, 0)
    assert (folds.inner[0, 10:] == 0).all() and set(folds.inner[1, :10]) == {0, 1}
    y = np.array([0, 0, 1, 1, 1.0])
    assert "positives in 1 patient" in why_not_stacked(y, patients[10:], 2)


def test_why_not_stacked():
    patients = np.array(list("aabbccdd"), dtype=object)
    y = np.array([1, 0, 1, 0, 1, 0, 0, 0])
    assert why_not_stacked(y, patients, 3) == ""
    assert (
        why_not_stacked(y * 0, patients, 3)
        == "no positives in the training folds; their smoothed prior instead"
    )
    two = np.array([1, 1, 1, 0, 0, 0, 0, 0])  # three slices, but of two patients
    assert why_not_stacked(two, patients, 3).startswith(
        "positives in 2 patients of the training folds, fewer than 3; calibrated"
    )
    one = np.array([1, 1, 0, 0, 0, 0, 0, 0])
    assert why_not_stacked(one, patients, 3).startswith("positives in 1 patient of")
    assert why_not_stacked(two, patients, 2) == ""
    # the scarcer of two
    assert why_not_stacked(1 - one, patients, 5).startswith("negatives in 1 patient of")
    mostly = np.array([1, 1, 1, 1, 1, 1, 1, 0])
    assert why_not_stacked(mostly, patients, 3).startswith("negatives in 1 patient of")
