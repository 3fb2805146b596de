"""Tuning: on the other folds only, the same when interrupted, and it finds planted signals."""

import math
import weakref

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from scipy.special import expit
from sklearn.metrics import log_loss
from tiny_tables import slice_table

from ct.labels import LABELS
from ct.metrics import patient_bootstrap
from ct.run_dir import RunDir
from ct.storage.file_formats import write_array, write_json, write_table
from features.neighbours import neighbour_features
from pipeline.optuna_studies.booster_search import Search, open_shared, search_booster
from stage2_stack.calibration import fit_platt
from stage2_stack.config import StackConfig
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.tuning.best_trial import best_config
from stage2_stack.tuning.booster_trials import run_trials
from stage2_stack.tuning.inner_cv import InnerFolds
from stage2_stack.tuning.search_space import FIRST, RARE, SPACE, space_of

optuna.logging.set_verbosity(optuna.logging.WARNING)
NAN = np.nan


def scrolling(seed, permuted=False, studies=60, slices=20, k=4):
    """Studies with noisy logits, and a run of positive slices in every second one.

    The features are the logit and 2 x 2 neighbours. permuted: the slices of each study are in
    another order, with labels and logits, so that the neighbours do not help
    """
    rng = np.random.default_rng(seed)
    table = slice_table(*[("train", f"{n:03d}", 5.0 * np.arange(slices)) for n in range(studies)])
    y = np.zeros((studies, slices))
    for n in range(0, studies, 2):
        start = rng.integers(0, slices - 6)
        y[n, start : start + 6] = 1
    raw = 2.4 * y - 2.2 + rng.normal(0, 1.5, y.shape)
    if permuted:
        order = np.argsort(rng.random(y.shape), axis=1)
        y, raw = (np.take_along_axis(values, order, axis=1) for values in (y, raw))
    y, raw = y.ravel(), raw.ravel().astype(np.float32)
    neighbours, names = neighbour_features(table, raw[:, None], ("any",), 2)
    X = np.column_stack([raw, neighbours])
    fold = np.repeat(np.random.default_rng(seed).permutation(studies) % k, slices)
    return X, y, fold, table["patient_id"].to_numpy(object), ["any", *names]


def inner_of(X, y, fold, names, config, seed=0):
    return InnerFolds(BinnedFeatures(X, names), np.arange(len(y)), y, fold, "any", config, seed)


def make_folds(seed=0, permuted=False, **config):
    X, y, fold, patients, names = scrolling(seed, permuted)
    return inner_of(X, y, fold, names, StackConfig(threads=1, **config), seed), patients


class MadeUp:
    """Folds whose loss is a function of the settings alone; counts its evaluations."""

    def __init__(self):
        self.evaluations = self.folds = 0

    def evaluate(self, params, report=None):
        self.evaluations += 1
        loss = (
            0.3
            + 0.1 * np.log(params["learning_rate"] / 0.07) ** 2
            + 0.05 * (params["feature_fraction"] - 0.7) ** 2
        )
        loss = float(loss + 0.001 * params["num_leaves"])
        for step in (1, 2, 3):
            self.folds += 1
            report(step, loss + step)  # the folds differ in how hard they are
        return loss, params["num_leaves"] + 1


def open_study(path):
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.create_study(
        study_name="tune", storage=storage, direction="minimize", load_if_exists=True
    )


def finished(study):
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [(t.params, t.value, t.user_attrs, t.intermediate_values) for t in ended]


# --- neighbours help where they should


@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_signal_of_the_neighbours_is_found(seed):
    folds, patients = make_folds(seed)
    gain = folds.gain(FIRST, 40)
    low, _ = patient_bootstrap(gain, patients)
    assert gain.shape == (1200,) and gain.mean() > 0.04 and low > 0.03


@pytest.mark.parametrize("seed", [0, 1])
def test_with_slices_permuted_inside_studies_there_is_no_gain(seed):
    folds, patients = make_folds(seed, permuted=True)
    gain = folds.gain(FIRST, 40)
    low, _ = patient_bootstrap(gain, patients)
    assert abs(gain.mean()) < 0.01 and low <= 0


# --- one inner cross-validation


def test_the_base_is_cross_fitted():
    X, y, fold, _, names = scrolling(2)
    # "any" need not come first
    X = np.column_stack([np.random.default_rng(0).normal(size=len(y)).astype(np.float32), X])
    raw, folds = X[:, 1], inner_of(X, y, fold, ["subdural", *names], StackConfig())
    for k in range(4):
        expected = fit_platt(raw[fold != k], y[fold != k]).logit(raw[fold == k])
        np.testing.assert_array_equal(folds.base[fold == k], expected)


def test_evaluate_returns_the_smallest_mean_loss_and_where_it_lies():
    folds, _ = make_folds(3, max_rounds=12)
    loss, rounds = folds.evaluate(FIRST)
    assert 1 <= rounds <= 12
    before = log_loss(folds.y, expit(folds.base))
    for tried in (rounds, 1, 12):
        mean = before - folds.gain(FIRST, tried).mean()
        assert mean == pytest.approx(loss, abs=1e-6) if tried == rounds else mean >= loss - 1e-6
    bad = FIRST | {"learning_rate": 5.0, "lambda_l2": 0.1, "num_leaves": 31, "min_data_in_leaf": 5}
    assert folds.evaluate(bad)[0] > loss


def test_labels_of_an_inner_fold_do_not_reach_its_own_predictions():
    X, y, fold, _, names = scrolling(4)
    flipped = np.where(fold == 1, 1 - y, y)
    losses = []
    for labels in (y, flipped):
        folds = inner_of(X, labels, fold, names, StackConfig())
        gain = folds.gain(FIRST, 10)
        p = expit(folds.base)
        # the stacker's loss of each row
        own = -(labels * np.log(p) + (1 - labels) * np.log1p(-p)) - gain
        # back to its probability
        losses.append(np.where(labels == 1, np.exp(-own), 1 - np.exp(-own)))
    np.testing.assert_allclose(losses[0][fold == 1], losses[1][fold == 1], rtol=1e-9)
    assert not np.allclose(losses[0][fold != 1], losses[1][fold != 1])


def test_a_configuration_reads_the_features_in_its_scope_alone():
    X, y, fold, _, names = scrolling(5)
    rng = np.random.default_rng(0)
    # of another label, and of the geometry
    telling = (y[:, None] + rng.normal(0, 0.1, (len(y), 2))).astype(np.float32)
    folds = inner_of(
        np.hstack([X, telling]),
        y,
        fold,
        [*names, "subdural_z+1", "tilt_deg"],
        StackConfig(max_rounds=9),
    )
    without = inner_of(X, y, fold, names, StackConfig(max_rounds=9))
    losses = {
        scope: folds.evaluate(FIRST | {"scope": scope, "feature_fraction": 1.0})[0]
        for scope in ("context", "study", "all")
    }
    assert (
        losses["context"]
        == without.evaluate(FIRST | {"scope": "context", "feature_fraction": 1.0})[0]
    )
    assert losses["study"] < losses["context"] - 0.03 and losses["all"] < losses["context"] - 0.03


# --- the trials


def test_trials_stay_inside_the_space_and_start_with_the_first_guess(tmp_path):
    study = open_study(tmp_path / "j")
    run_trials(study, MadeUp(), 8, seed=5)
    trials = finished(study)
    assert len(trials) == 8 and trials[0][0] == FIRST and set(FIRST) == set(SPACE)
    for params, loss, attrs, steps in trials:
        assert attrs.get("rounds") == (params["num_leaves"] + 1 if len(steps) == 3 else None)
        assert list(steps.values()) == pytest.approx(
            [loss + n for n in (1, 2, 3)] if len(steps) == 3 else [loss]
        )
        for name, distribution in SPACE.items():
            allowed = getattr(distribution, "choices", None)
            assert (
                params[name] in allowed
                if allowed
                else distribution.low <= params[name] <= distribution.high
            )
    assert len({tuple(params.values()) for params, *_ in trials}) == 8


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Nine trials in one go: four of them by TPE."""
    study = open_study(tmp_path_factory.mktemp("whole") / "j")
    run_trials(study, MadeUp(), 9, seed=5)
    return finished(study), study.best_params


@pytest.mark.parametrize("after", [1, 2, 6, 8])
@pytest.mark.parametrize("running", [0, 2])
def test_an_interrupted_study_ends_with_the_same_trials(tmp_path, unbroken, after, running):
    def interrupt(number, best):
        assert best > 0
        if number == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trials(open_study(tmp_path / "j"), MadeUp(), 9, seed=5, progress=interrupt)
    for _ in range(running):
        open_study(tmp_path / "j").ask(SPACE)  # what a killed process leaves behind
    study, folds = open_study(tmp_path / "j"), MadeUp()
    assert len(study.get_trials(states=(TrialState.RUNNING,))) == running
    run_trials(study, folds, 9, seed=5)
    assert folds.evaluations == 9 - after  # nothing is done twice
    assert (finished(study), study.best_params) == unbroken
    assert not study.get_trials(states=(TrialState.RUNNING,))
    assert len(study.get_trials(states=(TrialState.FAIL,))) == running


def test_an_error_inside_a_trial_leaves_one_that_is_run_again(tmp_path, unbroken):
    class Dies(MadeUp):
        def evaluate(self, params, report=None):
            if self.evaluations == 3:
                raise MemoryError
            return super().evaluate(params, report)

    with pytest.raises(MemoryError):
        run_trials(open_study(tmp_path / "j"), Dies(), 9, seed=5)
    study = open_study(tmp_path / "j")
    run_trials(study, MadeUp(), 9, seed=5)
    assert (finished(study), study.best_params) == unbroken


def test_more_trials_continue_a_study_and_fewer_do_nothing(tmp_path, unbroken):
    run_trials(open_study(tmp_path / "j"), MadeUp(), 4, seed=5)
    run_trials(open_study(tmp_path / "j"), MadeUp(), 9, seed=5)
    assert finished(open_study(tmp_path / "j")) == unbroken[0]
    folds = MadeUp()
    run_trials(open_study(tmp_path / "j"), folds, 3, seed=5)
    assert folds.evaluations == 0


def test_another_seed_makes_other_trials(tmp_path, unbroken):
    study = open_study(tmp_path / "j")
    run_trials(study, MadeUp(), 3, seed=6)
    assert finished(study)[0] == unbroken[0][0] and finished(study)[1] != unbroken[0][1]


def test_progress_is_called_after_each_trial(tmp_path):
    calls = []
    run_trials(
        open_study(tmp_path / "j"), MadeUp(), 4, seed=0, progress=lambda *now: calls.append(now)
    )
    assert [number for number, _ in calls] == [1, 2, 3, 4]
    best = [value for _, value in calls]
    assert best == sorted(best, reverse=True)


def test_a_trial_that_is_clearly_worse_ends_after_the_first_fold(tmp_path):
    study, folds = open_study(tmp_path / "j"), MadeUp()
    run_trials(study, folds, 16, seed=5)
    trials = study.get_trials()
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    # a worse one is so from its first fold on
    assert pruned and all(list(t.intermediate_values) == [1] for t in pruned)
    assert folds.folds == 48 - 2 * len(pruned)
    assert [t.state for t in trials[:5]] == [TrialState.COMPLETE] * 5
    first = [t.intermediate_values[1] for t in trials]
    for number, trial in enumerate(trials):
        assert (trial.state == TrialState.PRUNED) <= (
            first[number] > np.median(first[:number] or [9])
        )


def test_no_trial_begins_after_the_deadline_but_the_first(tmp_path, unbroken):
    study = open_study(tmp_path / "j")
    run_trials(study, MadeUp(), 9, seed=5, deadline=0.0)
    assert len(finished(study)) == 1
    run_trials(study, MadeUp(), 9, seed=5)
    assert (finished(study), study.best_params) == unbroken


def test_a_database_serves_as_the_store(tmp_path, unbroken):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    for trials in (4, 9):  # the second call continues
        study = open_shared(url, "any", {"seed": 5})
        run_trials(study, MadeUp(), trials, seed=5, shared=True)
    assert [t[:3] for t in finished(study)] == [t[:3] for t in unbroken[0]]
    assert not finished(open_shared(url, "any", {"seed": 6}))  # other inputs: another study


def test_the_rare_label_has_a_narrower_space():
    assert space_of("epidural") is RARE and space_of("any") is SPACE and set(RARE) == set(SPACE)
    for name, where in RARE.items():
        choices = getattr(where, "choices", None)
        assert FIRST[name] in choices if choices else where.low <= FIRST[name] <= where.high
    assert (
        RARE["num_leaves"].high < SPACE["num_leaves"].high
        and RARE["lambda_l2"].low > SPACE["lambda_l2"].low
    )


# --- the decision


def test_best_config_stacks_a_label_with_a_significant_gain(tmp_path):
    folds, patients = make_folds(0, max_rounds=25)
    study = open_study(tmp_path / "j")
    run_trials(study, folds, 3, seed=1)
    result = best_config(study, folds, patients, 3)
    assert result["stacked"] and result["why"] == "" and result["trials"] == 3
    assert result["inner_loss"] == study.best_value and result["params"] == study.best_params
    assert result["inner_calibrated"] == pytest.approx(log_loss(folds.y, expit(folds.base)))
    assert result["inner_loss"] < result["inner_calibrated"] - 0.03
    only = best_config(study, folds, patients, 1)  # of the first trial alone
    assert only["params"] == FIRST and only["trials"] == 1


def test_best_config_leaves_out_a_label_without_a_significant_gain(tmp_path):
    folds, patients = make_folds(0, permuted=True, max_rounds=25)
    study = open_study(tmp_path / "j")
    run_trials(study, folds, 3, seed=1)
    result = best_config(study, folds, patients, 3)
    assert not result["stacked"]
    assert "is not beyond doubt" in result["why"] and result["why"].endswith(
        "calibrated mean of the CNNs instead"
    )


@pytest.mark.parametrize(
    ("limit", "held"),  # a scope has 24,000 bytes: 4 splits of 1,200 rows, 5 columns
    [(10**6, {"context": 4, "all": 4}), (30_000, {"context": 4}), (10_000, {"context": 1})],
)
def test_with_many_rows_the_datasets_of_a_scope_or_a_split_are_held_at_once(
    limit, held, monkeypatch
):
    monkeypatch.setattr("stage2_stack.tuning.inner_cv.MAX_BINNED_BYTES", limit)
    folds, _ = make_folds(max_rounds=4)
    settings = {scope: FIRST | {"scope": scope} for scope in ("context", "all")}
    losses = [folds.evaluate(settings[scope]) for scope in ("context", "all", "context")]
    assert losses[0] == losses[2]
    assert {scope: len(sets) for scope, sets in folds.datasets.items()} == held
    pairs = [weakref.ref(data) for pair in folds.datasets["context"].values() for data in pair]

    def stop(*args):
        raise KeyError

    with pytest.raises(KeyError):  # as a trial that is pruned after the first fold
        folds.evaluate(settings["all"], stop)
    assert len(folds.datasets["all"]) == (4 if "all" in held else 1)
    assert all((data() is not None) == ("all" in held) for data in pairs)


def test_a_process_keeps_the_bins_of_one_label_alone(tmp_path, monkeypatch):
    make_run(tmp_path, lambda X, labels, rows: labels.__setitem__((slice(None), 1), labels[:, 0]))
    folder, (X, *_, names) = (
        RunDir(tmp_path).stage2 / "features",
        scrolling(7, studies=36, slices=12, k=3),
    )
    write_array(folder / "train.npy", np.hstack([X, X]).astype(np.float32))
    write_json(
        folder / "names.json",
        dict.fromkeys([*names, *(name.replace("any", LABELS[1]) for name in names)], ""),
    )
    config = StackConfig(trials=1, max_rounds=4, threads=1)
    noted, keep_only = [], BinnedFeatures.keep_only

    def note(features, column_sets):
        keep_only(features, column_sets)
        noted.append((features, len(features._binned_columns)))

    monkeypatch.setattr(BinnedFeatures, "keep_only", note)
    for label in LABELS[:2]:
        for k in (0, 1):
            tune_label(tmp_path, label, k, config)
    # a label's second fold finds the bins of its first
    assert [count for _, count in noted] == [0, 1, 0, 1]
    assert len({id(features) for features, _ in noted}) == 1


# --- the outer folds


def make_run(root, change=None):
    """Write the files of a run that a search reads, with three folds.

    change: a function that may alter X and the labels of fold 1
    """
    X, y, fold, patients, names = scrolling(7, studies=36, slices=12, k=3)
    labels = np.zeros((len(y), 6))
    labels[:, 0] = y
    if change:
        change(X, labels, fold == 1)
    index = pd.Index([f"ID_{n:05x}" for n in range(len(y))], name="slice_id")
    run, columns = (
        RunDir(root),
        pd.DataFrame(labels.astype(np.float32), index=index, columns=list(LABELS)),
    )
    write_table(run.slices, columns.assign(split="train", patient_id=patients))
    write_table(run.folds, pd.DataFrame({"fold": fold.astype(np.int8)}, index=index))
    write_array(run.stage2 / "features" / "train.npy", X.astype(np.float32))
    write_json(run.stage2 / "features" / "names.json", dict.fromkeys(names, ""))


def tune_label(root, label, k, config):
    inputs = {"stage2": config.model_dump(), "seed": 0, "label": label, "fold": k, "read": {}}
    return search_booster(Search(str(root), config, inputs, print, lambda *_: None, math.inf))


def spoil(X, labels, rows):
    # not X: the edges of the bins depend on the features of all rows
    labels[rows, 0] = 1 - labels[rows, 0]


def unlabel(X, labels, rows):
    labels[rows] = NAN


def test_the_outer_fold_never_reaches_its_configuration(tmp_path):
    config = StackConfig(trials=2, max_rounds=8, threads=1)
    result = {}
    for name, change in {"as it is": None, "spoiled": spoil, "unlabelled": unlabel}.items():
        make_run(tmp_path / name, change)
        result[name] = [tune_label(tmp_path / name, "any", k, config) for k in (1, 0)]
    assert result["as it is"][0]["stacked"]
    first, second = result["as it is"][0]["history"]
    assert first["loss"] == pytest.approx(
        result["as it is"][0]["inner_loss"] - result["as it is"][0]["inner_calibrated"]
    )
    assert {name: first[name] for name in FIRST} == FIRST and second["trial"] == 1
    for name in ("spoiled", "unlabelled"):
        assert result[name][0] == result["as it is"][0]  # tuned without fold 1
        assert result[name][1] != result["as it is"][1]  # tuned with it: a leak would show here


def test_a_label_without_positives_is_not_tuned(tmp_path):
    make_run(tmp_path)
    result = tune_label(tmp_path, "epidural", 0, StackConfig(trials=2))
    assert (
        not result["stacked"] and result["why"].startswith("no positives") and result["trials"] == 0
    )
    assert result["history"] == [] and result["importances"] == ({}, result["why"])


class Scripted:
    """Stands for InnerFolds: the test sets each configuration's gain over calibrated stage one."""

    def __init__(self, gains, patients):
        self.gains, self.patients = gains, patients
        self.y, self.base, self.seed = np.arange(len(patients)) % 2, np.zeros(len(patients)), 0
        self.config = StackConfig(confidence=0.95)

    def gain(self, params, rounds):
        return self.gains[rounds]


@pytest.mark.parametrize(
    ("first", "best", "taken", "stacked"),
    [
        ([0.1] * 20, [0.1] * 10 + [0.3] * 10, 2, True),  # better for ten patients, worse for none
        # the best on average, by one lucky patient
        ([0.1] * 20, [-0.4, *[0.08] * 18, 3.0], 1, True),
        # and the gain of the first guess is not significant
        ([-0.1] * 20, [-0.2, *[-0.11] * 18, 9.0], 1, False),
    ],
)
def test_a_lucky_trial_is_not_chosen_over_the_first_guess(first, best, taken, stacked):
    study = optuna.create_study()
    for rounds, value in ((1, 0.5), (2, 0.4)):
        trial = optuna.trial.create_trial(
            params=FIRST, distributions=SPACE, value=value, user_attrs={"rounds": rounds}
        )
        study.add_trial(trial)
    folds = Scripted({1: np.array(first), 2: np.array(best)}, patients := np.arange(20))
    result = best_config(study, folds, patients, 2)
    assert (result["rounds"], result["stacked"], result["trials"]) == (taken, stacked, 2)
