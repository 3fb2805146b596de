"""What was kept of stage two says of the test rows what the fit said of them, to the last bit."""

import json

import lightgbm as lgb
import numpy as np
import pytest
from test_stack import CONFIGS, LEFT, STACKED, K, make_case, stack

from ct.labels import LABELS
from pipeline.stacking import _blend_values
from stage2_stack.apply import COMPONENT, Stacker, apply_stacker, read_blend
from stage2_stack.calibrate import Platt
from stage2_stack.config import COMPONENTS


def kept(made, k, **settings):
    """The Stacker of fold k, by way of what lies on disk: JSON and LightGBM's text."""
    blends = json.loads(json.dumps({label: _blend_values(made[label].blends[k]) for label in LABELS}))
    starts = json.loads(json.dumps({label: made[label].blends[k].platts["raw"]._asdict() for label in LABELS}))
    texts = {name: booster.model_to_string() for label in LABELS for name, booster in made[label].boosters.items()}
    return Stacker(
        {label: read_blend(values) for label, values in blends.items()},
        {label: Platt(**values) for label, values in starts.items()},
        {n.replace(f"-fold{k}", ""): lgb.Booster(model_str=t) for n, t in texts.items() if f"-fold{k}-" in n},
        **settings,
    )


@pytest.fixture(scope="module")
def case():
    return make_case()


def test_every_component_has_its_entry():
    assert set(COMPONENT) == set(COMPONENTS)


@pytest.mark.parametrize("settings", [{}, {"seeds": 2, "any_at_least_largest": True, "components": ("raw", "pooled")}])
def test_it_says_what_the_fit_said(case, settings):
    rows, test_X = case
    made = stack(case, **settings)
    used = {name for label in LABELS for blend in made[label].blends for name in blend.weights}
    assert used == set(settings.get("components", COMPONENTS))  # each is put to the test
    for k in range(K):
        rest = {name: value for name, value in settings.items() if name != "components"}
        said = apply_stacker(kept(made, k, **rest), test_X[k], rows.names)
        np.testing.assert_array_equal(said, np.column_stack([made[label].test[k] for label in LABELS]))


def test_a_label_without_boosters_keeps_the_calibrated_mean(case):
    rows, test_X = case
    left = {**CONFIGS, "subdural": [LEFT] * K, "epidural": [LEFT, STACKED, LEFT]}
    made = stack(case, left, components=("raw", "lightgbm"))
    for k in range(K):
        said = apply_stacker(kept(made, k), test_X[k], rows.names)
        np.testing.assert_array_equal(said, np.column_stack([made[label].test[k] for label in LABELS]))
        np.testing.assert_array_equal(said[:, LABELS.index("subdural")], made["subdural"].calibrated_test[k])


def test_slices_without_an_opinion_get_the_prior_or_their_neighbours(case):
    """A slice that no CNN could read is NaN in its own columns."""
    rows, test_X = case
    blank = test_X.copy()
    blank[:, 2] = np.nan
    made = stack(case, test_X=blank)
    for k in range(K):
        said = apply_stacker(kept(made, k), blank[k], rows.names)
        assert np.isfinite(said).all()
        np.testing.assert_array_equal(said, np.column_stack([made[label].test[k] for label in LABELS]))


def test_each_row_stands_by_itself(case):
    rows, test_X = case
    stacker = kept(stack(case), 0)
    whole = apply_stacker(stacker, test_X[0], rows.names)
    np.testing.assert_array_equal(apply_stacker(stacker, test_X[0][3:5], rows.names), whole[3:5])


def test_a_missing_booster_is_no_silent_fallback(case):
    rows, test_X = case
    stacker = kept(stack(case), 0)
    with pytest.raises(KeyError, match="seed0"):
        apply_stacker(stacker._replace(boosters={}), test_X[0], rows.names)
