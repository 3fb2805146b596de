"""The blend: convex, cautious, and nothing but the calibrated stage one where doubt remains."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from stage2_stack.blending import fit_blend, fit_weights, raw_alone
from stage2_stack.calibration import fit_platt

N = 4000


def opinions(seed=0, n=N, **noise):
    """Labels, and for each name the true logit in noise of that spread, miscalibrated."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-2, 2, n)
    y = (rng.random(n) < expit(truth)).astype(float)
    return (
        {name: 1.5 * (truth + spread * rng.normal(size=n)) - 1 for name, spread in noise.items()},
        y,
        np.arange(n) // 5,
    )


@pytest.mark.parametrize("seed", range(3))
def test_weights_lie_on_the_simplex_and_find_the_best(seed):
    said, y, _ = opinions(seed, good=0.3, bad=3.0, worse=4.0)
    ready = np.column_stack([fit_platt(x, y).logit(x) for x in said.values()])
    weights = fit_weights(ready, y)
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1)
    assert weights[0] > 0.8
    steps = [weights + 0.02 * (np.eye(3)[i] - np.eye(3)[j]) for i in range(3) for j in range(3)]
    near = [log_loss(y, expit(ready @ w)) for w in steps if (w >= 0).all()]
    # but for the pull, none nearby is better
    assert log_loss(y, expit(ready @ weights)) <= min(near) + 1e-3


def test_two_of_a_kind_share_the_weight():
    said, y, _ = opinions(0, a=1.0, b=1.0)
    weights = fit_weights(np.column_stack([fit_platt(x, y).logit(x) for x in said.values()]), y)
    assert weights == pytest.approx([0.5, 0.5], abs=0.1)


def test_few_rows_leave_the_weights_near_equal():
    said, y, _ = opinions(3, n=40, good=0.5, bad=2.0)
    weights = fit_weights(np.column_stack(list(said.values())), y)
    assert 0.35 < weights[0] < 0.75
    assert fit_weights(np.zeros((5, 1)), np.zeros(5)) == pytest.approx([1])


def test_a_blend_gains_and_a_harmful_component_is_dropped():
    said, y, patients = opinions(1, raw=2.0, good=0.7, other=0.8, bad=6.0)
    blend = fit_blend(said, y, patients, 0.95, 0)
    assert (
        blend.why == ""
        and set(blend.weights) <= {"raw", "good", "other"}
        and blend.weights["good"] > 0.3
    )
    assert sum(blend.weights.values()) == pytest.approx(1)
    assert blend.gains["bad"][0] < 0 < blend.gains["good"][1]
    final, raw = blend.logit(said), blend.platts["raw"].logit(said["raw"])
    alone = [log_loss(y, expit(blend.platts[name].logit(said[name]))) for name in said]
    assert log_loss(y, expit(final)) < min(alone) < log_loss(y, expit(raw)) - 0.02


def test_a_component_whose_gain_is_luck_leaves_stage_one_alone():
    said, y, patients = opinions(2, raw=1.0, same=1.0, worse=2.0)
    blend = fit_blend(said, y, patients // 40, 0.95, 0)
    assert (
        blend.weights == {"raw": 1.0} and blend.last is None and "is not beyond doubt" in blend.why
    )
    np.testing.assert_array_equal(blend.logit(said), fit_platt(said["raw"], y).logit(said["raw"]))


def test_stage_one_alone():
    said, y, patients = opinions(3, raw=1.0)
    blend = raw_alone(said["raw"], y, "too few")
    assert blend.why == "too few"
    np.testing.assert_array_equal(
        blend.logit({"raw": said["raw"], "more": y}), fit_platt(said["raw"], y).logit(said["raw"])
    )
    assert fit_blend(said, y, patients, 0.95, 0).why == "no component but the CNNs"


def test_the_same_again():
    said, y, patients = opinions(4, raw=2.0, good=0.7)
    assert fit_blend(said, y, patients, 0.95, 0) == fit_blend(said, y, patients, 0.95, 0)


def test_a_row_without_opinions_gets_the_prior_of_each():
    said, y, patients = opinions(5, raw=2.0, good=0.7)
    blend = fit_blend(said, y, patients, 0.95, 0)
    found = blend.logit({name: np.array([np.nan]) for name in said})
    assert np.isfinite(found).all() and expit(found)[0] == pytest.approx(y.mean(), abs=0.05)
