"""The blend: convex weights, and the calibrated stage one alone where no gain is significant."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss

from stage2_stack.blending import fit_blend, fit_weights, raw_alone
from stage2_stack.calibration import fit_platt

N = 4000


def predictions(seed=0, n=N, **noise):
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
    logits, y, _ = predictions(seed, good=0.3, bad=3.0, worse=4.0)
    ready = np.column_stack([fit_platt(x, y).logit(x) for x in logits.values()])
    weights = fit_weights(ready, y)
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1)
    assert weights[0] > 0.8
    steps = [weights + 0.02 * (np.eye(3)[i] - np.eye(3)[j]) for i in range(3) for j in range(3)]
    near = [log_loss(y, expit(ready @ w)) for w in steps if (w >= 0).all()]
    # but for the pull, none nearby is better
    assert log_loss(y, expit(ready @ weights)) <= min(near) + 1e-3


def test_equal_components_share_the_weight():
    logits, y, _ = predictions(0, a=1.0, b=1.0)
    weights = fit_weights(np.column_stack([fit_platt(x, y).logit(x) for x in logits.values()]), y)
    assert weights == pytest.approx([0.5, 0.5], abs=0.1)


def test_few_rows_leave_the_weights_near_equal():
    logits, y, _ = predictions(3, n=40, good=0.5, bad=2.0)
    weights = fit_weights(np.column_stack(list(logits.values())), y)
    assert 0.35 < weights[0] < 0.75
    assert fit_weights(np.zeros((5, 1)), np.zeros(5)) == pytest.approx([1])


def test_a_blend_gains_and_a_harmful_component_is_dropped():
    logits, y, patients = predictions(1, raw=2.0, good=0.7, other=0.8, bad=6.0)
    blend = fit_blend(logits, y, patients, 0.95, 0)
    assert (
        blend.why == ""
        and set(blend.weights) <= {"raw", "good", "other"}
        and blend.weights["good"] > 0.3
    )
    assert sum(blend.weights.values()) == pytest.approx(1)
    assert blend.gains["bad"][0] < 0 < blend.gains["good"][1]
    final, raw = blend.logit(logits), blend.platts["raw"].logit(logits["raw"])
    alone = [log_loss(y, expit(blend.platts[name].logit(logits[name]))) for name in logits]
    assert log_loss(y, expit(final)) < min(alone) < log_loss(y, expit(raw)) - 0.02


def test_a_component_whose_gain_is_luck_leaves_stage_one_alone():
    logits, y, patients = predictions(2, raw=1.0, same=1.0, worse=2.0)
    blend = fit_blend(logits, y, patients // 40, 0.95, 0)
    assert (
        blend.weights == {"raw": 1.0} and blend.last is None and "is not beyond doubt" in blend.why
    )
    np.testing.assert_array_equal(
        blend.logit(logits), fit_platt(logits["raw"], y).logit(logits["raw"])
    )


def test_stage_one_alone():
    logits, y, patients = predictions(3, raw=1.0)
    blend = raw_alone(logits["raw"], y, "too few")
    assert blend.why == "too few"
    np.testing.assert_array_equal(
        blend.logit({"raw": logits["raw"], "more": y}),
        fit_platt(logits["raw"], y).logit(logits["raw"]),
    )
    assert fit_blend(logits, y, patients, 0.95, 0).why == "no component but the CNNs"


def test_the_same_seed_gives_the_same_blend():
    logits, y, patients = predictions(4, raw=2.0, good=0.7)
    assert fit_blend(logits, y, patients, 0.95, 0) == fit_blend(logits, y, patients, 0.95, 0)


def test_a_row_without_predictions_gets_the_prior_of_each():
    logits, y, patients = predictions(5, raw=2.0, good=0.7)
    blend = fit_blend(logits, y, patients, 0.95, 0)
    blended = blend.logit({name: np.array([np.nan]) for name in logits})
    assert np.isfinite(blended).all() and expit(blended)[0] == pytest.approx(y.mean(), abs=0.05)
