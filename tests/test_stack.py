"""The stackers of one label: stacker k knows nothing of fold k's labels, and reads its own fold's test opinions alone."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from stage2_stack.calibrate import cross_fit
from stage2_stack.config import StackConfig
from stage2_stack.space import FIRST
from stage2_stack.stack import fit_stack

K = 3
NAMES = ["subdural", "any", "any_z+1", "tilt_deg"]
STACKED = {"stacked": True, "params": FIRST | {"feature_fraction": 1.0}, "rounds": 15}
LEFT = {"stacked": False, "params": {}, "rounds": 0}


@pytest.fixture
def case():
    """Rows of which the neighbour tells more than the slice itself; test rows as each fold's CNNs see them."""
    rng = np.random.default_rng(0)
    y = (rng.random(600) < 0.3).astype(float)
    X, test_X = rng.normal(size=(600, 4)).astype(np.float32), rng.normal(size=(K, 8, 4)).astype(np.float32)
    X[:, 1] += y
    X[:, 2] += 2 * y
    return X, y, np.repeat(np.arange(K), 200), test_X


def stack(case, configs=(STACKED,) * K, y=None, test_X=None):
    X, own_y, fold, own_test = case
    test_X = own_test if test_X is None else test_X
    return fit_stack(X, own_y if y is None else y, fold, test_X, NAMES, "any", configs, StackConfig(threads=1), 0)


def test_it_beats_the_calibrated_stage_one(case):
    found, y = stack(case), case[1]
    base, platts = cross_fit(case[0][:, 1], y, case[2], K)
    np.testing.assert_array_equal(found.calibrated, expit(base))
    assert found.platts == platts and sorted(found.boosters) == [0, 1, 2]
    assert log_loss(y, found.oof) < log_loss(y, found.calibrated) - 0.05
    assert found.gain.sum() == pytest.approx(1) and found.gain.argmax() == 2
    assert found.gain[0] == found.gain[3] == 0  # out of the scope "context"
    assert found.oof.shape == (600,) and found.test.shape == found.calibrated_test.shape == (K, 8)


@pytest.mark.parametrize("k", range(K))
def test_labels_of_a_fold_never_reach_its_scores_nor_its_stacker(case, k):
    _, y, fold, _ = case
    before, after = stack(case), stack(case, y=np.where(fold == k, 1 - y, y))
    for name in ("oof", "calibrated"):
        one, two = getattr(before, name), getattr(after, name)
        np.testing.assert_array_equal(one[fold == k], two[fold == k])
        assert (one[fold != k] != two[fold != k]).mean() > 0.9  # the test would see a leak
    np.testing.assert_array_equal(before.test[k], after.test[k])
    np.testing.assert_array_equal(before.calibrated_test[k], after.calibrated_test[k])


@pytest.mark.parametrize("k", range(K))
def test_stacker_k_reads_the_opinions_of_fold_k_alone(case, k):
    other = case[3].copy()
    other[k] += 1
    before, after = stack(case), stack(case, test_X=other)
    for name in ("test", "calibrated_test"):
        changed = (getattr(before, name) != getattr(after, name)).any(axis=1)
        assert changed.tolist() == [fold == k for fold in range(K)]
    np.testing.assert_array_equal(before.oof, after.oof)


def test_a_fold_that_is_not_stacked_gets_the_calibrated_stage_one(case):
    found, fold = stack(case, (STACKED, LEFT, STACKED)), case[2]
    whole = stack(case)
    np.testing.assert_array_equal(found.oof[fold == 1], found.calibrated[fold == 1])
    np.testing.assert_array_equal(found.test[1], found.calibrated_test[1])
    np.testing.assert_array_equal(found.oof[fold != 1], whole.oof[fold != 1])
    assert sorted(found.boosters) == [0, 2]


def test_unlabelled_rows_are_predicted_but_not_learned_from(case):
    X, y, fold, _ = case
    lost = np.arange(600) % 7 == 0
    y = np.where(lost, np.nan, y)
    found = stack(case, y=y)
    assert np.isfinite(found.oof).all()
    for k, booster in found.boosters.items():  # bagging takes four of five
        root = booster.dump_model(num_iteration=1)["tree_info"][0]["tree_structure"]
        assert root["internal_count"] == pytest.approx(0.8 * ((fold != k) & ~lost).sum(), rel=0.02)
    np.testing.assert_array_equal(found.calibrated, expit(cross_fit(X[:, 1], y, fold, K)[0]))
