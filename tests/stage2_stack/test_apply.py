"""What was kept of stage two says of the test rows what the fit said of them, to the last bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_stacker import CONFIGS, LEFT, STACKED, K, every_other, make_case, stack

from ct.labels import LABELS
from pipeline.stages.stack import _blend_values
from stage2_stack.apply import COMPONENT, Stacker, apply_stacker, read_blend
from stage2_stack.calibration import Platt
from stage2_stack.config import COMPONENTS, DEFAULT


def kept(made, k, **settings):
    """The Stacker of fold k, by way of what lies on disk: JSON and files."""
    blends = json.loads(
        json.dumps({label: _blend_values(made[label].blends[k]) for label in LABELS})
    )
    starts = json.loads(
        json.dumps({label: made[label].blends[k].platts["raw"]._asdict() for label in LABELS})
    )
    files = {name: file for label in LABELS for name, file in made[label].models.items()}
    return Stacker(
        {label: read_blend(values) for label, values in blends.items()},
        {label: Platt(**values) for label, values in starts.items()},
        {
            name.replace(f"-fold{k}", ""): file
            for name, file in files.items()
            if f"-fold{k}-" in name
        },
        **settings,
    )


@pytest.fixture(scope="module")
def case():
    return make_case()


def test_every_component_has_its_entry():
    assert set(COMPONENT) == set(COMPONENTS)


def test_it_says_what_the_fit_said(case):
    rows, test_X = case
    made = stack(case)
    used = {name for label in LABELS for blend in made[label].blends for name in blend.weights}
    assert used == set(DEFAULT)  # each is put to the test
    for k in range(K):
        said = apply_stacker(kept(made, k), test_X[k], rows.names)
        np.testing.assert_array_equal(
            said, np.column_stack([made[label].test[k] for label in LABELS])
        )


@pytest.mark.parametrize("components", [("raw", "pooled"), ("raw", "lightgbm", "subtypes")])
def test_seeds_and_an_any_that_is_raised(case, components):
    rows, test_X = case
    settings = {"seeds": 2, "any_at_least_largest": True}
    made = stack(case, components=components, **settings)
    for k in range(K):
        said = apply_stacker(kept(made, k, **settings), test_X[k], rows.names)
        np.testing.assert_array_equal(
            said, np.column_stack([made[label].test[k] for label in LABELS])
        )


@every_other
def test_the_components_that_are_off_by_default(case, name, monkeypatch):
    monkeypatch.setattr("stage2_stack.gru.EPOCHS", 8)
    (rows, test_X), test_starts = case, np.array([0, 5])
    rows = replace(rows, starts=np.arange(0, 600, 4), test_starts=test_starts)
    made = stack((rows, test_X), components=("raw", name), max_rounds=20, confidence=0)
    assert any(name in blend.weights for label in LABELS for blend in made[label].blends)
    for k in range(K):
        said = apply_stacker(kept(made, k), test_X[k], rows.names, test_starts)
        np.testing.assert_array_equal(
            said, np.column_stack([made[label].test[k] for label in LABELS])
        )
    if name == "gru":
        with pytest.raises(ValueError, match="give the rows' starts"):
            apply_stacker(kept(made, 0), test_X[0], rows.names)


def test_a_label_without_boosters_keeps_the_calibrated_mean(case):
    rows, test_X = case
    left = {**CONFIGS, "subdural": [LEFT] * K, "epidural": [LEFT, STACKED, LEFT]}
    made = stack(case, left, components=("raw", "lightgbm"))
    for k in range(K):
        said = apply_stacker(kept(made, k), test_X[k], rows.names)
        np.testing.assert_array_equal(
            said, np.column_stack([made[label].test[k] for label in LABELS])
        )
        np.testing.assert_array_equal(
            said[:, LABELS.index("subdural")], made["subdural"].calibrated_test[k]
        )


def test_slices_without_an_opinion_get_the_prior_or_their_neighbours(case):
    """A slice that no CNN could read is NaN in its own columns."""
    rows, test_X = case
    blank = test_X.copy()
    blank[:, 2] = np.nan
    made = stack(case, test_X=blank)
    for k in range(K):
        said = apply_stacker(kept(made, k), blank[k], rows.names)
        assert np.isfinite(said).all()
        np.testing.assert_array_equal(
            said, np.column_stack([made[label].test[k] for label in LABELS])
        )


def test_each_row_stands_by_itself(case):
    rows, test_X = case
    stacker = kept(stack(case), 0)
    whole = apply_stacker(stacker, test_X[0], rows.names)
    np.testing.assert_array_equal(apply_stacker(stacker, test_X[0][3:5], rows.names), whole[3:5])


def test_a_missing_booster_is_no_silent_fallback(case):
    rows, test_X = case
    stacker = kept(stack(case), 0)
    with pytest.raises(KeyError, match="seed0"):
        apply_stacker(stacker._replace(files={}), test_X[0], rows.names)
