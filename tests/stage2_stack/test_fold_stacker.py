"""A stacker that is read from its files predicts what the fit predicted, to the last bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_stacker import CONFIGS, LEFT, STACKED, K, every_other, make_case, stack

from ct.labels import LABELS
from stage2_stack.blending import read_blend
from stage2_stack.calibration import Platt
from stage2_stack.components import DEFAULT
from stage2_stack.config import StackConfig
from stage2_stack.fold_stacker import FoldStacker


def stored(stacks, k, **settings):
    """Return the stacker of fold k, read from the JSON and the bytes that a run stores."""
    blends = {label: stacks[label].blends[k] for label in LABELS}
    values = json.loads(json.dumps({label: blend.values() for label, blend in blends.items()}))
    platts = json.loads(
        json.dumps({label: blend.platts["raw"]._asdict() for label, blend in blends.items()})
    )
    return FoldStacker(
        k,
        {label: read_blend(of_label) for label, of_label in values.items()},
        {label: Platt(**of_label) for label, of_label in platts.items()},
        {name: raw for label in LABELS for name, raw in stacks[label].models.items()},
        StackConfig(threads=1, **settings),
    )


def of_test(stacks, k):
    """Return the test probabilities of stacker k, as the fit returned them."""
    return np.column_stack([stacks[label].test[k] for label in LABELS])


@pytest.fixture(scope="module")
def case():
    return make_case()


def test_it_predicts_what_the_fit_predicted(case):
    rows, test_X = case
    stacks = stack(case)
    used = {name for label in LABELS for blend in stacks[label].blends for name in blend.weights}
    assert used == set(DEFAULT)  # each is tested
    for k in range(K):
        predicted = stored(stacks, k).predict(test_X[k], rows.names)
        np.testing.assert_array_equal(predicted, of_test(stacks, k))


def test_it_predicts_held_out_rows_as_the_nested_fit_did(case):
    """The out-of-fold probabilities are made row by row in the fit, by code of its own."""
    rows, _ = case
    stacks = stack(case)
    for k in range(K):
        held = rows.fold == k
        predicted = stored(stacks, k).predict(rows.X[held], rows.names)
        oof = np.column_stack([stacks[label].oof[held] for label in LABELS])
        np.testing.assert_array_equal(predicted, oof)


@pytest.mark.parametrize("components", [("raw", "pooled"), ("raw", "lightgbm", "subtypes")])
def test_seeds_and_an_any_that_is_raised(case, components):
    rows, test_X = case
    settings = {"seeds": 2, "any_at_least_largest": True}
    stacks = stack(case, components=components, **settings)
    for k in range(K):
        predicted = stored(stacks, k, **settings).predict(test_X[k], rows.names)
        np.testing.assert_array_equal(predicted, of_test(stacks, k))
        assert (predicted[:, 0] >= predicted.max(axis=1)).all()


@every_other
def test_the_components_that_are_off_by_default(case, name, monkeypatch):
    monkeypatch.setattr("stage2_stack.components.series_gru.EPOCHS", 8)
    (rows, test_X), test_starts = case, np.array([0, 5])
    rows = replace(rows, starts=np.arange(0, 600, 4), test_starts=test_starts)
    stacks = stack((rows, test_X), components=("raw", name), max_rounds=20, confidence=0)
    assert any(name in blend.weights for label in LABELS for blend in stacks[label].blends)
    for k in range(K):
        predicted = stored(stacks, k).predict(test_X[k], rows.names, test_starts)
        np.testing.assert_array_equal(predicted, of_test(stacks, k))
        held = rows.fold == k  # whole series of four
        starts = np.arange(0, held.sum(), 4)
        predicted = stored(stacks, k).predict(rows.X[held], rows.names, starts)
        oof = np.column_stack([stacks[label].oof[held] for label in LABELS])
        np.testing.assert_allclose(predicted, oof, rtol=1e-5)
    if name == "gru":
        with pytest.raises(ValueError, match="give the rows' starts"):
            stored(stacks, 0).predict(test_X[0], rows.names)


def test_a_label_without_boosters_keeps_the_calibrated_mean(case):
    rows, test_X = case
    left = {**CONFIGS, "subdural": [LEFT] * K, "epidural": [LEFT, STACKED, LEFT]}
    stacks = stack(case, left, components=("raw", "lightgbm"))
    for k in range(K):
        predicted = stored(stacks, k).predict(test_X[k], rows.names)
        np.testing.assert_array_equal(predicted, of_test(stacks, k))
        np.testing.assert_array_equal(
            predicted[:, LABELS.index("subdural")], stacks["subdural"].calibrated_test[k]
        )


def test_slices_without_predictions_get_the_prior_or_their_neighbours(case):
    """A slice that no CNN could read is NaN in its own columns."""
    rows, test_X = case
    blank = test_X.copy()
    blank[:, 2] = np.nan
    stacks = stack(case, test_X=blank)
    for k in range(K):
        predicted = stored(stacks, k).predict(blank[k], rows.names)
        assert np.isfinite(predicted).all()
        np.testing.assert_array_equal(predicted, of_test(stacks, k))


def test_each_row_is_predicted_alone(case):
    rows, test_X = case
    stacker = stored(stack(case), 0)
    whole = stacker.predict(test_X[0], rows.names)
    np.testing.assert_array_equal(stacker.predict(test_X[0][3:5], rows.names), whole[3:5])


def test_a_missing_booster_is_no_silent_fallback(case):
    rows, test_X = case
    stacker = stored(stack(case), 0)
    with pytest.raises(KeyError, match="seed0"):
        stacker._replace(files={}).predict(test_X[0], rows.names)
