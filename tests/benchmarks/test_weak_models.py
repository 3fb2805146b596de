"""The verdict of weak_models, and its weak CNNs."""

import numpy as np
import pytest
from scipy.special import logit

from benchmarks.stacking.simulated_cnns import CNNS, Simulated
from benchmarks.stacking.weak_models import CONTENDERS, NOISE, judge, with_weak_copies

N, PATIENTS = 3000, np.arange(3000) // 30
MEANS = {"best subset": 0.05, "equal weights": 0.055, "fitted weights": 0.05, "equal models": 0.05}


@pytest.mark.parametrize(
    ("other", "missed"),
    [
        ({}, []),
        ({"fitted weights": 0.0502}, ["cost more than"]),
        ({"equal weights": 0.05}, ["gain nothing beyond doubt"]),
        ({"equal models": 0.0501}, ["equal CNNs lose beyond doubt"]),
    ],
)
def test_bars(other, missed):
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.02, N)
    noise = dict(zip(CONTENDERS, rng.normal(0, 1e-5, (len(CONTENDERS), N)), strict=True))
    losses = {
        ("runs", name): mean + shared + noise[name] for name, mean in {**MEANS, **other}.items()
    }
    lines = judge(losses, "runs", PATIENTS)
    assert len(lines) == len(missed)
    assert all(text in line for text, line in zip(missed, lines, strict=True))


def test_weak_copies_have_the_noise_that_is_named():
    probs = dict.fromkeys(CNNS, np.full((4000, 6), 0.2))
    made = with_weak_copies(Simulated(None, None, None, probs), 0).probs
    assert list(made)[: len(CNNS)] == list(CNNS) and len(made) == len(CNNS) + len(NOISE)
    spreads = [np.std(logit(p)) for p in list(made.values())[len(CNNS) :]]
    np.testing.assert_allclose(spreads, NOISE, rtol=0.05)
