"""Stage two as a whole: fold k's labels never reach stacker k."""

import importlib.util

import lightgbm as lgb
import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.metrics import log_loss

from ct.labels import LABELS, SUBTYPES, WEIGHTS
from ct.metrics import log_loss as loss_of
from features.columns import scope_columns
from stage2_stack.ablation import ablation
from stage2_stack.calibration import Platt, cross_fit
from stage2_stack.components import PACKAGES
from stage2_stack.components.component import load_component
from stage2_stack.components.noisy_or import finite_logit, union_logit
from stage2_stack.components.series_gru import SeriesInput
from stage2_stack.config import StackConfig
from stage2_stack.learners.gru_network import GRU
from stage2_stack.patient_calibration import fit_calibration
from stage2_stack.stack_context import StackData
from stage2_stack.stacker import fit_stack
from stage2_stack.tuning.search_space import FIRST

K = 3
KINDS = ("", "_smooth_best", "_chain", "_z+1")
NAMES = [*(f"{label}{kind}" for kind in KINDS for label in LABELS), "tilt_deg"]
STACKED = {"stacked": True, "params": FIRST | {"feature_fraction": 1.0}, "rounds": 15}
LEFT = {"stacked": False, "params": {}, "rounds": 0}
CONFIGS = {label: [STACKED] * K for label in LABELS}


def make_case(seed=0, n=600, shuffled=False):
    """Slices whose neighbour predicts the label better than the slice itself; test slices per fold.

    shuffled: the labels are those of another patient, so that no feature predicts them
    """
    rng = np.random.default_rng(seed)
    subtypes = rng.random((n // 4, 5)) < (0.15, 0.3, 0.2, 0.3, 0.3)
    y = np.repeat(np.column_stack([subtypes.any(axis=1), subtypes]), 4, axis=0).astype(float)
    X, test_X = (
        rng.normal(size=shape).astype(np.float32) for shape in ((n, len(NAMES)), (K, 8, len(NAMES)))
    )
    for i, strength in enumerate((1.0, 1.2, 1.4, 2.0)):
        X[:, 6 * i : 6 * i + 6] += strength * y
    patients = np.repeat(np.arange(n // 4), 4)
    if shuffled:
        y = np.repeat(y[::4][rng.permutation(n // 4)], 4, axis=0)
    return StackData(
        X, y, rng.permutation(np.arange(n // 4) % K)[patients], patients, NAMES
    ), test_X


def calibrated_by_patient(rows, raw, y):
    """Return (calibrated logits, platts), of each fold without it."""
    calibrated, platts = np.empty(len(raw)), []
    for k in range(K):
        fit = (rows.fold != k) & ~np.isnan(y)
        platts.append(fit_calibration(raw[fit], y[fit], rows.patients[fit]))
        calibrated[rows.fold == k] = platts[k].logit(raw[rows.fold == k])
    return calibrated, platts


@pytest.fixture(scope="module")
def case():
    return make_case()


def stack(case, configs=CONFIGS, y=None, test_X=None, seed=0, **config):
    rows, own_test = case
    rows = rows if y is None else StackData(rows.X, y, rows.fold, rows.patients, rows.names)
    defaults = {"threads": 1, "max_rounds": 10, "blend_rounds": 1}
    settings = StackConfig(**{**defaults, **config})
    return fit_stack(rows, own_test if test_X is None else test_X, configs, settings, seed)


@pytest.fixture(scope="module")
def whole(case):
    return stack(case)


def test_it_beats_the_calibrated_stage_one(case, whole):
    rows, _ = case
    for j, label in enumerate(LABELS):
        result = whole[label]
        raw = rows.X[:, NAMES.index(label)]
        base, platts = calibrated_by_patient(rows, raw, rows.y[:, j])
        np.testing.assert_array_equal(result.calibrated, expit(base))
        assert [blend.platts["raw"] for blend in result.blends] == platts
        assert log_loss(rows.y[:, j], result.oof) < log_loss(rows.y[:, j], result.calibrated) - 0.05
        assert result.oof.shape == (600,) and result.test.shape == result.calibrated_test.shape == (
            K,
            8,
        )
        assert set(result.component_oof) == {
            "raw",
            "smooth",
            "chain",
            "lightgbm",
            "subtypes" if label == "any" else "pooled",
        }
        assert NAMES[result.gain.argmax()].endswith("_z+1")
        assert 0.2 < result.gain.sum() <= 1 + 1e-9  # `other_1` is no feature of X
        swing = result.contributions
        assert (
            NAMES[swing.argmax()].endswith("_z+1")
            and swing.max() > 0.05
            and ((swing > 0) <= (result.gain > 0)).all()
        )
        for name, kind in (("raw", ""), ("smooth", "_smooth_best"), ("chain", "_chain")):
            feature = rows.X[:, NAMES.index(label + kind)]
            alone, _ = calibrated_by_patient(rows, feature, rows.y[:, j])
            np.testing.assert_array_equal(result.component_oof[name], expit(alone))
    files = {name for result in whole.values() for name in result.models}
    stems = {name.rsplit("-fold", 1)[0] for name in files}
    assert {"lightgbm-any", "lightgbm-subdural", "pooled"} <= stems
    assert stems <= {"pooled", *(f"lightgbm-{label}" for label in LABELS)}


def test_noisy_or_is_the_logit_of_at_least_one_of_several_events():
    p = np.array([[0.5, 0.1, 1e-9], [0.5, 0.2, 1e-9]])
    np.testing.assert_allclose(expit(union_logit(logit(p))), [0.75, 0.28, 2e-9], rtol=1e-6)
    # nothing overflows
    np.testing.assert_allclose(union_logit(np.array([[800.0], [-800.0]])), [800.0])
    assert np.isnan(union_logit(np.array([[np.nan], [0.0]]))).all()


def test_a_subtype_that_is_certain_leaves_a_number():
    """Logits of CNNs are not clipped: from 37 up their probability is 1 in float64."""
    certain = expit(np.array([[800.0, 3.0, -800.0], [-800.0, 2.0, -900.0]]))
    union = union_logit(np.stack([finite_logit(p) for p in certain]))
    assert np.isfinite(union).all() and union[0] > 30
    np.testing.assert_array_equal(finite_logit(certain[:, 1]), logit(certain[:, 1]))
    flat = Platt(0.0, -1.0, 0.1)  # for which an infinite logit would be no number
    assert np.isfinite(flat.logit(union)).all()


def test_any_reads_the_finished_subtypes(case, whole):
    rows, _ = case
    held_out = np.stack([whole[label].oof for label in SUBTYPES])
    combined, _ = cross_fit(logit(1 - np.prod(1 - held_out, axis=0)), rows.y[:, 0], rows.fold, K)
    alone = whole["any"].component_oof["subtypes"]
    # calibrated on nested rows there, on held-out ones here
    assert np.corrcoef(logit(alone), combined)[0, 1] > 0.99
    assert any("subtypes" in blend.weights for blend in whole["any"].blends)
    without = stack(case, components=("raw", "smooth", "chain", "lightgbm", "pooled"))
    assert log_loss(rows.y[:, 0], whole["any"].oof) < log_loss(rows.y[:, 0], without["any"].oof)
    for label in SUBTYPES:
        np.testing.assert_array_equal(without[label].oof, whole[label].oof)


def test_any_is_at_least_the_largest_subtype_where_asked(case, whole):
    raised = stack(case, any_at_least_largest=True)
    for part in ("oof", "test"):
        largest = np.max([getattr(whole[label], part) for label in SUBTYPES], axis=0)
        before, after = getattr(whole["any"], part), getattr(raised["any"], part)
        assert (before < largest).any()
        np.testing.assert_array_equal(after, np.maximum(before, largest))
        for label in SUBTYPES:
            np.testing.assert_array_equal(getattr(raised[label], part), getattr(whole[label], part))


@pytest.mark.parametrize("k", [0, 2])
def test_labels_of_a_fold_never_reach_its_scores_nor_its_stacker(case, whole, k):
    rows, _ = case
    held = rows.fold == k
    after = stack(case, y=np.where(held[:, None], 1 - rows.y, rows.y))
    for label in LABELS:
        one, two = whole[label], after[label]
        assert one.blends[k] == two.blends[k]
        for name in ("oof", "calibrated"):
            np.testing.assert_array_equal(getattr(one, name)[held], getattr(two, name)[held])
            # a leak would show here
            assert (getattr(one, name)[~held] != getattr(two, name)[~held]).mean() > 0.9
        for name, alone in one.component_oof.items():
            np.testing.assert_array_equal(alone[held], two.component_oof[name][held])
        np.testing.assert_array_equal(one.test[k], two.test[k])
        np.testing.assert_array_equal(one.calibrated_test[k], two.calibrated_test[k])


def test_stacker_k_reads_the_test_features_of_fold_k_alone(case, whole):
    other = case[1].copy()
    other[1] += 1
    after = stack(case, test_X=other)
    for label in LABELS:
        for name in ("test", "calibrated_test"):
            changed = (getattr(whole[label], name) != getattr(after[label], name)).any(axis=1)
            assert changed.tolist() == [False, True, False]
        np.testing.assert_array_equal(whole[label].oof, after[label].oof)


def test_a_fold_that_is_not_stacked_gets_the_calibrated_stage_one(case):
    rows, _ = case
    components = {"components": ("raw", "lightgbm")}
    before = stack(case, **components)
    after = stack(case, {**CONFIGS, "subdural": [STACKED, LEFT, STACKED]}, **components)
    result = after["subdural"]
    np.testing.assert_array_equal(result.oof[rows.fold == 1], result.calibrated[rows.fold == 1])
    np.testing.assert_array_equal(result.test[1], result.calibrated_test[1])
    np.testing.assert_array_equal(
        result.oof[rows.fold != 1], before["subdural"].oof[rows.fold != 1]
    )
    assert sorted(result.models) == [
        "lightgbm-subdural-fold0-seed0.txt",
        "lightgbm-subdural-fold2-seed0.txt",
    ]
    assert result.blends[1].why and not result.blends[0].why


def test_a_label_with_positives_in_few_patients_keeps_the_calibrated_stage_one(case):
    rows, _ = case
    y = rows.y.copy()
    y[rows.patients > 4, 1] = 0
    result = stack(case, y=y, positive_patients=6)["epidural"]
    np.testing.assert_array_equal(result.oof, result.calibrated)
    assert all("the training folds" in blend.why for blend in result.blends) and not result.models


def test_unlabelled_rows_are_predicted_but_not_learned_from(case):
    rows, _ = case
    lost = np.arange(600) % 7 == 0
    # they lack one label, and count for none
    y = np.where(lost[:, None] & (np.arange(6) == 2), np.nan, rows.y)
    result = stack(case, y=y)
    assert all(np.isfinite(result[label].oof).all() for label in LABELS)
    for k in range(K):  # bagging takes four of five
        booster = lgb.Booster(
            model_str=result["any"].models[f"lightgbm-any-fold{k}-seed0.txt"].decode()
        )
        root = booster.dump_model(num_iteration=1)["tree_info"][0]
        expected = 0.8 * ((rows.fold != k) & ~lost).sum()
        assert root["tree_structure"]["internal_count"] == pytest.approx(expected, rel=0.02)
    raw = rows.X[:, NAMES.index("any")]
    base, _ = calibrated_by_patient(rows, raw, np.where(lost, np.nan, rows.y[:, 0]))
    np.testing.assert_array_equal(result["any"].calibrated, expit(base))


def test_the_ablation_is_of_the_tables(case, whole):
    rows, _ = case
    known = np.arange(600) % 5 > 0
    steps = ablation(whole, rows.y, known, rows.patients, 0)
    assert [step["component"] for step in steps] == [
        "raw",
        "smooth",
        "chain",
        "lightgbm",
        "pooled",
        "subtypes",
        "blend",
    ]
    for step in steps:
        part = step["component"]
        predictions = [
            whole[label].oof
            if part == "blend"
            else whole[label].component_oof.get(part, whole[label].calibrated)
            for label in LABELS
        ]
        losses = loss_of(rows.y[known], np.column_stack(predictions)[known]).mean(axis=0)
        assert list(step["loss"].values()) == pytest.approx([losses @ WEIGHTS, *losses])
        for name, loss in step["loss"].items():
            gain = step["gain"][name]
            assert gain["gain"] == pytest.approx(steps[0]["loss"][name] - loss)
            assert gain["low"] <= gain["gain"] <= gain["high"] and step["tuned_on"]
    assert steps[0]["gain"]["weighted"] == {"gain": 0, "low": 0, "high": 0}
    losses = [step["loss"]["weighted"] for step in steps]
    assert losses[0] > losses[1] > losses[2] > losses[3] > losses[6] == min(losses)


@pytest.mark.parametrize("seed", range(2))
def test_labels_shuffled_by_study_leave_nothing_to_gain(seed):
    """An alarm for leaks: the loss of unpredictable labels is not below that of the base rate."""
    rows, test_X = make_case(seed, shuffled=True)
    result = stack((rows, test_X))
    for j, label in enumerate(LABELS):
        y = rows.y[:, j]
        base = log_loss(y, np.full(600, y.mean()))
        assert all(
            log_loss(y, predictions) > base - 0.01
            for predictions in (result[label].oof, *result[label].component_oof.values())
        ), label
        assert sum(blend.last is not None for blend in result[label].blends) <= 1


def test_the_same_seed_gives_the_same_bytes(case, whole):
    again, other = stack(case), stack(case, seed=1)
    for label in LABELS:
        for name in ("oof", "test", "calibrated", "nested"):
            assert getattr(again[label], name).tobytes() == getattr(whole[label], name).tobytes()
        assert again[label].models == whole[label].models
    assert (other["any"].oof != whole["any"].oof).any()


# --- components that are off by default


def if_installed(name):
    missing = name in PACKAGES and not importlib.util.find_spec(PACKAGES[name])
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"{name} is not installed"))


every_other = pytest.mark.parametrize(
    "name", [if_installed(name) for name in ("xgboost", "catboost", "gru")]
)


@pytest.fixture
def alone(case, monkeypatch):
    """Return a function that stacks the CNNs and one component; the rows are series of four."""
    monkeypatch.setattr("stage2_stack.components.series_gru.EPOCHS", 8)

    def stacked(name, rows=case[0], test_X=case[1], y=None, **config):
        starts = {"starts": np.arange(0, 600, 4), "test_starts": np.array([0, 5])}
        rows = StackData(
            rows.X, rows.y if y is None else y, rows.fold, rows.patients, rows.names, **starts
        )
        return stack((rows, test_X), components=("raw", name), max_rounds=20, **config)

    return stacked


def logits_by_hand(name, files, case, label, k, start):
    """The logits of fold k's rows and of the test rows, by the model in a component's file."""
    (rows, test_X), held = case, case[0].fold == k
    if name == "gru":
        (file,) = (file for path, file in files.items() if path == f"gru-fold{k}-seed0.safetensors")
        parts = [
            (rows.X, np.arange(0, 600, 4), np.flatnonzero(held)),
            (test_X[k], np.array([0, 5]), np.arange(8)),
        ]
        inputs = [
            (SeriesInput(X, NAMES, starts, X[:, :6].T, None, 1), some) for X, starts, some in parts
        ]
        added = [
            GRU().added_logits(GRU().load(file), source.series(some, None, None), 1)
            for source, some in inputs
        ]
        added = [each[:, LABELS.index(label)] for each in added]
    else:
        learner, columns = load_component(name).learner, scope_columns(NAMES, label, "study")
        model = learner.load(files[f"{name}-{label}-fold{k}-seed0{learner.suffix}"])
        added = [learner.added_logits(model, X[:, columns], 1) for X in (rows.X[held], test_X[k])]
    column = NAMES.index(label)
    return [
        start.logit(X[:, column]) + more
        for X, more in zip((rows.X[held], test_X[k]), added, strict=True)
    ]


@every_other
def test_another_component_beats_the_calibrated_stage_one_by_its_stored_models(case, alone, name):
    rows, _ = case
    stacks, again, checked, gained = alone(name, confidence=0), alone(name, confidence=0), 0, []
    for j, label in enumerate(LABELS):
        result = stacks[label]
        gained.append(
            log_loss(rows.y[:, j], result.calibrated)
            - log_loss(rows.y[:, j], result.component_oof[name])
        )
        assert (
            result.models == again[label].models
            and result.oof.tobytes() == again[label].oof.tobytes()
        )
        for k, blend in enumerate(result.blends):
            if name in blend.weights:
                held, test = logits_by_hand(
                    name, result.models, case, label, k, blend.platts["raw"]
                )
                raw = [
                    rows.X[rows.fold == k, NAMES.index(label)],
                    case[1][k][:, NAMES.index(label)],
                ]
                for predicted, ours, cnn in (
                    (result.oof[rows.fold == k], held, raw[0]),
                    (result.test[k], test, raw[1]),
                ):
                    np.testing.assert_allclose(
                        predicted, expit(blend.logit({name: ours, "raw": cnn})), rtol=1e-6
                    )
                checked += 1
    assert checked > 5 and np.mean(gained) > 0.04


@every_other
def test_labels_of_a_fold_never_reach_another_components_predictions_of_it(case, alone, name):
    rows, _ = case
    held = rows.fold == 1
    one, two = alone(name), alone(name, y=np.where(held[:, None], 1 - rows.y, rows.y))
    for label in LABELS:
        a, b = one[label], two[label]
        assert a.blends[1] == b.blends[1]
        np.testing.assert_array_equal(a.component_oof[name][held], b.component_oof[name][held])
        np.testing.assert_array_equal(a.oof[held], b.oof[held])
        np.testing.assert_array_equal(a.test[1], b.test[1])
        # a leak would show here
        assert (a.component_oof[name][~held] != b.component_oof[name][~held]).mean() > 0.9


@every_other
def test_another_component_gains_nothing_from_shuffled_labels(alone, name):
    rows, test_X = make_case(0, shuffled=True)
    result = alone(name, rows, test_X)
    for j, label in enumerate(LABELS):
        base = log_loss(rows.y[:, j], np.full(600, rows.y[:, j].mean()))
        assert log_loss(rows.y[:, j], result[label].component_oof[name]) > base - 0.01
        assert sum(blend.last is not None for blend in result[label].blends) <= 1


def test_a_network_over_series_needs_their_starts(case):
    with pytest.raises(ValueError, match="give StackData their starts and test_starts"):
        stack(case, components=("raw", "gru"))


def test_where_tuning_left_out_the_only_booster_its_reason_stands(case):
    left = {
        label: [{**LEFT, "why": f"its gain without fold {k} is in doubt"} for k in range(K)]
        for label in LABELS
    }
    result = stack(case, configs=left, components=("raw", "lightgbm"))
    for label in LABELS:
        assert [blend.why for blend in result[label].blends] == [
            f"its gain without fold {k} is in doubt" for k in range(K)
        ]
        np.testing.assert_array_equal(result[label].oof, result[label].calibrated)


def test_a_slice_may_count_as_one_observation_as_in_older_versions(case):
    rows, _ = case
    result = stack(case, components=("raw",), calibrate_by="slice")
    base, platts = cross_fit(rows.X[:, NAMES.index("any")], rows.y[:, 0], rows.fold, K)
    np.testing.assert_array_equal(result["any"].calibrated, expit(base))
    assert [blend.platts["raw"] for blend in result["any"].blends] == platts


def test_labels_of_few_patients_that_are_alike_are_left_to_the_cnns():
    """Six patients, half of them positive in all slices: the noise of the CNNs stays as it is."""
    rows, test_X = make_case(1, 240, shuffled=True)
    rows.patients[:], rows.fold[:] = np.arange(240) // 40, np.arange(240) // 40 % K
    rows.y[:] = (rows.patients < 3)[:, None]
    result = stack((rows, test_X), {label: [LEFT | {"why": "few"}] * K for label in LABELS})
    raw = rows.X[:, NAMES.index("any")].astype(np.float64)
    assert result["any"].oof == pytest.approx(expit(raw))
