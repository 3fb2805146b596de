"""The search of a CNN's settings: inner split, trials, verdict, and the verb on a run."""

import shutil
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from cnn_slices import make_slices, reader
from optuna.trial import TrialState

import run
from ct.config import validate
from ct.errors import InputError, MachineFault
from ct.labels import LABELS
from ct.patient_folds import assign_folds
from ct.storage.file_formats import write_table
from ct.storage.sealed_files import seal
from pipeline.commands.search import check_backbones, search_cnn
from pipeline.optuna_studies import cnn_trials as trials_module
from pipeline.optuna_studies.cnn_trials import SearchContext, best_of, run_trials
from pipeline.optuna_studies.inner_split import inner_split
from pipeline.optuna_studies.search_verdict import verdict
from pipeline.optuna_studies.trial_journal import open_study
from pipeline.progress import no_bar
from pipeline.recipe import find_recipe, load_recipe, save_recipe, with_changes
from stage1_cnn.config import CnnConfig
from stage1_cnn.search_space import (
    DEFAULT,
    NOT_SEARCHED,
    Range,
    SearchConfig,
    rounded,
    searched,
    with_values,
    yaml_lines,
)
from stage1_cnn.train_loop import NotANumber
from stage2_stack.tuning.resumable_trials import finished_trials

optuna.logging.set_verbosity(optuna.logging.WARNING)
CONFIG = CnnConfig(
    name="a", backbone="test_resnet", windows=("brain",), epochs=4, batch=16, lr=0.003, threads=1
)
SPACE = {
    "lr": Range(low=1e-4, high=1e-1, log=True),
    "rotate": Range(low=0.0, high=30.0),
    "windows": (["brain"], ["bone"]),
}


def make_context(folder, hu=None, slices=None, calls=None, k=1, space=SPACE, config=CONFIG):
    """Return (SearchContext, lines that it logs) of 16 patients with 6 slices, in folds of four."""
    made, pictures = make_slices(16, 6)
    slices, hu = made if slices is None else slices, pictures if hu is None else hu
    split, lines = inner_split(slices, np.repeat(np.arange(16) % 4, 6), k, seed=3), []
    return SearchContext(
        slices, split, reader(hu, calls), config, space, 5, folder, lines.append, no_bar
    ), lines


class FakeTraining:
    """Stands for train_cnn: the curve is a function of the settings. Counts its calls."""

    def __init__(self, fail=None):
        self.calls, self.fail = 0, fail

    def __call__(self, slices, split, read_hu, config, seed, hooks):
        self.calls += 1
        self.seed = seed
        if self.fail:
            self.fail(self.calls, config)
        off = abs(np.log(config.lr / 0.02)) + config.rotate / 30 + (config.windows == ("bone",))
        curve = []
        for epoch in range(1, config.epochs + 1):
            curve.append({"epoch": epoch, "held_out_loss": 0.1 + 0.1 * off + 0.2 / epoch})
            if hooks.epoch:
                hooks.epoch(curve[-1])
        return SimpleNamespace(model=None, curve=curve)


def stand_in(patch, fail=None):
    """Replace train_cnn by a FakeTraining. Returns it."""
    made = FakeTraining(fail)
    patch.setattr(trials_module, "train_cnn", made)
    patch.setattr(
        trials_module, "predict", lambda *args: (np.full((len(args[1]), 6), 0.5, np.float32), None)
    )
    return made


@pytest.fixture
def fake_training(monkeypatch):
    """Return the function stand_in, for one test."""
    return lambda fail=None: stand_in(monkeypatch, fail)


def study_of(path):
    return open_study(path / "a.journal", {})


def prediction_files(folder):
    return sorted(path.name for path in folder.glob("*.parquet"))


def outcome(study):
    return [
        (t.state, t.params, t.value, t.intermediate_values, t.user_attrs)
        for t in finished_trials(study)
    ]


# --- the space


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lrr": [0.1]}, "unknown key 'search.space.lrr', did you mean 'lr'?"),
        ({"windows": [["brain"], ["brian"]]}, "choice 2: windows = ['brian']: window 'brian'"),
        ({"windows": ["brain"]}, "choice 1: windows = 'brain'"),
        ({"lr": {"low": 0, "high": 1}}, "low: lr = 0: input should be greater than 0"),
        ({"image_size": {"low": 128, "high": 2000}}, "high: image_size = 2000"),
        ({"batch": {"low": 4, "high": 8.5}}, "high: batch = 8.5"),
        ({"lr": {"low": 1.0, "high": 1.0}}, "it must lie above low"),
        (
            {"lr": {"low": 0.1, "high": 1.0, "hihg": True}},
            "unknown key 'hihg', did you mean 'high'?",
        ),
        ({"rotate": {"low": 0, "high": 9, "log": True}}, "no logarithm"),
        ({"flip": {"low": 0, "high": 1}}, "low: flip = 0"),
        ({"lr": ["3e-3"]}, "YAML takes it for text, write 0.003"),
        ({"lr": [0.1, 0.1]}, "the choice 0.1 is there twice"),
        ({"lr": []}, "give a list of choices"),
        ({"lr": 0.1}, "give a list of choices"),
        ({"lr": None}, "give a list of choices"),
        (
            {"pretrained": [True, False]},
            "pretrained is not searched: weights fit one backbone",
        ),
        ({"threads": [1, 2]}, "threads is not searched: it decides how"),
        ({"seeds": [1, 3]}, "seeds is not searched: a trial trains one fit"),
    ],
)
def test_a_wrong_space_is_refused_by_name_where_the_recipe_is_read(
    tmp_path, capsys, space, message
):
    recipe = yaml.safe_load(find_recipe("micro").read_text()) | {"search": {"space": space}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run.main(["search", f"--run={tmp_path}"]) == 1
    out, err = capsys.readouterr()
    assert message in err and "recipe.yaml: " in err and "search.space." in err
    assert err.count("\n") == 1 and out == "" and len(list(tmp_path.iterdir())) == 1


def test_a_space_reads_back_from_a_saved_recipe(tmp_path):
    space = {
        "lr": {"low": 1e-5, "high": 1, "log": True},
        "neighbours": {"low": 0, "high": 2},
        "image_size": [64, None],
        "windows": [["brain"], ["40/40", "bone"]],
        "flip": [True, False],
    }
    recipe = with_changes(load_recipe(find_recipe("micro")), {"search": {"space": space}})
    save_recipe(tmp_path / "r.yaml", recipe)
    assert load_recipe(tmp_path / "r.yaml") == recipe
    found = searched(recipe.search)
    # the fields' own order
    assert list(found) == ["windows", "neighbours", "image_size", "lr", "flip"]
    assert found["lr"] == Range(low=1e-5, high=1.0, log=True) and found["neighbours"] == Range(
        low=0, high=2
    )
    assert found["image_size"] == (64, None) and found["windows"] == (["brain"], ["40/40", "bone"])


def test_without_a_space_there_is_a_default_one():
    found = searched(SearchConfig())
    assert {"lr", "weight_decay", "dropout", "rotate", "scale", "windows"} <= set(
        found
    ) and not set(found) & set(NOT_SEARCHED)
    assert (
        validate(
            SearchConfig, SearchConfig(space=DEFAULT).model_dump(mode="json"), "x", strict=True
        ).space
        == DEFAULT
    )


def test_numbers_keep_three_digits_inside_their_range():
    assert rounded(Range(low=1e-4, high=1e-2), 0.00123456) == 0.00123
    assert rounded(Range(low=0.12345, high=1.0), 0.12346) == 0.12345
    assert rounded(Range(low=0, high=5000), 1234) == 1234


def test_lines_of_yaml_read_back():
    values = {
        "lr": 1e-5,
        "windows": ["brain", "40/40"],
        "image_size": None,
        "backbone": "no",
        "flip": False,
        "tta": [],
    }
    lines = yaml_lines(values)
    assert yaml.safe_load("\n".join(lines)) == values and lines[1] == "windows: [brain, 40/40]"


def test_backbones_and_sizes_are_checked_before_any_trial():
    check_backbones(CONFIG, {"backbone": ("test_resnet", "test_vit"), "image_size": (160,)}, 32)
    with pytest.raises(InputError, match="did you mean 'test_resnet'"):
        check_backbones(CONFIG, {"backbone": ("test_resnet", "test_resnt")}, 32)
    with pytest.raises(InputError, match="set image_size"):
        check_backbones(CONFIG, {"backbone": ("test_resnet", "test_vit")}, 32)
    local = CONFIG.model_copy(update={"pretrained": "w.pth"})
    with pytest.raises(InputError, match="leave backbone out of the space"):
        check_backbones(local, {"backbone": ("test_resnet", "test_vit")}, 32)


# --- the inner split


@pytest.mark.parametrize("seed", range(4))
def test_the_inner_split_is_by_patient_and_without_the_fold(seed):
    slices, _ = make_slices(30, 4, seed)
    slices.iloc[::7, slices.columns.get_loc("any")] = np.nan
    slices.iloc[::11, slices.columns.get_loc("readable")] = False
    slices.iloc[-8:, slices.columns.get_loc("split")] = "test"
    fold, patients = assign_folds(slices, 3, seed), slices["patient_id"].to_numpy(object)
    for k in range(3):
        train, held = inner_split(slices, fold, k, seed)
        assert set(fold[train]) | set(fold[held]) == {0, 1, 2} - {k}
        assert not set(patients[train]) & set(patients[held])
        outside = set(patients[(fold != k) & (fold >= 0)])
        assert set(patients[train]) | set(patients[held]) <= outside
        assert 0.15 < len(set(patients[held])) / len(outside) < 0.35
        for rows in (train, held):
            assert slices["readable"].iloc[rows].all() and slices["any"].iloc[rows].notna().all()
        again = inner_split(slices, fold, k, seed)
        assert all((a == b).all() for a, b in zip((train, held), again, strict=True))


def test_many_held_out_slices_are_thinned(monkeypatch):
    slices, _ = make_slices(40, 5)
    whole = inner_split(slices, np.repeat(np.arange(40) % 2, 5), 0, 0)[1]
    monkeypatch.setattr("pipeline.optuna_studies.inner_split.CURVE_SLICES", 10)
    thin = inner_split(slices, np.repeat(np.arange(40) % 2, 5), 0, 0)[1]
    assert len(whole) > 20 and 5 <= len(thin) <= 10 and set(thin) < set(whole)


def test_few_patients_are_split_too():
    for seed in range(40):
        slices, _ = make_slices(5, 3, seed)
        train, held = inner_split(slices, np.repeat([0, 0, 1, 1, 1], 3), 0, seed)
        assert len(set(slices["patient_id"].iloc[train])) >= 1 and len(held)


def test_two_patients_are_needed():
    slices, _ = make_slices(3, 4)
    with pytest.raises(InputError, match="1 patient outside fold 0, 2 are needed"):
        inner_split(slices, np.repeat([0, 0, 1], 4), 0, 0)


def test_the_data_of_the_fold_is_neither_read_nor_used(tmp_path):
    config = CONFIG.model_copy(update={"epochs": 2, "neighbours": 1})
    space = {"lr": Range(low=1e-3, high=1e-2), "neighbours": Range(low=0, high=2)}
    slices, hu = make_slices(16, 6)
    outcomes = []
    for name, spoil in (("as it is", None), ("spoiled", 1), ("another fold", 2)):
        labels, pictures, calls = slices.copy(), hu.copy(), []
        fold = np.repeat(np.arange(16) % 4, 6)
        if spoil:
            labels.loc[fold == spoil, list(LABELS)] = 1 - labels.loc[fold == spoil, list(LABELS)]
            pictures[fold == spoil] = 2000
        context, _ = make_context(tmp_path / name, pictures, labels, calls, 1, space, config)
        study = study_of(tmp_path / name)
        run_trials(study, context, 3)
        read = set(fold[np.concatenate(calls)])
        assert read == {0, 2, 3}
        outcomes.append(outcome(study))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] != outcomes[2]  # so the test would notice a leak


# --- the trials


def test_trial_0_is_the_recipe_as_it_is(tmp_path, fake_training):
    for name, config in (
        ("in", CONFIG),
        ("out", CONFIG.model_copy(update={"windows": ("soft",), "lr": 0.5})),
    ):
        train = fake_training()
        context, lines = make_context(tmp_path / name, config=config)
        study = study_of(tmp_path / name)
        run_trials(study, context, 7)
        first, *others = finished_trials(study)
        assert first.user_attrs["values"] == {} and set(first.params) == (
            set(SPACE) if name == "in" else {"rotate"}
        )
        assert (
            lines[0] == f"  trial 0, the recipe as it is: {first.value:.4f}"
            and train.seed == context.seed
        )
        for trial in others:  # inside the space, and as they were trained
            tried = with_values(config, trial.user_attrs["values"])
            assert (
                1e-4 <= tried.lr <= 0.1
                and list(tried.windows) in SPACE["windows"]
                and float(f"{tried.lr:.3g}") == tried.lr
            )
            assert (
                tried.model_copy(update={field: getattr(config, field) for field in SPACE})
                == config
            )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return (outcome, logged lines, prediction files) of twelve trials, some of them pruned."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        context, lines = make_context(folder)
        run_trials(study_of(folder), context, 12)
    return outcome(study_of(folder)), lines, prediction_files(folder)


def test_a_trial_worse_than_the_median_is_pruned(uninterrupted):
    trials, lines, kept_files = uninterrupted
    pruned = [number for number, (state, *_) in enumerate(trials) if state == TrialState.PRUNED]
    assert pruned and min(pruned) >= 5
    for number in pruned:
        _, _, _, epochs, attrs = trials[number]
        assert 2 <= max(epochs) < 4 and attrs["why"] == f"pruned in epoch {max(epochs)}"
        assert lines[number].startswith(f"  trial {number}: pruned in epoch {max(epochs)}; lr: ")
    best = min(value for state, _, value, *_ in trials if state == TrialState.COMPLETE)
    assert f"best so far {best:.4f}, trial " in lines[-1]
    # those of trial 0, and of each trial that was the best so far
    assert "trial0.parquet" in kept_files and len(kept_files) < 12


@pytest.mark.parametrize("after", [0, 1, 7, 11])
def test_a_killed_search_ends_with_the_same_trials(tmp_path, fake_training, uninterrupted, after):
    def fail(calls, config):
        if calls == after + 1:
            raise KeyboardInterrupt

    fake_training(fail)
    with pytest.raises(KeyboardInterrupt):
        run_trials(study_of(tmp_path), make_context(tmp_path)[0], 12)
    # nothing is left of the killed trial
    assert len(finished_trials(study_of(tmp_path))) == len(study_of(tmp_path).trials) == after
    train, (context, lines) = fake_training(), make_context(tmp_path)
    study = study_of(tmp_path)
    run_trials(study, context, 12)
    assert train.calls == 12 - after and lines == uninterrupted[1][after:]
    assert outcome(study) == uninterrupted[0]
    assert study.get_trials(states=(TrialState.FAIL,)) == []
    assert prediction_files(tmp_path) == uninterrupted[2]


def test_more_trials_continue_and_fewer_do_nothing(tmp_path, fake_training, uninterrupted):
    fake_training()
    run_trials(study_of(tmp_path), make_context(tmp_path)[0], 4)
    run_trials(study_of(tmp_path), make_context(tmp_path)[0], 12)
    assert outcome(study_of(tmp_path)) == uninterrupted[0]
    train = fake_training()
    run_trials(study_of(tmp_path), make_context(tmp_path)[0], 5)
    assert train.calls == 0


@pytest.mark.parametrize(
    "error", [NotANumber("the loss is nan", {}), InputError("does not fit"), MemoryError("no room")]
)
def test_a_trial_that_fails_for_its_settings_is_logged_and_the_search_continues(
    tmp_path, fake_training, error
):
    def fail(calls, config):
        if config.lr > 0.004:
            raise error

    train, (context, lines) = fake_training(fail), make_context(tmp_path)
    study = study_of(tmp_path)
    run_trials(study, context, 8)
    dead = [line for line in lines if f": failed: {error}; lr: " in line]
    assert len(lines) == 8 and 1 <= len(dead) < 7 and train.calls == 8
    assert (
        with_values(
            CONFIG, finished_trials(study)[best_of(finished_trials(study))].user_attrs["values"]
        ).lr
        <= 0.004
    )


def test_a_machine_fault_prunes_no_trial(tmp_path, fake_training, uninterrupted):
    def fail(calls, config):
        if calls == 4:
            raise MachineFault("the data cannot be read, input/output error")

    fake_training(fail)
    with pytest.raises(MachineFault):
        run_trials(study_of(tmp_path), make_context(tmp_path)[0], 12)
    assert len(finished_trials(study_of(tmp_path))) == 3
    fake_training()
    run_trials(study_of(tmp_path), make_context(tmp_path)[0], 12)
    assert outcome(study_of(tmp_path)) == uninterrupted[0]


def test_a_failure_of_the_recipes_own_settings_ends_the_search(tmp_path, fake_training):
    def fail(calls, config):
        raise NotANumber("the loss is nan", {})

    fake_training(fail)
    with pytest.raises(NotANumber):
        run_trials(study_of(tmp_path), make_context(tmp_path)[0], 3)
    assert not finished_trials(study_of(tmp_path))


def test_values_that_were_tried_are_not_trained_again(tmp_path, fake_training):
    train, (context, lines) = (
        fake_training(),
        make_context(tmp_path, space={"windows": (["brain"], ["bone"])}),
    )
    study = study_of(tmp_path)
    run_trials(study, context, 10)
    assert train.calls == 2 and len(finished_trials(study)) == len(lines) == 10
    assert any("as trial 0" in line and "the recipe's own values" in line for line in lines)


def test_values_that_failed_are_not_trained_again(tmp_path, fake_training):
    def fail(calls, config):
        if calls > 1:
            raise InputError("does not fit")

    train, (context, lines) = (
        fake_training(fail),
        make_context(tmp_path, space={"windows": (["brain"], ["bone"])}),
    )
    run_trials(study_of(tmp_path), context, 8)
    assert train.calls == 2 and sum("failed: does not fit" in line for line in lines) > 1


def test_nothing_is_pruned_where_epochs_are_searched(tmp_path, fake_training):
    fake_training()
    context, _ = make_context(tmp_path, space=SPACE | {"epochs": Range(low=2, high=6)})
    study = study_of(tmp_path)
    run_trials(study, context, 12)
    assert all(trial.state == TrialState.COMPLETE for trial in finished_trials(study))


def test_no_trial_begins_after_the_deadline(tmp_path, fake_training):
    train, (context, lines) = fake_training(), make_context(tmp_path)
    run_trials(study_of(tmp_path), context, 9, deadline=0.0)
    assert (
        train.calls == 1
        and lines[-1] == "  the time is up after 1 trial; the same command continues"
    )


# --- the verdict


def decided(folder, better, patients=8, worse=0):
    """Return the verdict on two trials.

    better: (patients,) log odds by which the second is better, for each held-out patient; worse:
    number of further trials, every other one pruned
    """
    slices, _ = make_slices(patients, 6)
    context = SearchContext(
        slices, (None, np.arange(len(slices))), None, CONFIG, SPACE, 0, folder, None, no_bar
    )
    study, y = study_of(folder), slices[list(LABELS)].to_numpy()
    for number, odds in enumerate((np.zeros(patients), better)):
        probs = 1 / (1 + np.exp(-(2 * y - 1) * np.repeat(odds, 6)[:, None]))
        write_table(
            context.predictions(number),
            pd.DataFrame(probs, index=slices.index, columns=list(LABELS)),
        )
        values = {"windows": ["bone", "80/120"], "lr": 1e-5} if number else {}
        study.add_trial(
            optuna.trial.create_trial(value=0.7 - 0.1 * number, user_attrs={"values": values})
        )
    for number in range(worse):
        state = (TrialState.COMPLETE, TrialState.PRUNED)[number % 2]
        study.add_trial(
            optuna.trial.create_trial(state=state, value=0.9, user_attrs={"values": {}})
        )
    return verdict(study, context, 2, 2 + worse)


def test_settings_with_a_significant_gain_are_printed_as_a_recipe_takes_them(tmp_path):
    lines = decided(tmp_path, np.full(8, 1.0))
    assert lines[0].startswith(
        "best of 2 trials, 0 of them pruned or failed: trial 1 with 0.6000; the recipe's own 0.7000"
    )
    gain = np.log(2) - np.log1p(np.exp(-1.0))
    assert lines[1].startswith(
        f"gain {gain:+.4f} (from {gain:+.4f} up over 8 patients, 95 %); its interval is wide for "
        "few patients and the best of 1 trial;"
    )
    assert lines[2] == "to adopt, in the entry of a under stage1.models:"
    assert lines[-1].startswith("chosen without fold 2's patients: fold 2's score does not depend")
    recipe = yaml.safe_load(find_recipe("micro").read_text())
    recipe["stage1"]["models"][0] |= yaml.safe_load("\n".join(lines[3:-1]))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    model = load_recipe(tmp_path / "r.yaml").stage1.models[0]
    assert (model.windows, model.lr, model.epochs) == (("bone", "80/120"), 1e-5, 2)


@pytest.mark.parametrize(
    ("better", "message"),
    [([1, 1, 1, 1, -1, -1, -1, 0], "the interval holds 0"), ([1, 1, 1, 1], "4 held-out patients")],
)
def test_settings_without_a_significant_gain_are_not_adopted(tmp_path, better, message):
    lines = decided(tmp_path, np.array(better, float), len(better))
    assert (
        len(lines) == 4
        and lines[2].startswith("no significant gain over the recipe")
        and message in lines[2]
    )


def test_one_held_out_patient_gives_no_interval(tmp_path):
    lines = decided(tmp_path, np.array([1.0]), 1)
    assert "(no interval over 1 patient, 95 %)" in lines[1]
    assert "no significant gain" in lines[2] and "1 held-out patient, " in lines[2]


def test_a_gain_must_be_the_larger_the_more_trials_it_is_the_best_of(tmp_path):
    better = 0.3 + np.tile([-0.25, 0.25], 4)
    assert decided(tmp_path / "one", better)[2].startswith("to adopt")
    lines = decided(tmp_path / "many", better, worse=18)
    assert "best of 20 trials, 9 of them pruned" in lines[0] and "best of 19 trials;" in lines[1]
    assert lines[2].startswith("no significant gain over the recipe (the interval holds 0)")


def test_settings_are_not_adopted_where_one_patient_alone_bleeds(tmp_path, monkeypatch):
    real = make_slices

    def one_bleeds(*args):
        slices, hu = real(*args)
        slices.loc[slices["patient_id"] != "ID_00", list(LABELS)] = 0
        return slices, hu

    monkeypatch.setitem(decided.__globals__, "make_slices", one_bleeds)
    lines = decided(tmp_path, np.full(8, 1.0))
    assert (
        "fewer than 2 held-out patients have a positive slice" in lines[2]
        and "(no interval" in lines[1]
    )


@pytest.mark.parametrize("what", ["damaged", "gone"])
def test_damaged_or_missing_probabilities_are_refused(tmp_path, monkeypatch, what):
    real = write_table

    def write(path, table):
        real(path, table)
        seal(path)
        if what == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1] + b"2")

    monkeypatch.setitem(decided.__globals__, "write_table", write)
    with pytest.raises(
        InputError, match=f"trial0.parquet is {what}; remove .*journal, too, and search anew"
    ):
        decided(tmp_path, np.full(8, 1.0))


def test_the_verdict_where_no_trial_is_better(tmp_path, fake_training):
    fake_training()
    context, _ = make_context(
        tmp_path, config=CONFIG.model_copy(update={"lr": 0.02, "rotate": 0.0})
    )
    study = study_of(tmp_path)
    run_trials(study, context, 3)
    assert verdict(study, context, 1, 3)[0].startswith(
        "no trial was better than the recipe's 0.1500 in 3 trials"
    )


# --- on a run


def call(capsys, *words):
    """Run the command line. Returns (status, out, err)."""
    return run.main(list(words)), *capsys.readouterr()


def files(folder):
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "search" not in path.parts and path.name != ".lock"
    }


def test_a_search_changes_no_file_of_a_stage(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "r")
    before, status = files(folder), call(capsys, "status", f"--run={folder}")
    code, out, _ = call(capsys, "search", f"--run={folder}", "--trials=2")
    assert code == 0
    lines = out.splitlines()
    assert (
        lines[0].startswith("search: resnet without fold 0: windows, lr, ")
        and "each trial trains on " in lines[1]
    )
    assert [line.split(":")[0].split(",")[0] for line in lines[2:4]] == ["  trial 0", "  trial 1"]
    assert lines[-1].startswith("  chosen without fold 0's patients")
    again = call(capsys, "search", f"--run={folder}", "--trials=3")[1].splitlines()
    assert again[2] == "  2 trials there already; continues with trial 2" and again[3].startswith(
        "  trial 2: "
    )
    assert call(capsys, "search", f"--run={folder}", "--fold=1", "--trials=1")[0] == 0
    assert files(folder) == before and call(capsys, "status", f"--run={folder}") == status
    # its inputs change: another study begins
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["search"] = {"space": {"lr": {"low": 0.001, "high": 0.01, "log": True}}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert "already" not in call(capsys, "search", f"--run={folder}", "--trials=1")[1]
    assert call(capsys, "status", f"--run={folder}") == status


def test_wrong_flags_and_stale_inputs_are_refused(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "r")
    for words, message in (
        (["--model=resnt"], "no such CNN, did you mean 'resnet'?"),
        (["--fold=2"], "folds.k = 2 makes folds 0 to 1"),
        (["--stage=two", "--fold=0"], "only for --stage=one"),
        (["--stage=two", "--model=resnet"], "only for --stage=one"),
        (["--trials=0"], "greater than or equal to 1"),
    ):
        code, out, err = call(capsys, "search", f"--run={folder}", *words)
        assert code == 1 and message in err and out == ""
    (folder / "receipts" / "folds.json").unlink()
    code, _, err = call(capsys, "search", f"--run={folder}")
    assert (
        code == 1 and "search reads what folds makes, which is missing; run `folds` or `all`" in err
    )
    assert not (folder / "search").exists()


def test_search_needs_a_model_where_there_are_several():
    recipe = load_recipe(find_recipe("demo"))
    with pytest.raises(InputError, match="needs --model, one of resnet, efficientnet"):
        search_cnn(SimpleNamespace(recipe=recipe), None, 0, 1)


def test_search_of_stage_two_is_tune(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "r")
    assert (
        call(capsys, "search", f"--run={folder}", "--stage=two")[1]
        == "tune: fresh, nothing to do\n"
    )
    assert (
        "stage2.trials: 3 -> 4"
        in call(capsys, "search", f"--run={folder}", "--stage=two", "--trials=4")[1]
    )


@pytest.mark.slow
def test_a_search_killed_during_a_training_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    space = {"lr": Range(low=1e-4, high=3e-2, log=True), "rotate": Range(low=0.0, high=30.0)}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_trials(study_of(whole), make_context(whole, space=space)[0], 9)
    real, trainings = trials_module.train_cnn, []

    def killed(slices, split, read_hu, config, seed, hooks):
        trainings.append(0)

        def epoch(line):
            if len(trainings) in (3, 8) and line["epoch"] == 2:
                raise KeyboardInterrupt
            if hooks.epoch:
                hooks.epoch(line)

        return real(
            slices,
            split,
            read_hu,
            config,
            seed,
            trials_module.Hooks(hooks.progress, epoch, log=hooks.log),
        )

    monkeypatch.setattr(trials_module, "train_cnn", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_trials(study_of(broken), make_context(broken, space=space)[0], 9)
    run_trials(study_of(broken), make_context(broken, space=space)[0], 9)
    assert outcome(study_of(broken)) == outcome(study_of(whole))
