"""CNNs of a second round: soft labels of test slices, by the models of the same fold alone."""

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import error_line
from scipy.special import expit

import run
from ct.config import validate
from ct.errors import InputError
from ct.labels import LABELS
from ct.run_dir import ALL_DATA
from ct.storage.file_formats import read_json, read_table, write_table
from ct.storage.prediction_files import write_predictions
from ct.synthetic.example_competition import write_competition
from pipeline.input_digests import input_digests
from pipeline.recipe import Recipe, find_recipe, load_recipe
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.run_lock import stage_states
from pipeline.training import cnn_jobs
from pipeline.training.soft_labels import soft_labels, training_slices
from pipeline.training.stage_one_inputs import StageOneInputs
from pipeline.training.training_unit import training_units
from stage1_cnn.batches.dataset import LOSS_WEIGHT


def with_second(values, **fields):
    """Return a recipe's values with a CNN `second` that is trained on soft labels of `resnet`."""
    first = values["stage1"]["models"][0]
    second = {**first, "name": "second", "pseudo_from": ["resnet"]} | fields
    return {**values, "stage1": {**values["stage1"], "models": [first, second]}}


def micro(**fields):
    return with_second(load_recipe(find_recipe("micro")).model_dump(mode="json"), **fields)


@pytest.fixture
def inputs(finished, tmp_path):
    """A copy of the finished run with a second round, whose test patient is not in train."""
    folder = shutil.copytree(finished, tmp_path / "r")
    values = with_second(yaml.safe_load((folder / "recipe.yaml").read_text()))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    slices, folds = read_table(folder / "slices.parquet"), read_table(folder / "folds.parquet")
    is_test = slices["split"] == "test"
    slices.loc[is_test, ["patient_id", "study_id"]] = "new"
    folds.loc[slices.index[is_test], "fold"] = -1
    write_table(folder / "slices.parquet", slices)
    write_table(folder / "folds.parquet", folds)
    return StageOneInputs(Run(folder))


def reopened(inputs, slices=None, folds=None):
    """The inputs after a change of the tables."""
    root = inputs.run.dir
    for path, table in ((root.slices, slices), (root.folds, folds)):
        if table is not None:
            write_table(path, table)
    return StageOneInputs(Run(root.root))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pseudo_from": ["other"]}, "second: pseudo_from has 'other'; name CNNs .* it: resnet"),
        ({"pseudo_from": ["second"]}, "pseudo_from has 'second'"),
        ({"pseudo_weight": 0}, "pseudo_weight"),
    ],
)
def test_only_cnns_before_it_have_soft_labels_for_it(fields, message):
    with pytest.raises(InputError, match=message):
        validate(Recipe, micro(**fields), "r.yaml", strict=True)


def test_studies_without_a_test_set_are_refused():
    values = micro()
    values["data"]["format"] = "own"
    with pytest.raises(InputError, match="pseudo_from needs test slices, and studies of your own"):
        validate(Recipe, values, "r.yaml", strict=True)


def test_it_is_off_by_default():
    recipe = load_recipe(find_recipe("micro"))
    assert [model.pseudo_from for model in recipe.stage1.models] == [()]


def test_each_unit_needs_the_predictions_of_its_own_fold(inputs):
    units = training_units(inputs.run, {})
    assert {unit.name: unit.needs for unit in units} == {
        "train/resnet/fold0": (),
        "train/resnet/fold1": (),
        "predict/resnet/fold0": ("train/resnet/fold0",),
        "predict/resnet/fold1": ("train/resnet/fold1",),
        "train/second/fold0": ("predict/resnet/fold0",),
        "train/second/fold1": ("predict/resnet/fold1",),
    }
    names = [unit.name for unit in units]
    assert all(names.index(need) < names.index(unit.name) for unit in units for need in unit.needs)


def test_every_seed_of_the_first_round_is_needed(inputs):
    values = yaml.safe_load(inputs.run.dir.recipe.read_text())
    values["stage1"]["models"][0]["seeds"] = values["stage1"]["models"][1]["seeds"] = 2
    values["stage1"]["all_data"] = True
    inputs.run.dir.recipe.write_text(yaml.safe_dump(values))
    needs = {unit.name: unit.needs for unit in training_units(Run(inputs.run.dir.root), {})}
    for name in ("second", "second.seed1"):
        assert needs[f"train/{name}/fold1"] == (
            "predict/resnet/fold1",
            "predict/resnet.seed1/fold1",
        )
    assert needs["train/second/all"] == ("predict/resnet/all", "predict/resnet.seed1/all")
    assert needs["predict/resnet/all"] == ("train/resnet/all",)


@pytest.mark.parametrize("k", [0, 1])
def test_fold_k_is_trained_on_what_fold_k_predicts(inputs, k):
    test = inputs.slices.index[inputs.slices["split"] == "test"]
    for fold in (0, 1):
        path = inputs.run.dir.fold("resnet", fold) / "test.parquet"
        write_predictions(path, read_table(path) * 0 + np.float32(fold - 2), "logits")
    config = inputs.config("second")
    slices, (train, held_out) = training_slices(inputs, config, k)
    plain, (labelled, same) = training_slices(inputs, inputs.config("resnet"), k)
    assert plain is inputs.slices and held_out.tolist() == same.tolist()
    assert train[: len(labelled)].tolist() == labelled.tolist()
    added = slices.index[train[len(labelled) :]]
    readable = inputs.slices.loc[test, "readable"]
    assert added.tolist() == test[readable].tolist()
    np.testing.assert_allclose(slices.loc[added, list(LABELS)], expit(k - 2), rtol=1e-6)
    assert set(slices.loc[added, LOSS_WEIGHT]) == {0.5}
    # no label of another slice changes, nor its weight
    others = ~slices.index.isin(added)
    assert slices.loc[others, list(LABELS)].equals(inputs.slices.loc[others, list(LABELS)])
    assert set(slices.loc[others, LOSS_WEIGHT]) == {1.0}


def test_test_slices_of_training_patients_and_unreadable_ones_are_left_out(inputs):
    slices, folds = inputs.slices.copy(), read_table(inputs.run.dir.folds)
    test = slices.index[slices["split"] == "test"]
    slices.loc[test, "readable"] = True
    slices.loc[test[0], "readable"] = False
    folds.loc[test[1], "fold"] = 1
    _, (train, _) = training_slices(reopened(inputs, slices, folds), inputs.config("second"), 0)
    assert set(slices.index[train]) & set(test) == set(test[2:])
    # a fold that is missing does not let a training patient in
    slices.loc[test[2:], "patient_id"] = slices.loc[slices["split"] == "train", "patient_id"].iloc[
        0
    ]
    with pytest.raises(ValueError, match="is in train and has no fold"):
        training_slices(reopened(inputs, slices), inputs.config("second"), 0)
    folds.loc[test, "fold"] = 1
    with pytest.raises(InputError, match="this run has none; remove it from recipe.yaml"):
        training_slices(reopened(inputs, slices, folds), inputs.config("second"), ALL_DATA)


def with_student(inputs, **fields):
    """The inputs of a run whose recipe has a distilled CNN, too."""
    values = yaml.safe_load(inputs.run.dir.recipe.read_text())
    first = values["stage1"]["models"][0]
    values["stage1"]["distilled"] = {**first, "name": "student"} | fields
    inputs.run.dir.recipe.write_text(yaml.safe_dump(values))
    return reopened(inputs)


def test_a_distilled_cnn_needs_all_folds_of_all_cnns(inputs):
    units = training_units(with_student(inputs).run, {})
    assert units[-1].name == "train/student/all"
    names = [f"train/{name}/fold{k}" for name in ("resnet", "second") for k in (0, 1)]
    assert list(units[-1].needs) == names
    assert units[-1].why_not_done() == "train/resnet/fold0 is to be done first"


def test_its_targets_are_labels_and_what_each_folds_own_cnns_predict(inputs):
    inputs = with_student(inputs, soft_share=0.25)
    slices, is_train = inputs.slices, inputs.slices["split"] == "train"
    for fold in (0, 1):
        index = slices.index[is_train & (inputs.fold == fold)]
        for name, logit in (("resnet", fold), ("second", fold + 2)):
            # in another order than the slice table
            table = pd.DataFrame(np.float32(logit), index[::-1], list(LABELS))
            inputs.run.dir.fold(name, fold).mkdir(parents=True, exist_ok=True)
            write_predictions(inputs.run.dir.fold(name, fold) / "held_out.parquet", table, "logits")
    config = inputs.config("student")
    table, (train, held_out) = training_slices(inputs, config, ALL_DATA)
    assert len(held_out) == 0 and len(train) == len(set(train)) > 20
    mean = expit(inputs.fold[train] + 1.0)
    expected = 0.75 * slices[list(LABELS)].to_numpy()[train] + 0.25 * mean[:, None]
    np.testing.assert_allclose(table[list(LABELS)].to_numpy()[train], expected, rtol=1e-6)
    assert set(table[LOSS_WEIGHT]) == {1.0}
    path = inputs.run.dir.fold("second", 1) / "held_out.parquet"
    write_predictions(path, read_table(path).iloc[1:], "logits")
    with pytest.raises(ValueError, match="has no out-of-fold prediction"):
        training_slices(inputs, config, ALL_DATA)


def chain(inputs, k):
    """Train both rounds of fold k. Returns the bytes of the soft labels, and the last weights."""
    for name in ("resnet", "second"):
        inputs.run.dir.fold(name, k).mkdir(parents=True, exist_ok=True)
        inputs.discard_checkpoint(name, k)
        cnn_jobs.train_fold(inputs, name, k, "a")
        cnn_jobs.predict_fold(inputs, name, k, "test", "a")
    test = inputs.slices.index[inputs.slices["split"] == "test"]
    weights = (inputs.run.dir.fold("second", k) / "weights.safetensors").read_bytes()
    return soft_labels(inputs.run, inputs.config("second"), k, test).tobytes(), weights


def test_labels_of_fold_k_reach_neither_its_soft_labels_nor_its_second_round(inputs):
    before = chain(inputs, 0)
    changed = []
    for fold in (0, 1):
        slices = inputs.slices.copy()
        rows = (slices["split"] == "train") & (inputs.fold == fold) & slices["any"].notna()
        slices.loc[rows, list(LABELS)] = 1 - slices.loc[rows, list(LABELS)]
        changed.append(chain(reopened(inputs, slices), 0))
    assert changed[0] == before
    assert changed[1][0] != before[0] and changed[1][1] != before[1]


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """A finished run of two rounds. Not to be changed."""
    folder = tmp_path_factory.mktemp("rounds")
    write_competition(folder / "data", studies=14, seed=6, size=64, slices=(5, 5))
    (folder / "r.yaml").write_text(yaml.safe_dump(micro()))
    words = [f"--recipe={folder / 'r.yaml'}", f"--data={folder / 'data'}"]
    assert run.main(["new", f"--run={folder / 'r'}", *words]) == 0
    assert run.main(["all", f"--run={folder / 'r'}", "--workers=1"]) == 0
    return folder / "r"


def tables(folder):
    return [
        (folder / name).read_bytes()
        for name in ("submission.csv", "stage2/scores.json", "stage1/second/oof.parquet")
    ]


@pytest.mark.slow
def test_a_run_of_two_rounds_is_fresh_and_continues_after_a_kill(
    rounds, tmp_path, monkeypatch, capsys
):
    assert {kind for kind, _ in stage_states(Run(rounds)).values()} == {"fresh"}
    read = read_json(rounds / "stage1/second/fold1/train.json")["read"]
    assert "stage1/resnet/fold1/test.parquet" in read
    assert "stage1/resnet/fold0/test.parquet" not in read
    folder = shutil.copytree(rounds, tmp_path / "r")
    shutil.rmtree(folder / "stage1")
    for path in (folder / "receipts").glob("*.json"):
        if path.stem not in ("ingest", "folds"):
            path.unlink()
    real = cnn_jobs.train_cnn

    def killed_in_the_second_round(slices, split, read_hu, config, seed, hooks, checkpoint):
        def progress(*step):
            if config.name == "second" and step[:2] == (2, 2):
                raise KeyboardInterrupt

        often = cnn_jobs.Hooks(progress, None, hooks.save, hooks.log, save_seconds=0.0)
        return real(slices, split, read_hu, config, seed, often, checkpoint)

    monkeypatch.setattr(cnn_jobs, "train_cnn", killed_in_the_second_round)
    assert run.main(["all", f"--run={folder}", "--workers=1"]) == 130
    monkeypatch.undo()
    capsys.readouterr()
    assert run.main(["all", f"--run={folder}", "--workers=1"]) == 0
    assert "second fold 0: continues in epoch 2" in capsys.readouterr().out
    assert tables(folder) == tables(rounds)


@pytest.mark.slow
def test_a_change_of_the_first_round_is_one_of_the_second(rounds, tmp_path):
    folder = shutil.copytree(rounds, tmp_path / "r")
    (folder / "stage1/resnet/fold1/train.json").unlink()
    states = {unit.name: unit.why_not_done() for unit in _units(folder)}
    assert {name for name, why in states.items() if why} == {
        "train/resnet/fold1",
        "predict/resnet/fold1",
        "train/second/fold1",
    }
    assert states["train/second/fold1"] == "predictions of resnet are to be made first"
    (folder / "receipts/train.json").unlink()
    assert run.main(["all", f"--run={folder}", "--workers=1"]) == 0
    assert tables(folder) == tables(rounds)
    path, kept = folder / "stage1/resnet/fold0/test.parquet", weights(folder)
    assert kept == weights(rounds)
    write_predictions(path, read_table(path) + 1, "logits")
    states = {unit.name: unit.why_not_done() for unit in _units(folder)}
    assert {name for name, why in states.items() if why} == {
        "predict/resnet/fold0",
        "train/second/fold0",
    }
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["stage1"]["models"][0]["lr"] = 0.001
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run.main(["train", f"--run={folder}", "--workers=1"]) == 0
    assert not set(kept) & set(weights(folder))


def weights(folder):
    return [path.read_bytes() for path in sorted(folder.glob("stage1/*/fold*/weights.*"))]


def _units(folder):
    opened = Run(folder)
    return training_units(opened, input_digests(opened, STAGES["train"]))


@pytest.mark.slow
def test_a_run_without_such_test_slices_stops_before_it_trains(competition, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(micro()))
    folder = tmp_path / "r"
    words = [f"--recipe={tmp_path / 'r.yaml'}", f"--data={competition}"]
    assert run.main(["new", f"--run={folder}", *words]) == 0
    for verb in ("ingest", "folds"):
        assert run.main([verb, f"--run={folder}"]) == 0
    capsys.readouterr()
    assert run.main(["train", f"--run={folder}"]) == 1
    assert "second: pseudo_from needs readable test slices" in error_line(capsys)
    assert not list(folder.rglob("weights.safetensors"))
