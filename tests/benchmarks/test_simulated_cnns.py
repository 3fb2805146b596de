"""The simulated CNNs: how they are drawn, which labels they use, how good they are on real ones."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from benchmarks.stacking import lesion_runs
from benchmarks.stacking import simulated_cnns as sim
from benchmarks.stacking import stack_baselines as baselines
from benchmarks.stacking.simulated_head import fit_head, logistic_weights
from ct.labels import LABELS
from ct.metrics import auc, weighted_log_loss
from ct.slices import check_slice_table

STUDIES, LENGTH = 60, 12


@pytest.fixture(scope="module")
def slices():
    """60 series of 12 slices 5 mm apart, one per patient.

    Every third holds a subdural run, every fourth an epidural one.
    """
    rng = np.random.default_rng(3)
    place = np.tile(np.arange(LENGTH), STUDIES).astype(np.int32)
    series = np.repeat(np.arange(STUDIES), LENGTH)
    table = pd.DataFrame(
        {
            "patient_id": [f"p{i:02}" for i in series],
            "study_id": [f"s{i:02}" for i in series],
            "series_id": [f"s{i:02}" for i in series],
            "split": "train",
            "place": place,
            "series_slices": np.int32(LENGTH),
            "position_mm": 5.0 * place,
        },
        index=pd.Index([f"i{i:04}" for i in range(len(place))], name="slice_id"),
    )
    y = pd.DataFrame(0.0, index=table.index, columns=list(LABELS), dtype=np.float32)
    for every, label in ((3, "subdural"), (4, "epidural"), (5, "intraventricular")):
        for i in range(0, STUDIES, every):
            start = i * LENGTH + rng.integers(2, 5)
            y.iloc[start : start + rng.integers(1, 6), LABELS.index(label)] = 1
    y["any"] = y.max(axis=1)
    return table.join(y)


@pytest.fixture(scope="module", params=sim.FAMILIES)
def simulated(request, slices):
    return sim.simulate(slices, request.param, 0)


def labels(slices):
    return slices[list(LABELS)].to_numpy(np.float64)


def test_predictions_are_complete_and_patients_whole(simulated, slices):
    assert list(simulated.probs) == list(sim.CNNS)
    for p in simulated.probs.values():
        assert p.shape == (len(slices), 6) and ((p > 0) & (p < 1)).all()
    folds = pd.Series(simulated.fold).groupby(slices["patient_id"].to_numpy()).nunique()
    assert (folds == 1).all() and set(simulated.fold) == set(range(sim.FOLDS))


@pytest.mark.parametrize("family", sim.FAMILIES)
def test_the_same_seed_gives_the_same_predictions(slices, family):
    one, two, other = (sim.simulate(slices, family, seed).probs for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.allclose(one["cnn_a"], other["cnn_a"]) and not np.allclose(
        one["cnn_a"], one["cnn_b"]
    )


def test_overconfidence_stretches_the_logits(slices):
    calm, loud = (sim.simulate(slices, "runs", 0, factor).probs["cnn_a"] for factor in (1.0, 2.0))
    np.testing.assert_allclose(np.log(loud / (1 - loud)), 2 * np.log(calm / (1 - calm)), rtol=1e-6)


def test_runs_end_with_the_label_and_with_the_series(slices):
    y = np.zeros(len(slices))
    y[[0, 1, 4, LENGTH - 1, LENGTH, len(y) - 1]] = 1
    assert lesion_runs.find_runs(slices, y).tolist() == [
        [0, 2],
        [4, 5],
        [LENGTH - 1, LENGTH],
        [LENGTH, LENGTH + 1],
        [len(y) - 1, len(y)],
    ]
    assert len(lesion_runs.find_runs(slices, 0 * y)) == 0


def test_candidates_of_one_q_are_real_with_probability_q():
    a, b = 0.6, 0.43
    real, phantom = 30000, round(30000 * b / a)
    q = expit(lesion_runs.draw_q(real, phantom, a, b, np.random.default_rng(0)))
    assert q[:real].mean() == pytest.approx((a + 1) / (a + b + 1), abs=0.005)
    assert q[real:].mean() == pytest.approx(a / (a + b + 1), abs=0.005)
    for low, high in ((0.1, 0.2), (0.4, 0.5), (0.7, 0.8)):
        inside = (q >= low) & (q < high)
        assert inside[:real].sum() / inside.sum() == pytest.approx(q[inside].mean(), abs=0.015)


def test_phantoms_keep_away_from_real_runs_and_have_the_same_other_labels(slices):
    y, column = labels(slices), LABELS.index("subdural")
    real = lesion_runs.find_runs(slices, y[:, column])
    phantoms = lesion_runs.place_phantoms(slices, y, column, real, 200, np.random.default_rng(0))
    assert len(phantoms) == 200
    others = y[:, 1:5].max(axis=1).reshape(STUDIES, LENGTH).any(axis=1)
    for start, end in phantoms:
        assert start // LENGTH == (end - 1) // LENGTH and end > start
        first = start // LENGTH * LENGTH
        assert not y[max(start - 1, first) : min(end + 1, first + LENGTH), column].any()
    company = others[phantoms[:, 0] // LENGTH].mean()
    assert company == pytest.approx(others[real[:, 0] // LENGTH].mean(), abs=0.12)
    assert (phantoms[:, 1] - phantoms[:, 0]).mean() == pytest.approx(
        (real[:, 1] - real[:, 0]).mean(), rel=0.15
    )
    nothing = np.empty((0, 2), int)
    assert lesion_runs.place_phantoms(
        slices, 0 * y, column, nothing, 0, np.random.default_rng(0)
    ).shape == (0, 2)


def painted(slices, runs, strength):
    """What `paint_runs` shows of runs, one row per series."""
    shown = lesion_runs.paint_runs(slices, runs, strength, np.random.default_rng(1))
    return shown.reshape(STUDIES, LENGTH)


def test_some_run_ends_move_by_one_slice_inside_their_series(slices, monkeypatch):
    monkeypatch.setattr(lesion_runs, "MOVED_END", 0.5)
    middle = np.array([[i * LENGTH + 4, i * LENGTH + 8] for i in range(STUDIES)])
    shown = painted(slices, middle, np.full(STUDIES, 0.7))
    assert set(np.unique(shown)) == {0, 0.7}
    low, high = shown.argmax(axis=1), LENGTH - shown[:, ::-1].argmax(axis=1)
    assert set(low) == {3, 4, 5} and set(high) == {7, 8, 9}
    assert np.mean(low != 4) == pytest.approx(0.5, abs=0.2)
    # every second series, end to end
    whole = np.array([[i * LENGTH, (i + 1) * LENGTH] for i in range(0, STUDIES, 2)])
    shown = painted(slices, whole, np.ones(len(whole)))
    assert not shown[1::2].any()
    single = whole + [5, 6 - LENGTH]
    shown = painted(slices, single, np.ones(len(single)))
    assert (shown[::2].sum(axis=1) >= 1).all()


def test_smooth_noise_is_similar_next_to_each_other_and_not_across_series(slices):
    noise = sim.smooth_noise(slices, 40, np.random.default_rng(0)).reshape(STUDIES, LENGTH, 40)
    assert noise.std() == pytest.approx(1, abs=0.1)
    beside = np.mean(noise[:, 1:] * noise[:, :-1])
    assert beside == pytest.approx(np.exp(-0.5 * (5 / sim.LENGTH_MM) ** 2), abs=0.1)
    assert abs(np.mean(noise[1:, 0] * noise[:-1, -1])) < 0.1


def test_a_series_share_of_positives(slices):
    y = labels(slices)
    expected = slices.groupby("series_id")[list(LABELS)].transform("mean").to_numpy()
    np.testing.assert_allclose(sim.study_share(slices, y), expected, atol=1e-6)


def test_slice_noise_is_partly_shared():
    noise = sim.slice_noise((20000, 2), [1.0, 3.0], np.random.default_rng(0))
    assert noise.std(axis=(0, 1)) == pytest.approx([1, 3], rel=0.02)
    assert np.corrcoef(noise[0, :, 0], noise[1, :, 0])[0, 1] == pytest.approx(sim.SHARED, abs=0.03)


def test_a_head_never_uses_the_labels_of_the_patient_that_it_predicts(slices):
    y, fold = labels(slices), np.repeat(np.arange(STUDIES) % 5, LENGTH)
    height, evidence = np.linspace(0, 1, len(y)), sim.run_evidence(slices, y, 0)[0]
    before = fit_head(evidence, y, fold, height)
    other = y.copy()
    other[fold == 2] = 1 - other[fold == 2]
    after = fit_head(evidence, other, fold, height)
    assert np.array_equal(before[fold == 2], after[fold == 2])
    assert not np.allclose(before[fold == 1], after[fold == 1])


def test_the_heads_weights_are_the_ridge_optimum():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(500), rng.standard_normal((500, 3))])
    y = (rng.random(500) < expit(x @ [-1.0, 2.0, -1.0, 0.0])).astype(float)
    theirs = LogisticRegression(C=1 / 3.0, tol=1e-8, max_iter=1000).fit(x[:, 1:], y)
    np.testing.assert_allclose(
        logistic_weights(x, y), [*theirs.intercept_, *theirs.coef_[0]], atol=2e-3
    )


@pytest.mark.parametrize("within", ["study", "fold"])
def test_permuting_keeps_every_prediction_with_its_labels(simulated, within):
    slices, n = simulated.slices, len(simulated.y)
    tagged = simulated._replace(probs={"tag": np.column_stack([simulated.y, np.arange(n)])})
    moved = baselines.permuted(tagged, 0, within)
    assert np.array_equal(moved.probs["tag"][:, :6], moved.y)
    assert np.array_equal(moved.slices[list(LABELS)].to_numpy(), moved.y)
    origin = moved.probs["tag"][:, 6].astype(int)
    assert sorted(origin) == list(range(n)) and (origin != np.arange(n)).mean() > 0.8
    stayed = np.mean(origin // LENGTH == np.arange(n) // LENGTH)
    assert stayed == 1 if within == "study" else stayed < 0.2  # a fold has 12 series
    assert np.array_equal(simulated.fold[origin], simulated.fold)
    assert np.array_equal(moved.slices["place"], slices["place"]) and np.array_equal(
        moved.fold, simulated.fold
    )


def test_smoothing_with_no_width_is_the_raw_mean(simulated):
    raw = baselines.raw_mean(simulated)
    np.testing.assert_allclose(
        baselines.smoothed(simulated, dict.fromkeys(LABELS, 0.01)), raw, rtol=1e-5
    )
    assert not np.allclose(baselines.smoothed(simulated), raw)


def test_boosters_of_a_fold_never_use_its_labels(simulated):
    few = {"learning_rate": 0.1, "num_leaves": 4, "min_data_in_leaf": 5}
    x = np.column_stack(list(simulated.probs.values()))
    before = baselines.boosted(x, simulated, few)
    y = simulated.y.copy()
    y[simulated.fold == 0] = 1 - y[simulated.fold == 0]
    after = baselines.boosted(x, simulated._replace(y=y), few)
    assert np.array_equal(before[simulated.fold == 0], after[simulated.fold == 0])
    assert not np.allclose(before[simulated.fold == 1], after[simulated.fold == 1])


# On the real labels and geometry.


@pytest.fixture(scope="module")
def real_slices(real_data):
    file = real_data / "stage_two/labelled_studies.csv.gz"
    if not file.is_file():
        pytest.skip(f"{file} is not there (ICH_REAL_DATA names the folder of the real data)")
    return sim.read_studies(file)


def test_the_real_studies_make_a_slice_table(real_slices):
    check_slice_table(real_slices)
    assert len(real_slices) == 52412 and real_slices["study_id"].nunique() == 1480
    assert np.isfinite(
        real_slices[["position_mm", "tilt_deg", "pixel_spacing_mm"]].to_numpy()
    ).all()
    assert real_slices["any"].equals(real_slices[list(LABELS[1:])].max(axis=1).rename("any"))


@pytest.mark.slow
@pytest.mark.parametrize("family", sim.FAMILIES)
@pytest.mark.parametrize("seed", sim.SEEDS[:1])
def test_each_cnn_ranks_as_a_real_one_does(real_slices, family, seed):
    simulated = sim.simulate(real_slices, family, seed)
    for p in simulated.probs.values():
        aucs = {label: auc(simulated.y[:, j], p[:, j]) for j, label in enumerate(LABELS)}
        assert aucs == pytest.approx(sim.REAL_AUC, abs=0.005)


@pytest.mark.slow
def test_only_the_context_gains(real_slices):
    """A stacker gains by its neighbours alone.

    Less than half of the gain is left when the slices of each series are permuted (what they have
    in common stays), and nothing when those of a fold are.
    """
    simulated, small = (
        sim.simulate(real_slices, "runs", 0),
        {**baselines.PLAIN, "num_leaves": 6, "learning_rate": 0.15},
    )

    def gain(method, data):
        return 1 - weighted_log_loss(data.y, method(data, small)) / weighted_log_loss(
            data.y, baselines.raw_mean(data)
        )

    assert gain(baselines.without_context, simulated) < 0.02
    whole, unordered, nothing = (
        gain(baselines.plain_neighbours, data)
        for data in (
            simulated,
            baselines.permuted(simulated, 0),
            baselines.permuted(simulated, 0, within="fold"),
        )
    )
    assert whole > 0.05 and unordered < whole / 2 and nothing < 0.01
