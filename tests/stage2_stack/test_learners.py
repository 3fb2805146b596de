"""The learners of trees, all alike: they start from given logits, learn what these lack, and are
kept without pickle.
"""

import importlib.util

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from ct.errors import InputError
from stage2_stack.boost import Bins
from stage2_stack.config import DEFAULT, OPTIONAL, StackConfig, check_installed
from stage2_stack.learners import learner_of
from stage2_stack.search_space import FIRST, split_scope

NAMES = ("any_z-1", "any_z+1", "any_smooth2.5mm", "tilt_deg", "blood_share")
SEEN = np.array([0, 1, 2, 4])  # a booster sees some of the columns


def there(name):
    lacking = name in OPTIONAL and not importlib.util.find_spec(name)
    return pytest.param(name, marks=pytest.mark.skipif(lacking, reason=f"{name} is not installed"))


every_learner = pytest.mark.parametrize(
    "name", [there(name) for name in ("lightgbm", "xgboost", "catboost")]
)


def problem(seed=0, n=900):
    """Features of which the first matters, a starting logit that knows a part, labels of 0 and
    1.
    """
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, len(NAMES))).astype(np.float32)
    X[rng.random(X.shape) < 0.1] = np.nan
    base = rng.normal(-1.5, 1, n)
    y = (rng.random(n) < expit(base + 2 * np.nan_to_num(X[:, 0]))).astype(float)
    return X, y, base


def fit(name, X, y, base, rounds=60, seed=1, rows=None, valid=None):
    """The learner, its model of some rows, and its curves on some others."""
    learner, bins = learner_of(name), Bins(X, NAMES)
    rows = np.arange(len(X)) if rows is None else rows
    params = getattr(learner, "params", None) or split_scope(FIRST)[0]
    valid = [] if valid is None else [learner.data(bins, SEEN, valid, y[valid], base[valid])]
    return learner, *learner.fit(
        learner.data(bins, SEEN, rows, y[rows], base[rows]), params, rounds, seed, 1, valid
    )


@every_learner
def test_it_learns_what_the_start_does_not_know(name):
    learner, model, curves = fit(name, *problem(0))
    assert curves.shape == (0, 60)
    X, y, base = problem(1)
    said = base + learner.added(model, X[:, SEEN], 1)
    assert log_loss(y, expit(said)) < log_loss(y, expit(base)) - 0.05
    low, high = learner.added(model, np.float32([[-2, 0, 0, 0], [2, 0, 0, 0]]), 1)
    assert low < 0 < high
    gain = learner.gain(model)
    assert (
        gain.shape == (4,)
        and gain.argmax() == 0
        and gain[0] > 0.5
        and gain.sum() == pytest.approx(1)
    )
    swing = learner.contributions(model, X[:, SEEN], 1)
    rest = learner.added(model, X[:, SEEN], 1) - swing.sum(axis=1)
    np.testing.assert_allclose(rest, rest[0], atol=1e-4)  # what is left is the same for all rows
    assert swing.shape == (900, 4) and np.abs(swing).mean(axis=0).argmax() == 0
    known = np.isfinite(X[:, 0])
    assert np.corrcoef(X[known, 0], swing[known, 0])[0, 1] > 0.8  # it pushes up where it is large


@every_learner
def test_without_information_it_leaves_the_start_alone(name):
    """Though that is far from one half: a model that did not start there would add -1 or so."""
    X, _, base = problem(2)
    y = (np.random.default_rng(2).random(900) < expit(base)).astype(float)
    learner, model, _ = fit(name, X, y, base, rounds=10)
    added = learner.added(model, problem(3)[0][:, SEEN], 1)
    assert abs(added.mean()) < 0.1 and np.abs(added).max() < 0.6


@every_learner
def test_rows_are_judged_from_their_own_start(name):
    X, y, base = problem(3)
    fitted, judged = np.arange(600), np.arange(600, 900)
    learner, model, curves = fit(name, X, y, base, rounds=12, rows=fitted, valid=judged)
    for rounds in (1, 5, 12):
        said = base[judged] + learner.added(model, X[np.ix_(judged, SEEN)], 1, rounds)
        assert curves[0, rounds - 1] == pytest.approx(log_loss(y[judged], expit(said)), abs=1e-5)
    other = np.where(np.arange(900) < 600, y, 1 - y)
    _, again, _ = fit(name, X, other, base, rounds=12, rows=fitted, valid=judged)
    assert learner.dump(again) == learner.dump(model)  # and their labels teach nothing


@every_learner
def test_a_longer_fit_begins_as_a_shorter_one(name):
    X, y, base = problem(4)
    learner, long, _ = fit(name, X, y, base, rounds=20)
    _, short, _ = fit(name, X, y, base, rounds=7)
    np.testing.assert_array_equal(
        learner.added(long, X[:, SEEN], 1, 7), learner.added(short, X[:, SEEN], 1)
    )
    assert (learner.added(long, X[:, SEEN], 1) != learner.added(short, X[:, SEEN], 1)).any()


@every_learner
def test_what_is_kept_says_the_same_and_is_the_same_each_time(name):
    X, y, base = problem(5)
    learner, model, _ = fit(name, X, y, base, rounds=10)
    kept = learner.dump(model)
    back = learner.load(kept)
    np.testing.assert_array_equal(
        learner.added(back, X[:, SEEN], 1), learner.added(model, X[:, SEEN], 1)
    )
    assert isinstance(kept, bytes) and learner.suffix in (".txt", ".json", ".cbm")
    assert b"any_z+1" in kept and b"tilt_deg" not in kept  # of the columns that it sees
    assert learner.dump(fit(name, X, y, base, rounds=10)[1]) == kept
    assert learner.dump(fit(name, X, y, base, rounds=10, seed=2)[1]) != kept


@every_learner
def test_missing_values_are_told_from_any_other(name):
    """A neighbour past the end is NaN."""
    X = np.zeros((600, 5), np.float32)
    X[::2, 0] = np.nan
    learner, model, _ = fit(name, X, (np.arange(600) % 2 == 0).astype(float), np.zeros(600))
    missing, known = learner.added(model, X[:2, SEEN], 1)
    assert missing > 0.3 and known < -0.3


@every_learner
def test_missing_values_may_be_met_later_alone(name):
    """Series' ends among the rows that are judged, and none among those that are learned from."""
    X, y, base = problem(7)
    X = np.nan_to_num(X)
    X[800:, 1] = np.nan
    learner, model, curves = fit(
        name, X, y, base, rounds=5, rows=np.arange(800), valid=np.arange(800, 900)
    )
    said = base[800:] + learner.added(model, X[800:, SEEN], 1)
    assert curves[0, -1] == pytest.approx(log_loss(y[800:], expit(said)), abs=1e-5)


@every_learner
def test_labels_that_are_all_the_same_are_no_error(name):
    """As those of a rare label in some of the folds: where anything is added, it pulls the
    probability down.
    """
    X, _, base = problem(8)
    learner, model, curves = fit(
        name, X, np.zeros(900), base, rounds=5, rows=np.arange(800), valid=np.arange(800, 900)
    )
    back = learner.load(learner.dump(model))
    said = learner.added(back, X[:, SEEN], 1)
    assert said.max() <= 0 and curves.shape == (1, 5)
    assert curves[0, -1] == pytest.approx(np.logaddexp(0, base + said)[800:].mean(), abs=1e-6)


@every_learner
def test_no_rows_to_ask(name):
    learner, model, _ = fit(name, *problem(6), rounds=3)
    assert learner.added(model, np.empty((0, 4), np.float32), 1).shape == (0,)


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("stage2_stack.config.find_spec", lambda name: None)
    assert StackConfig().components == DEFAULT and not {*DEFAULT} & {*OPTIONAL, "gru"}
    check_installed(DEFAULT)
    for name in OPTIONAL:
        with pytest.raises(
            InputError,
            match=rf"^stage2\.components: {name} is not installed: pip install -e '\.\[{name}\]'",
        ):
            check_installed((*DEFAULT, name))
