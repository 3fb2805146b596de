"""A CNN with several seeds: fits of their own, whose mean logits are its prediction."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import expit
from test_score import NEW_PATIENT, rewritten

import run
from ct.averaging import StageOne, mean_of_seeds
from ct.config import validate
from ct.errors import InputError
from ct.labels import LABELS
from ct.metrics import weighted_log_loss
from ct.run_dir import RunDir, seed_names
from ct.storage.file_formats import read_array, read_table
from pipeline.recipe import Recipe, find_recipe, load_recipe, with_changes
from pipeline.run_context import Run
from pipeline.run_lock import stage_states
from pipeline.stages.predict import prediction_units
from pipeline.training.training_unit import training_units
from report.run_artifacts import read_run

SEEDS = ["resnet", "resnet.seed1"]


def two_seeds(recipe):
    models = recipe.model_dump(mode="json")["stage1"]["models"]
    return with_changes(recipe, {"stage1.models": [{**models[0], "seeds": 2}]})


@pytest.fixture(scope="module")
def seeded(finished, tmp_path_factory):
    """The finished run, with a second seed. Not to be changed."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("seeded") / "r")
    values = two_seeds(Run(folder).recipe).model_dump(mode="json")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert run.main(["all", f"--run={folder}", "--workers=1"]) == 0
    return folder


def test_one_seed_is_the_cnn_itself(finished):
    recipe = Run(finished).recipe
    assert recipe.stage1.fits() == list(recipe.stage1.models)
    assert seed_names("a", 1) == ["a"] and seed_names("a", 3) == ["a", "a.seed1", "a.seed2"]
    # the first fit of several is the same unit: raising the seeds trains the others alone
    more = two_seeds(recipe).stage1
    assert more.fits()[0] == recipe.stage1.models[0]
    assert more.model("resnet.seed1").name == "resnet.seed1"


def test_units_are_named_by_seed(finished, tmp_path):
    shutil.copy(finished / "recipe.yaml", tmp_path)
    values = two_seeds(Run(finished).recipe).model_dump(mode="json")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    names = [f"{name}/fold{k}" for name in SEEDS for k in (0, 1)]
    assert [unit.name for unit in training_units(Run(tmp_path), {})] == [
        f"train/{name}" for name in names
    ]
    assert [unit.name for unit in prediction_units(Run(tmp_path), {})] == [
        f"predict/{name}" for name in names
    ]


def test_the_mean_is_of_logits():
    fits = [StageOne(np.full((2, 6), x, np.float32), "logits") for x in (-30, 10)]
    np.testing.assert_array_equal(mean_of_seeds(fits).logits(1e-5), -10)
    assert mean_of_seeds(fits[:1]) is fits[0]
    with pytest.raises(ValueError, match="holds probabilities"):
        mean_of_seeds([fits[0], StageOne(np.full((2, 6), 0.5), "probabilities")])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"outputs": "probabilities"}, "set outputs: logits"),
        ({"seeds": 0}, "seeds"),
        ({"probe": True}, "set seeds to 1, or features.probe to false"),
    ],
)
def test_what_cannot_be_averaged_is_refused(changed, message):
    recipe = load_recipe(find_recipe("micro")).model_dump(mode="json")
    recipe["features"]["probe"] = changed.pop("probe", False)
    recipe["stage1"]["models"][0] |= {"seeds": 2} | changed
    with pytest.raises(InputError, match=message):
        validate(Recipe, recipe, "r.yaml", strict=True)


@pytest.mark.slow
def test_stage_two_reads_the_mean_and_the_first_seed_is_kept(finished, seeded):
    weights = "stage1/resnet/fold1/weights.safetensors"
    assert (seeded / weights).read_bytes() == (finished / weights).read_bytes()
    assert (seeded / weights).stat().st_mtime_ns == (finished / weights).stat().st_mtime_ns
    folder = RunDir(seeded)
    logits = [read_table(folder.oof(name)) for name in SEEDS]
    assert not np.allclose(logits[0], logits[1], equal_nan=True)
    mean = (logits[0] + logits[1]) / 2
    X = read_array(seeded / "stage2/features/train.npy")
    np.testing.assert_allclose(X[:, :6], mean, rtol=1e-6)
    test = [read_table(folder.fold(name, 1) / "test.parquet") for name in SEEDS]
    X = read_array(seeded / "stage2/features/test.npy")
    np.testing.assert_allclose(X[1, :, :6], (test[0] + test[1]) / 2, rtol=1e-6)
    art = read_run(folder)
    np.testing.assert_allclose(art.raw, expit(mean), rtol=1e-5)
    scores = json.loads((seeded / "stage2/scores.json").read_text())
    assert list(scores["models"]) == ["resnet"]
    y = read_table(seeded / "slices.parquet").loc[mean.index, list(LABELS)]
    known = mean.notna().all(axis=1) & y.notna().all(axis=1)
    loss = weighted_log_loss(y[known], expit(mean[known].astype(np.float64)))
    assert scores["models"]["resnet"]["weighted"]["loss"] == pytest.approx(loss, abs=0.02)
    assert {kind for kind, _ in stage_states(Run(seeded)).values()} == {"fresh"}


@pytest.mark.slow
def test_score_averages_the_seeds_in_a_run_and_packed(seeded, competition, tmp_path):
    new = rewritten(competition / "stage_2_test", tmp_path / "new", PatientID=NEW_PATIENT)
    packed = tmp_path / "model"
    assert run.main(["export-model", f"--run={seeded}", f"--to={packed}"]) == 0
    assert {path.name for path in (packed / "weights").iterdir()} == {
        f"{name}-fold{k}.safetensors" for name in SEEDS for k in (0, 1)
    }
    assert "(2 seeds)" in (packed / "README.md").read_text()
    tables = []
    for number, by in enumerate((f"--run={seeded}", f"--model={packed}")):
        to = tmp_path / f"scored{number}"
        words = [f"--data={new}", f"--to={to}", "--device=cpu", "--workers=1"]
        assert run.main(["score", *words, by]) == 0
        tables.append(pd.read_csv(to / "slices.csv", index_col="slice_id")[list(LABELS)])
    pd.testing.assert_frame_equal(*tables)
    # the run's own test study: the same slices, of a patient who is in train, in one fold
    known = tmp_path / "known"
    words = [f"--data={competition / 'stage_2_test'}", f"--to={known}", "--device=cpu"]
    assert run.main(["score", *words, f"--run={seeded}", "--workers=1"]) == 0
    scored = pd.read_csv(known / "slices.csv", index_col="slice_id")[list(LABELS)]
    expected = read_table(seeded / "stage2/test.parquet").loc[scored.index]
    np.testing.assert_allclose(scored, expected, atol=1e-5)
