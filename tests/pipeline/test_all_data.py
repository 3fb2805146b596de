"""CNNs of all data, and the distilled one: they predict new patients and no others."""

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import error_line
from safetensors.torch import load_file
from test_score import NEW_PATIENT, rewritten

import run
from ct.config import validate
from ct.errors import InputError
from ct.labels import LABELS
from ct.run_dir import ALL_DATA, RunDir, fold_folder, fold_title
from ct.storage.file_formats import read_json, read_table
from pipeline.recipe import Recipe, find_recipe, load_recipe, with_changes
from pipeline.run_context import Run
from pipeline.run_lock import stage_states
from pipeline.scoring.scoring_model import packed_folds
from pipeline.training.training_unit import training_units
from stage1_cnn.batches.dataset import fold_rows

SAME = ("submission.csv", "stage2/scores.json", "stage1/resnet/fold1/weights.safetensors")


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """The finished run, with a CNN of all data and a distilled one. Not to be changed."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("whole") / "r")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["stage1"]["all_data"] = True
    recipe["stage1"]["distilled"] = {**recipe["stage1"]["models"][0], "name": "student"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    maps = RunDir(folder).gradcam_folder("resnet")
    maps.mkdir()
    (maps / "mark").touch()
    assert run.main(["all", f"--run={folder}", "--workers=1"]) == 0
    return folder


def test_it_is_off_by_default_and_is_one_more_unit_of_each_cnn(finished):
    recipe = Run(finished).recipe
    assert recipe.trained_folds() == packed_folds(recipe) == [0, 1]
    assert [unit.name for unit in training_units(Run(finished), {})] == [
        "train/resnet/fold0",
        "train/resnet/fold1",
    ]
    more = with_changes(recipe, {"stage1.all_data": True})
    assert more.trained_folds() == [0, 1, ALL_DATA] and packed_folds(more) == [ALL_DATA]
    assert (fold_folder(ALL_DATA), fold_title(ALL_DATA)) == ("all", "all data")


def test_grad_cam_maps_of_the_folds_cnns_are_kept(whole):
    assert (RunDir(whole).gradcam_folder("resnet") / "mark").exists()


def test_it_trains_on_every_labelled_readable_slice(finished):
    slices, fold = read_table(finished / "slices.parquet"), read_table(finished / "folds.parquet")
    train, held_out = fold_rows(slices, fold["fold"].reindex(slices.index), ALL_DATA)
    usable = (
        (slices["split"] == "train") & slices["readable"] & slices[list(LABELS)].notna().all(axis=1)
    )
    assert len(held_out) == 0 and train.tolist() == np.flatnonzero(usable).tolist()


def test_probes_of_the_folds_cnns_are_refused():
    recipe = load_recipe(find_recipe("micro")).model_dump(mode="json")
    recipe["stage1"]["all_data"] = recipe["features"]["probe"] = True
    with pytest.raises(InputError, match="set stage1.all_data or features.probe to false"):
        validate(Recipe, recipe, "r.yaml", strict=True)


@pytest.mark.slow
def test_the_folds_and_the_submission_stay_as_they_were(finished, whole):
    for name in SAME:
        assert (whole / name).read_bytes() == (finished / name).read_bytes(), name
    for folder in (whole / "stage1/resnet/all", whole / "stage1/student/all"):
        made = {path.name for path in folder.iterdir()}
        assert made == {"weights.safetensors", "curve.json", "train.json"}
        assert {epoch["held_out_loss"] for epoch in read_json(folder / "curve.json")} == {None}
    weights = [
        load_file(whole / f"stage1/{name}/weights.safetensors")
        for name in ("resnet/all", "resnet/fold0", "student/all")
    ]
    for one, other in itertools.combinations(weights, 2):
        assert one.keys() == other.keys()
        assert any(not one[name].equal(other[name]) for name in one)
    assert sorted(path.name for path in (whole / "stage1/student").iterdir()) == ["all"]
    assert {kind for kind, _ in stage_states(Run(whole)).values()} == {"fresh"}


@pytest.mark.slow
def test_score_uses_it_for_new_patients_alone(finished, whole, competition, tmp_path, monkeypatch):
    new = rewritten(competition / "stage_2_test", tmp_path / "new", PatientID=NEW_PATIENT)
    packed = tmp_path / "model"
    assert run.main(["export-model", f"--run={whole}", f"--to={packed}"]) == 0
    names = {path.name for path in (packed / "weights").iterdir()}
    assert names == {"resnet-all.safetensors", "student-all.safetensors"}
    card = (packed / "README.md").read_text()
    assert "trained on the slices of\nall folds" in card
    assert "With `--fast`, one distilled CNN (test_resnet)" in card

    def scored(data, *by):
        to = tmp_path / f"scored{len(list(tmp_path.iterdir()))}"
        words = [f"--data={data}", f"--to={to}", "--device=cpu", "--workers=1"]
        assert run.main(["score", *words, *by]) == 0
        return pd.read_csv(to / "slices.csv", index_col="slice_id")[list(LABELS)]

    of_run, of_model = scored(new, f"--run={whole}"), scored(new, f"--model={packed}")
    np.testing.assert_array_equal(of_run.to_numpy(), of_model.to_numpy())
    of_folds = scored(new, f"--run={finished}")
    fast = scored(new, f"--run={whole}", "--fast")
    pd.testing.assert_frame_equal(fast, scored(new, f"--model={packed}", "--fast"))
    assert not np.allclose(of_run, of_folds, atol=1e-6)
    assert not np.allclose(of_run, fast, atol=1e-6)
    # the folds' CNNs would give the same, had they these weights
    copy = shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.setattr("pipeline.commands.score.check_fresh", lambda *args: None)
    for name, expected in {"resnet": of_run, "student": fast}.items():
        for k in (0, 1):
            weights = whole / f"stage1/{name}/all/weights.safetensors"
            shutil.copy(weights, copy / f"stage1/resnet/fold{k}")
        np.testing.assert_allclose(scored(new, f"--run={copy}"), expected, atol=1e-6)
    # of a training patient, they would predict their own training slices
    known = competition / "stage_2_test"
    of_folds = scored(known, f"--run={finished}")
    for by in ([f"--run={whole}"], [f"--run={whole}", "--fast"]):
        pd.testing.assert_frame_equal(scored(known, *by), of_folds)


@pytest.mark.slow
def test_a_packed_model_without_its_weights_is_refused(whole, competition, tmp_path, capsys):
    packed = tmp_path / "model"
    assert run.main(["export-model", f"--run={whole}", f"--to={packed}"]) == 0
    for name in ("resnet", "student"):
        path = packed / f"weights/{name}-all.safetensors"
        content = path.read_bytes()
        path.unlink()
        words = [f"--data={competition / 'stage_2_test'}", f"--model={packed}"]
        assert run.main(["score", *words, f"--to={tmp_path / 'out'}"]) == 1
        assert f"weights/{name}-all.safetensors is missing" in capsys.readouterr().err
        path.write_bytes(content)


def test_fast_needs_a_distilled_cnn(finished, competition, tmp_path, capsys):
    words = [f"--data={competition / 'stage_2_test'}", f"--run={finished}", "--fast"]
    assert run.main(["score", *words, f"--to={tmp_path / 'out'}"]) == 1
    assert "set stage1.distilled in the run's recipe.yaml" in error_line(capsys)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "resnet"}, "two models are called 'resnet'"),
        ({"seeds": 2}, "neither seeds nor soft labels"),
        ({"pseudo_from": ["resnet"]}, "neither seeds nor soft labels"),
        ({"soft_share": 1.5}, "soft_share"),
        ({"imports": True}, "without imports"),
        ({"probe": True}, "remove stage1.distilled, or set features.probe to false"),
    ],
)
def test_a_distilled_cnn_that_cannot_be_is_refused(changed, message):
    recipe = load_recipe(find_recipe("micro")).model_dump(mode="json")
    recipe["features"]["probe"] = changed.pop("probe", False)
    recipe["stage1"]["imports"] = ["other"] if changed.pop("imports", False) else []
    recipe["stage1"]["distilled"] = {**recipe["stage1"]["models"][0], "name": "student"} | changed
    with pytest.raises(InputError, match=message):
        validate(Recipe, recipe, "r.yaml", strict=True)
