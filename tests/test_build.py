"""The feature matrix: logits, one fixed order of columns, and what each is called."""

import numpy as np
import pytest
from scipy.special import expit, logit
from tiny_tables import random_table, slice_table

from ct.labels import LABELS
from features.build import SCOPES, build_features, describe, mean_logits, scope_columns, to_logits
from features.config import FeatureConfig
from features.geometry import GEOMETRY

NAN = np.nan


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    table = random_table(rng)
    opinions = {model: rng.uniform(0.01, 0.99, (len(table), 6)) for model in ("resnet", "vgg")}
    opinions["resnet"][3] = opinions["vgg"][3] = NAN
    return table, opinions


def test_logits_are_clipped_and_keep_nan():
    p = np.array([0.0, 1e-7, 0.25, 0.5, 1.0, NAN])
    found = to_logits(p, 1e-5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [logit(1e-5), logit(1e-5), -np.log(3), 0, logit(1 - 1e-5), NAN], rtol=1e-4, atol=1e-7)
    assert found[0] == pytest.approx(-11.5129, abs=1e-3)


def test_mean_is_of_logits_not_of_probabilities():
    found = mean_logits({"a": np.full((1, 6), 0.9), "b": np.full((1, 6), 0.5)}, 1e-5)
    assert found.shape == (1, 6) and found.dtype == np.float32
    np.testing.assert_allclose(expit(found), 0.75, rtol=1e-5)  # not 0.7


def test_one_row_per_slice_and_one_name_per_column(case):
    table, opinions = case
    X, names = build_features(table, opinions, FeatureConfig())
    assert X.dtype == np.float32 and X.shape == (len(table), len(names))
    assert len(set(names)) == len(names)
    assert len(names) == 6 * (1 + 2 + 1 + 2 * 3 + 2 + 5) + len(GEOMETRY)
    assert names[:6] == list(LABELS)  # tune and stack take their base from these columns
    np.testing.assert_array_equal(X[:, :6], mean_logits(opinions, 1e-5))
    by_name = dict(zip(names, X.T, strict=True))
    np.testing.assert_array_equal(by_name["any_by_vgg"], to_logits(opinions["vgg"][:, 0], 1e-5))
    a, b = (to_logits(opinions[m][:, 5], 1e-5) for m in opinions)
    np.testing.assert_allclose(by_name["subdural_spread"], np.abs(a - b) / 2, rtol=1e-4, atol=1e-5)


def test_neighbours_are_of_the_mean_logit(case):
    table, opinions = case
    X, names = build_features(table, opinions, FeatureConfig(reach=1))
    by_name = dict(zip(names, X.T, strict=True))
    here, above = (table["place"].to_numpy() == place for place in (0, 1))
    two = np.flatnonzero(here[:-1] & above[1:])
    np.testing.assert_array_equal(by_name["epidural_z+1"][two], by_name["epidural"][two + 1])
    np.testing.assert_array_equal(by_name["epidural_z-1"][two + 1], by_name["epidural"][two])


def test_an_unreadable_slice_hears_its_neighbours_and_spoils_no_other():
    table = slice_table(("train", "a", [0, 5, 10]))
    p = np.full((3, 6), 0.2)
    p[1] = NAN
    X, names = build_features(table, {"m": p}, FeatureConfig(reach=1))
    by_name = dict(zip(names, X.T, strict=True))
    assert np.isnan(by_name["any"]).tolist() == [False, True, False]
    for name in ("any_z-1", "any_z+1", "any_smooth8mm", "any_study_max", "any_peak_mm"):
        assert not np.isnan(by_name[name][1]), name
    np.testing.assert_allclose(by_name["any_smooth8mm"], logit(0.2), rtol=1e-5)


def test_the_order_depends_on_config_and_models_alone(case):
    table, opinions = case
    _, names = build_features(table, opinions, FeatureConfig())
    own = (table["study_id"] == "S2").to_numpy()
    assert build_features(table[own], {m: p[own] for m, p in opinions.items()}, FeatureConfig())[1] == names
    assert build_features(table.iloc[:0], {m: p[:0] for m, p in opinions.items()}, FeatureConfig())[0].shape == (0, len(names))


def test_a_torn_or_unsorted_table_is_refused(case):
    """Its neighbours would be of other series."""
    table, opinions = case
    orders = {"a slice is left out": np.delete(np.arange(len(table)), 1), "upside down": np.arange(len(table))[::-1],
              "unsorted": np.argsort(table["place"].to_numpy(), kind="stable")}  # fmt: skip
    for order in orders.values():
        with pytest.raises(ValueError, match="slice ID_"):
            build_features(table.iloc[order], {m: p[order] for m, p in opinions.items()}, FeatureConfig())


def test_families_can_be_left_out(case):
    table, opinions = case
    bare = FeatureConfig(reach=0, smooth_mm=(), study=False, geometry=False)
    X, names = build_features(table, {"resnet": opinions["resnet"]}, bare)
    assert names == list(LABELS) and X.shape == (len(table), 6)  # one model: no columns of its own, no spread
    _, names = build_features(table, opinions, FeatureConfig(geometry=False))
    assert not set(names) & set(GEOMETRY)


def test_features_of_a_study_do_not_depend_on_the_others(case):
    """What is computed on the train slices and on the test slices apart is the same as together."""
    table, opinions = case
    X, _ = build_features(table, opinions, FeatureConfig())
    for study in table["study_id"].unique()[:4]:
        own = (table["study_id"] == study).to_numpy()
        alone, _ = build_features(table[own], {m: p[own] for m, p in opinions.items()}, FeatureConfig())
        np.testing.assert_array_equal(alone, X[own])


def test_scopes_grow_and_keep_to_the_label_and_any(case):
    _, names = build_features(*case, FeatureConfig(reach=1, smooth_mm=(5,)))
    seen = {scope: [names[i] for i in scope_columns(names, "epidural", scope)] for scope in SCOPES}
    kinds = ("", "_by_resnet", "_by_vgg", "_spread", "_z-1", "_z+1", "_smooth5mm")
    assert sorted(seen["context"]) == sorted(label + kind for label in ("any", "epidural") for kind in kinds)
    study = [
        f"{x}_{kind}"
        for x in ("any", "epidural")
        for kind in ("study_max", "study_mean", "study_std", "study_top3", "peak_mm")
    ]
    assert sorted(seen["study"]) == sorted([*seen["context"], *study, *GEOMETRY])
    assert seen["all"] == names
    assert all(found == sorted(found, key=names.index) for found in seen.values())


def test_every_feature_is_described(case):
    _, names = build_features(*case, FeatureConfig(smooth_mm=(2.5, 8)))
    lines = {name: describe(name) for name in names}
    assert len(set(lines.values())) == len(lines)
    assert lines["any"] == "logit of any, mean over the CNNs"
    assert lines["any_z-1"] == "logit of any, 1 slice below"
    assert lines["subdural_z+2"] == "logit of subdural, 2 slices above"
    assert lines["any_smooth2.5mm"] == "logit of any, Gaussian mean of width 2.5 mm along z"
    assert lines["epidural_by_vgg"] == "logit of epidural by vgg"
    assert lines["tilt_deg"] == GEOMETRY["tilt_deg"]
