"""The feature matrix: its values, and one fixed order of columns."""

import numpy as np
import pytest
from every_family import RICH
from scipy.special import logit
from tiny_tables import random_table, slice_table

from ct.averaging import mean_logits
from ct.config import validate
from ct.errors import InputError
from ct.labels import LABELS
from features import build as module
from features.build import build_features, feature_names
from features.config import FeatureConfig
from features.geometry import GEOMETRY, METADATA, SCANNER
from pipeline.recipe import find_recipe, load_recipe

NAN = np.nan


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    table = random_table(rng)
    logits = {
        model: rng.normal(-2, 3, (len(table), 6)).astype(np.float32) for model in ("resnet", "vgg")
    }
    logits["resnet"][3] = logits["vgg"][3] = NAN
    return table.assign(**dict.fromkeys(SCANNER, 1.0)), logits


@pytest.fixture
def fitted(case):
    """Random values in place of the logits that are fitted on labels."""
    rng = np.random.default_rng(1)
    chain, *probes = rng.normal(size=(3, len(case[0]), 6)).astype(np.float32)
    return {"markov_logits": chain, "probe_logits": dict(zip(case[1], probes, strict=True))}


def rows_of(fitted, rows):
    return {
        "markov_logits": fitted["markov_logits"][rows],
        "probe_logits": {model: logits[rows] for model, logits in fitted["probe_logits"].items()},
    }


def test_one_row_per_slice_and_one_name_per_column(case):
    table, logits = case
    X, names = build_features(table, logits, FeatureConfig())
    assert X.dtype == np.float32 and X.shape == (len(table), len(names))
    assert len(set(names)) == len(names)
    assert len(names) == 6 * (1 + 2 + 1 + 2 * 3 + 2 + 8) + len(GEOMETRY)
    assert names[:6] == list(LABELS)  # tune and stack read these columns by position
    np.testing.assert_array_equal(X[:, :6], mean_logits(logits))
    by_name = dict(zip(names, X.T, strict=True))
    np.testing.assert_array_equal(by_name["any_by_vgg"], logits["vgg"][:, 0])
    a, b = (logits[m][:, 5] for m in logits)
    np.testing.assert_allclose(by_name["subdural_spread"], np.abs(a - b) / 2, rtol=1e-4, atol=1e-5)


def test_neighbours_are_of_the_mean_logit(case):
    table, logits = case
    X, names = build_features(table, logits, FeatureConfig(reach=1))
    by_name = dict(zip(names, X.T, strict=True))
    here, above = (table["place"].to_numpy() == place for place in (0, 1))
    two = np.flatnonzero(here[:-1] & above[1:])
    np.testing.assert_array_equal(by_name["epidural_z+1"][two], by_name["epidural"][two + 1])
    np.testing.assert_array_equal(by_name["epidural_z-1"][two + 1], by_name["epidural"][two])


def test_an_unreadable_slice_has_its_neighbours_features_and_spoils_no_other_slice():
    table = slice_table(("train", "a", [0, 5, 10]))
    p = np.full((3, 6), logit(0.2))
    p[1] = NAN
    X, names = build_features(table, {"m": p}, FeatureConfig(reach=1))
    by_name = dict(zip(names, X.T, strict=True))
    assert np.isnan(by_name["any"]).tolist() == [False, True, False]
    for name in ("any_z-1", "any_z+1", "any_smooth8mm", "any_study_max", "any_peak_mm"):
        assert not np.isnan(by_name[name][1]), name
    np.testing.assert_allclose(by_name["any_smooth8mm"], logit(0.2), rtol=1e-5)


def test_the_order_depends_on_config_and_models_alone(case, fitted):
    table, logits = case
    own = (table["study_id"] == "S2").to_numpy()
    for config, keywords in ((FeatureConfig(), None), (RICH, fitted)):
        _, names = build_features(table, logits, config, **(keywords or {}))
        assert names == feature_names(list(logits), config) and len(set(names)) == len(names)
        for rows in (own, np.zeros(len(table), bool)):
            some = build_features(
                table[rows],
                {m: p[rows] for m, p in logits.items()},
                config,
                **(rows_of(keywords, rows) if keywords else {}),
            )
            assert some[1] == names and some[0].shape == (rows.sum(), len(names))


def test_an_incomplete_or_unsorted_table_is_refused(case):
    """Otherwise neighbours would be slices of other series."""
    table, logits = case
    orders = {
        "a slice is left out": np.delete(np.arange(len(table)), 1),
        "upside down": np.arange(len(table))[::-1],
        "unsorted": np.argsort(table["place"].to_numpy(), kind="stable"),
    }
    for order in orders.values():
        with pytest.raises(ValueError, match="slice ID_"):
            build_features(
                table.iloc[order], {m: p[order] for m, p in logits.items()}, FeatureConfig()
            )


def test_families_can_be_left_out(case):
    table, logits = case
    bare = FeatureConfig(reach=0, smooth_mm=(), study=False, geometry=False)
    X, names = build_features(table, {"resnet": logits["resnet"]}, bare)
    # one model: no columns of its own, no spread
    assert names == list(LABELS) and X.shape == (len(table), 6)
    _, names = build_features(table, logits, FeatureConfig(geometry=False))
    assert not set(names) & set(GEOMETRY)


def test_features_of_a_study_do_not_depend_on_the_others(case, fitted):
    """Train and test slices built separately have the same features as built together."""
    table, logits = case
    X, _ = build_features(table, logits, RICH, **fitted)
    for study in table["study_id"].unique()[:4]:
        own = (table["study_id"] == study).to_numpy()
        alone, _ = build_features(
            table[own], {m: p[own] for m, p in logits.items()}, RICH, **rows_of(fitted, own)
        )
        np.testing.assert_array_equal(alone, X[own])


@pytest.mark.parametrize("rows", [1, 7, 20, 1000])
def test_blocks_make_no_difference(case, fitted, rows, monkeypatch):
    """Another study of a patient may lie in another block."""
    table, logits = case
    table["patient_id"] = np.where(table["study_id"].isin(["S0", "S9"]), "P0", table["patient_id"])
    whole, names = build_features(table, logits, RICH, **fitted)
    assert not np.isnan(whole[table["study_id"] == "S9", names.index("any_others_max")]).any()
    monkeypatch.setattr(module, "BLOCK_ROWS", rows)
    np.testing.assert_array_equal(build_features(table, logits, RICH, **fitted)[0], whole)


def test_it_writes_to_the_array_out(case, tmp_path):
    table, logits = case
    X, names = build_features(table, logits, FeatureConfig())
    assert X.flags.f_contiguous
    for order in (False, True):
        out = np.lib.format.open_memmap(
            tmp_path / "X.npy", "w+", np.float32, X.shape, fortran_order=order
        )
        assert build_features(table, logits, FeatureConfig(), out=out)[0] is out
        np.testing.assert_array_equal(out, X)
    with pytest.raises(ValueError, match=rf"\({len(table)}, 3\).*\({len(table)}, {len(names)}\)"):
        build_features(table, logits, FeatureConfig(), out=np.empty((len(table), 3), np.float32))


def test_fitted_logits_are_required_where_the_config_has_them_and_only_there(case, fitted):
    table, logits = case
    for config, keywords in (
        (RICH, {}),
        (FeatureConfig(), fitted),
        (RICH, {"markov_logits": fitted["markov_logits"]}),
    ):
        with pytest.raises(ValueError, match="chain: .*, probe: "):
            build_features(table, logits, config, **keywords)
    with pytest.raises(ValueError, match="probe_logits of vgg, but logits of resnet, vgg"):
        build_features(
            table,
            logits,
            RICH,
            fitted["markov_logits"],
            {"vgg": fitted["probe_logits"]["vgg"]},
        )
    X, names = build_features(table, logits, RICH, **fitted)
    by_name = dict(zip(names, X.T, strict=True))
    np.testing.assert_array_equal(by_name["epidural_chain"], fitted["markov_logits"][:, 1])
    np.testing.assert_array_equal(by_name["any_probe_by_vgg"], fitted["probe_logits"]["vgg"][:, 0])
    np.testing.assert_allclose(
        by_name["any_probe"],
        np.mean([p[:, 0] for p in fitted["probe_logits"].values()], axis=0),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"reach": 21},
        {"model_reach": -1},
        {"rolling": [0]},
        {"rolling": [2, 2]},
        {"smooth_mm": [5, 5.0]},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        validate(FeatureConfig, wrong, "r.yaml")


def test_columns_that_identify_a_scanner_are_off_by_default(case):
    names = {
        name: set(build_features(*case, FeatureConfig(**{name: True}))[1])
        for name in ("scanner", "padding", "place")
    }
    plain = set(build_features(*case, FeatureConfig())[1])
    assert names["scanner"] - plain == set(SCANNER) and names["padding"] - plain == {"padded"}
    assert not plain & (set(METADATA) - set(GEOMETRY))


def test_the_rich_set_has_938_columns():
    """Four CNNs, reach 10, without embeddings."""
    wider = {
        "reach": 10,
        "model_reach": 10,
        "difference_reach": 10,
        "smooth_mm": (2.5, 5, 10, 20),
        "rolling": (1, 2, 4),
        "probe": False,
    }
    config = RICH.model_copy(update=wider)
    assert len(feature_names(["a", "b", "c", "d"], config)) == 938


def test_the_recipe_of_the_demo_has_the_columns_its_figures_were_measured_with():
    config = load_recipe(find_recipe("demo")).features
    kinds = [
        "",
        "_by_resnet",
        "_by_efficientnet",
        "_spread",
        *(f"_z{s:+d}" for s in (-1, 1, -2, 2, -3, 3)),
        "_smooth3mm",
        "_smooth8mm",
    ]
    names = [f"{label}{kind}" for kind in kinds for label in LABELS]
    assert feature_names(["resnet", "efficientnet"], config) == [*names, *GEOMETRY]
