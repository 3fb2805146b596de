"""The learners of trees: models start from a logit of each row, and are stored without pickle."""

import importlib.util
import sys

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from stage2_stack.components import PACKAGES
from stage2_stack.components.component import load_component
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.tuning.search_space import FIRST, split_scope

NAMES = ("any_z-1", "any_z+1", "any_smooth2.5mm", "tilt_deg", "blood_share")
READ = np.array([0, 1, 2, 4])  # a booster reads some of the columns


def if_installed(name):
    missing = name in PACKAGES and not importlib.util.find_spec(PACKAGES[name])
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"{name} is not installed"))


every_learner = pytest.mark.parametrize(
    "name", [if_installed(name) for name in ("lightgbm", "xgboost", "catboost")]
)


def problem(seed=0, n=900):
    """Return features whose first one matters, a starting logit that explains a part, labels."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, len(NAMES))).astype(np.float32)
    X[rng.random(X.shape) < 0.1] = np.nan
    base = rng.normal(-1.5, 1, n)
    y = (rng.random(n) < expit(base + 2 * np.nan_to_num(X[:, 0]))).astype(float)
    return X, y, base


def fit(name, X, y, base, rounds=60, seed=1, rows=None, valid=None):
    """Return the learner, its model of some rows, and its curves on some others."""
    component, features = load_component(name), BinnedFeatures(X, NAMES)
    learner = component.learner
    rows = np.arange(len(X)) if rows is None else rows
    params = getattr(sys.modules[type(component).__module__], "PARAMS", split_scope(FIRST)[0])
    valid = [] if valid is None else [learner.dataset(features, READ, valid, y[valid], base[valid])]
    return learner, *learner.fit(
        learner.dataset(features, READ, rows, y[rows], base[rows]), params, rounds, seed, 1, valid
    )


@every_learner
def test_it_learns_what_the_starting_logit_does_not_explain(name):
    learner, model, curves = fit(name, *problem(0))
    assert curves.shape == (0, 60)
    X, y, base = problem(1)
    logits = base + learner.added_logits(model, X[:, READ], 1)
    assert log_loss(y, expit(logits)) < log_loss(y, expit(base)) - 0.05
    low, high = learner.added_logits(model, np.float32([[-2, 0, 0, 0], [2, 0, 0, 0]]), 1)
    assert low < 0 < high
    gain = learner.gain(model)
    assert (
        gain.shape == (4,)
        and gain.argmax() == 0
        and gain[0] > 0.5
        and gain.sum() == pytest.approx(1)
    )
    swing = learner.contributions(model, X[:, READ], 1)
    rest = learner.added_logits(model, X[:, READ], 1) - swing.sum(axis=1)
    np.testing.assert_allclose(rest, rest[0], atol=1e-4)  # the rest is the same for all rows
    assert swing.shape == (900, 4) and np.abs(swing).mean(axis=0).argmax() == 0
    known = np.isfinite(X[:, 0])
    # the first feature raises the logit where it is large
    assert np.corrcoef(X[known, 0], swing[known, 0])[0, 1] > 0.8


@every_learner
def test_without_information_it_leaves_the_starting_logit_alone(name):
    """A model that did not start from it would add about -1: the base rate is far from one half."""
    X, _, base = problem(2)
    y = (np.random.default_rng(2).random(900) < expit(base)).astype(float)
    learner, model, _ = fit(name, X, y, base, rounds=10)
    added = learner.added_logits(model, problem(3)[0][:, READ], 1)
    assert abs(added.mean()) < 0.1 and np.abs(added).max() < 0.6


@every_learner
def test_rows_are_validated_from_their_own_starting_logit(name):
    X, y, base = problem(3)
    fitted, valid = np.arange(600), np.arange(600, 900)
    learner, model, curves = fit(name, X, y, base, rounds=12, rows=fitted, valid=valid)
    for rounds in (1, 5, 12):
        logits = base[valid] + learner.added_logits(model, X[np.ix_(valid, READ)], 1, rounds)
        assert curves[0, rounds - 1] == pytest.approx(log_loss(y[valid], expit(logits)), abs=1e-5)
    other = np.where(np.arange(900) < 600, y, 1 - y)
    _, again, _ = fit(name, X, other, base, rounds=12, rows=fitted, valid=valid)
    assert learner.save(again) == learner.save(model)  # and their labels do not change the model


@every_learner
def test_a_longer_fit_begins_as_a_shorter_one(name):
    X, y, base = problem(4)
    learner, long, _ = fit(name, X, y, base, rounds=20)
    _, short, _ = fit(name, X, y, base, rounds=7)
    np.testing.assert_array_equal(
        learner.added_logits(long, X[:, READ], 1, 7), learner.added_logits(short, X[:, READ], 1)
    )
    whole = learner.added_logits(long, X[:, READ], 1)
    assert (whole != learner.added_logits(short, X[:, READ], 1)).any()


@every_learner
def test_a_stored_model_predicts_the_same_and_has_the_same_bytes_each_time(name):
    X, y, base = problem(5)
    learner, model, _ = fit(name, X, y, base, rounds=10)
    raw = learner.save(model)
    back = learner.load(raw)
    np.testing.assert_array_equal(
        learner.added_logits(back, X[:, READ], 1), learner.added_logits(model, X[:, READ], 1)
    )
    assert isinstance(raw, bytes) and learner.suffix in (".txt", ".json", ".cbm")
    assert b"any_z+1" in raw and b"tilt_deg" not in raw  # of the columns that it reads
    assert learner.save(fit(name, X, y, base, rounds=10)[1]) == raw
    assert learner.save(fit(name, X, y, base, rounds=10, seed=2)[1]) != raw


@every_learner
def test_missing_values_differ_from_any_other(name):
    """A neighbour past the end is NaN."""
    X = np.zeros((600, 5), np.float32)
    X[::2, 0] = np.nan
    learner, model, _ = fit(name, X, (np.arange(600) % 2 == 0).astype(float), np.zeros(600))
    missing, known = learner.added_logits(model, X[:2, READ], 1)
    assert missing > 0.3 and known < -0.3


@every_learner
def test_missing_values_may_occur_in_validation_alone(name):
    """Series' ends are among the validation rows, and not among the rows that are fitted."""
    X, y, base = problem(7)
    X = np.nan_to_num(X)
    X[800:, 1] = np.nan
    learner, model, curves = fit(
        name, X, y, base, rounds=5, rows=np.arange(800), valid=np.arange(800, 900)
    )
    logits = base[800:] + learner.added_logits(model, X[800:, READ], 1)
    assert curves[0, -1] == pytest.approx(log_loss(y[800:], expit(logits)), abs=1e-5)


@every_learner
def test_labels_that_are_all_the_same_are_no_error(name):
    """A rare label may have no positive in some folds: the booster then lowers its probability."""
    X, _, base = problem(8)
    learner, model, curves = fit(
        name, X, np.zeros(900), base, rounds=5, rows=np.arange(800), valid=np.arange(800, 900)
    )
    back = learner.load(learner.save(model))
    added = learner.added_logits(back, X[:, READ], 1)
    assert added.max() <= 0 and curves.shape == (1, 5)
    assert curves[0, -1] == pytest.approx(np.logaddexp(0, base + added)[800:].mean(), abs=1e-6)


@every_learner
def test_no_rows_to_predict(name):
    learner, model, _ = fit(name, *problem(6), rounds=3)
    assert learner.added_logits(model, np.empty((0, 4), np.float32), 1).shape == (0,)
