"""Nested predictions: made by models that saw neither the row's own fold nor the outer one."""

import lightgbm as lgb
import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from stage2_stack import nested_cv as nested
from stage2_stack.boost import Bins
from stage2_stack.config import StackConfig
from stage2_stack.nested_cv import Nest, View, column_opinion, fit_nested

PARAMS = {"learning_rate": 0.2, "num_leaves": 4, "min_data_in_leaf": 5}
ALL = np.arange(3)


def case(k_folds=4, n=480, seed=0):
    """Rows whose second feature tells what their logit does not; every seventh is unlabelled."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(float)
    X = rng.normal(size=(n, 3)).astype(np.float32)
    X[:, 0] += y
    X[:, 1] += 2 * y
    patients = np.repeat(np.arange(n // 4), 4)
    fold = np.random.default_rng(1).integers(0, k_folds, n // 4)[patients]
    return X, np.where(np.arange(n) % 7 == 0, np.nan, y), fold, patients


def nest_of(y, fold, patients):
    return Nest(fold, ~np.isnan(y), patients, np.nan_to_num(y), fold.max() + 1, 0)


def boosted(X, y, fold, patients, rounds=8, settings=None, **config):
    nest = nest_of(y, fold, patients)
    view = View(Bins(X, ["a", "b", "c"]), ALL, X[:, :1].T, y[None])
    test = [
        View(Bins(X[:5] + k, ["a", "b", "c"]), ALL, X[None, :5, 0] + k, None)
        for k in range(nest.k_folds)
    ]
    settings = settings or [{"params": PARAMS, "rounds": rounds}] * nest.k_folds
    return fit_nested(
        nest, [view] * nest.k_folds, test, settings, StackConfig(max_rounds=12, **config), 0
    )


def test_a_model_without_two_folds_serves_both():
    _, y, fold, patients = case()
    nest = nest_of(y, fold, patients)
    parts = nest.parts([("same",)] * 4)
    assert len(parts) == 6 and len(nest.parts(["a", "a", "b", "c"])) == 1 + 2 * 5
    assert len(nest.parts(["a", None, "a", "a"])) == 3 + 3 and nest.parts([None] * 4) == []
    for part in parts:
        j, k = part.asked
        assert set(fold[part.fit]) == set(range(4)) - {j, k} and not np.isnan(y[part.fit]).any()
        np.testing.assert_array_equal(part.asked[k], np.flatnonzero(fold == j))
        np.testing.assert_array_equal(part.asked[j], np.flatnonzero(fold == k))
    for k in range(4):
        asked = np.concatenate([part.asked[k] for part in parts if k in part.asked])
        np.testing.assert_array_equal(np.sort(asked), np.flatnonzero(fold != k))
        last = nest.last(k)
        np.testing.assert_array_equal(last.fit, np.flatnonzero((fold != k) & ~np.isnan(y)))
        np.testing.assert_array_equal(last.asked[k], np.flatnonzero(fold == k))


def test_two_outer_folds_have_inner_ones_by_patient():
    _, y, fold, patients = case(k_folds=2)
    parts = nest_of(y, fold, patients).parts(["same", "same"])
    assert len(parts) == 6
    for part in parts:
        ((k, rows),) = part.asked.items()
        assert (fold[part.fit] != k).all() and (fold[rows] != k).all()
        assert not {*patients[part.fit]} & {*patients[rows]}


def test_models_never_saw_what_they_are_asked(monkeypatch):
    """Each Dataset's rows are written down, and each prediction's."""
    X, y, fold, patients = case()
    fitted, data, logits = {}, View.data, View.logits

    def note_data(view, platts, rows):
        made = data(view, platts, rows)
        fitted[id(platts)] = rows, platts
        return made

    def note_logits(view, models, platts, rows, rounds=None):
        if view.y is not None:
            seen = fitted[id(platts)][0]
            assert not {*fold[seen]} & {*fold[rows]} and not {*patients[seen]} & {*patients[rows]}
            asked.append((len({*fold[seen]}), len(rows)))
        return logits(view, models, platts, rows, rounds)

    asked = []
    monkeypatch.setattr(View, "data", note_data)
    monkeypatch.setattr(View, "logits", note_logits)
    boosted(X, y, fold, patients)
    assert [folds for folds, _ in asked] == [2] * 12 + [3] * 4
    assert sum(rows for folds, rows in asked if folds == 2) == 3 * len(y)
    assert sum(rows for folds, rows in asked if folds == 3) == len(y)


@pytest.mark.parametrize("rounds", [8, None])
def test_models_that_are_fitted_side_by_side_are_those_of_one_after_the_other(rounds, monkeypatch):
    one, many = [], []
    for found, count in ((one, 1), (many, 3)):
        monkeypatch.setattr(nested, "cores", lambda count=count: count)
        made = boosted(*case(), rounds, seeds=2)
        found += [made.rounds, *made.opinions[0], *made.gain.values(), *made.contributions.values()]
        found += [model for models in made.models.values() for model in models]
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rounds", [8, None])
@pytest.mark.parametrize("k", [0, 2])
def test_labels_of_a_fold_reach_nothing_that_is_decided_for_it(rounds, k):
    X, y, fold, patients = case()
    one = boosted(X, y, fold, patients, rounds)
    two = boosted(X, np.where(fold == k, 1 - y, y), fold, patients, rounds)
    assert one.rounds[k] == two.rounds[k]
    a, b = one.opinions[0], two.opinions[0]
    np.testing.assert_array_equal(a.nested[k], b.nested[k])
    np.testing.assert_array_equal(a.oof[fold == k], b.oof[fold == k])
    np.testing.assert_array_equal(a.test[k], b.test[k])
    other = (k + 1) % 4
    assert (a.oof[fold == other] != b.oof[fold == other]).mean() > 0.9  # the test would see a leak
    apart = a.nested[other] != b.nested[other]
    assert apart[(fold != k) & (fold != other)].mean() > 0.9
    if rounds:  # a row's own fold's labels don't reach it, but by the number of rounds
        assert not apart[fold == k].any()


def test_it_learns_and_says_nothing_of_its_own_fold():
    X, y, fold, patients = case()
    found = boosted(X, y, fold, patients, None)
    opinion, known = found.opinions[0], ~np.isnan(y)
    assert (
        np.isnan(opinion.nested[np.arange(4)[:, None] == fold]).all()
        and np.isfinite(opinion.oof).all()
    )
    base = column_opinion(nest_of(y, fold, patients), X[:, 0], X[None, :5, 0].repeat(4, axis=0))
    for logits in (opinion.oof, *(opinion.nested[k] for k in range(4))):
        use = known & np.isfinite(logits)
        assert log_loss(y[use], expit(logits[use])) < log_loss(y[use], expit(base.oof[use])) - 0.1
    assert all(1 <= rounds <= 12 for rounds in found.rounds.values()) and sorted(found.models) == [
        0,
        1,
        2,
        3,
    ]
    assert all(
        share.sum() == pytest.approx(1) and share.argmax() == 1 for share in found.gain.values()
    )


def test_contributions_are_those_of_held_out_rows_to_the_mean_model(monkeypatch):
    """The first 40 of each fold, drawn; by hand from the files, one seed and row after the
    other.
    """
    monkeypatch.setattr(nested, "EXPLAINED", 40)
    X, y, fold, patients = case()
    found = boosted(X, y, fold, patients, 8, seeds=2)
    asked, contributions = [], View.contributions

    def note(view, models, rows):
        asked.append(rows)
        return contributions(view, models, rows)

    monkeypatch.setattr(View, "contributions", note)
    boosted(X, y, fold, patients, 8, seeds=2)
    for k, rows in enumerate(asked):
        assert (
            len(rows) == 40 == len(set(rows))
            and (fold[rows] == k).all()
            and list(rows) == sorted(rows)
        )
        total = np.zeros(X.shape[1])
        for row in rows:
            each = [
                lgb.Booster(model_str=file.decode()).predict(X[row : row + 1], pred_contrib=True)[
                    0, :-1
                ]
                for file in found.models[k]
            ]
            total += np.abs((each[0] + each[1]) / 2) / len(rows)
        np.testing.assert_allclose(found.contributions[k], total[None], rtol=1e-6, atol=1e-12)
        assert total.argmax() == 1


def test_a_fold_without_settings_says_nothing():
    X, y, fold, patients = case()
    wanted = {"params": PARAMS, "rounds": 5}
    found = boosted(X, y, fold, patients, settings=[wanted, None, wanted, wanted])
    opinion = found.opinions[0]
    assert (
        np.isnan(opinion.nested[1]).all()
        and np.isnan(opinion.test[1]).all()
        and np.isnan(opinion.oof[fold == 1]).all()
    )
    whole = boosted(X, y, fold, patients, 5).opinions[0]
    np.testing.assert_array_equal(opinion.nested[[0, 2, 3]], whole.nested[[0, 2, 3]])
    assert sorted(found.models) == sorted(found.rounds) == [0, 2, 3]


def test_several_seeds_are_averaged():
    X, y, fold, patients = case()
    params = [{"params": {**PARAMS, "feature_fraction": 0.5}, "rounds": 5}] * 4
    one, two = (boosted(X, y, fold, patients, settings=params, seeds=seeds) for seeds in (1, 2))
    assert [len(models) for models in two.models.values()] == [2] * 4
    a, b = two.models[0]
    assert a != b and one.models[0] == [a]


def test_a_column_is_its_own_opinion():
    _, y, fold, patients = case()
    x, test = np.arange(480, dtype=np.float32), np.ones((4, 3), np.float32)
    found = column_opinion(nest_of(y, fold, patients), x, test)
    assert found.nested.shape == (4, 480) and (found.oof == x).all() and (found.test == 1).all()
    for k in range(4):
        assert (
            np.isnan(found.nested[k][fold == k]).all()
            and (found.nested[k][fold != k] == x[fold != k]).all()
        )
