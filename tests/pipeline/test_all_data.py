"""CNNs of all data: trained beside those of the folds, they predict new patients and no others."""

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file
from test_score import NEW_PATIENT, rewritten

import run
from ct.config import validate
from ct.errors import InputError
from ct.labels import LABELS
from ct.run_dir import ALL_DATA, fold_folder, fold_title
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
    """The finished run, with a CNN of all data. Not to be changed."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("whole") / "r")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["stage1"]["all_data"] = True
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
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
    folder = whole / "stage1/resnet/all"
    made = {path.name for path in folder.iterdir()}
    assert made == {"weights.safetensors", "curve.json", "train.json"}
    assert {epoch["held_out_loss"] for epoch in read_json(folder / "curve.json")} == {None}
    own, of_fold = (
        load_file(whole / f"stage1/resnet/{name}/weights.safetensors") for name in ("all", "fold0")
    )
    assert own.keys() == of_fold.keys()
    assert any(not own[name].equal(of_fold[name]) for name in own)
    assert {kind for kind, _ in stage_states(Run(whole)).values()} == {"fresh"}


@pytest.mark.slow
def test_score_uses_it_for_new_patients_alone(finished, whole, competition, tmp_path, monkeypatch):
    new = rewritten(competition / "stage_2_test", tmp_path / "new", PatientID=NEW_PATIENT)
    packed = tmp_path / "model"
    assert run.main(["export-model", f"--run={whole}", f"--to={packed}"]) == 0
    assert [path.name for path in (packed / "weights").iterdir()] == ["resnet-all.safetensors"]
    assert "trained on the slices of\nall folds" in (packed / "README.md").read_text()

    def scored(data, *by):
        to = tmp_path / f"scored{len(list(tmp_path.iterdir()))}"
        words = [f"--data={data}", f"--to={to}", "--device=cpu", "--workers=1"]
        assert run.main(["score", *words, *by]) == 0
        return pd.read_csv(to / "slices.csv", index_col="slice_id")[list(LABELS)]

    of_run, of_model = scored(new, f"--run={whole}"), scored(new, f"--model={packed}")
    np.testing.assert_array_equal(of_run.to_numpy(), of_model.to_numpy())
    of_folds = scored(new, f"--run={finished}")
    assert not np.allclose(of_run, of_folds, atol=1e-6)
    # the folds' CNNs would give the same, had they these weights
    copy = shutil.copytree(finished, tmp_path / "copy")
    for k in (0, 1):
        shutil.copy(
            whole / "stage1/resnet/all/weights.safetensors", copy / f"stage1/resnet/fold{k}"
        )
    monkeypatch.setattr("pipeline.commands.score.check_fresh", lambda *args: None)
    np.testing.assert_allclose(scored(new, f"--run={copy}"), of_run, atol=1e-6)
    # of a training patient, it would predict its own training slices
    known = competition / "stage_2_test"
    pd.testing.assert_frame_equal(
        scored(known, f"--run={whole}"), scored(known, f"--run={finished}")
    )


@pytest.mark.slow
def test_a_packed_model_without_its_weights_is_refused(whole, competition, tmp_path, capsys):
    packed = tmp_path / "model"
    assert run.main(["export-model", f"--run={whole}", f"--to={packed}"]) == 0
    (packed / "weights/resnet-all.safetensors").unlink()
    words = [f"--data={competition / 'stage_2_test'}", f"--model={packed}"]
    assert run.main(["score", *words, f"--to={tmp_path / 'out'}"]) == 1
    assert "weights/resnet-all.safetensors is missing" in capsys.readouterr().err
