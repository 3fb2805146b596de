"""An update loses no work: files of older versions are fresh, continued, and score the same."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic.fields import FieldInfo
from safetensors.torch import load_file

import run
from ct.errors import InputError
from ct.labels import LABELS
from ct.storage.file_formats import read_table
from ct.storage.receipt_reader import version_differences
from features.config import FeatureConfig
from pipeline import older_versions as updates
from pipeline.freshness import inputs_digest
from pipeline.ingestion import header_units
from pipeline.receipt import versions
from pipeline.recipe import PixelConfig, Recipe, StageOneConfig, load_recipe
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.scoring.packed_model import model_of_folder
from pipeline.stage_runner import stage_states
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import pick_device
from stage2_stack.config import StackConfig


def files_and_times(folder):
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_finished_run_of_an_older_version_is_fresh_and_unchanged(kept, capsys):
    before = files_and_times(kept)
    assert stage_states(Run(kept)) == dict.fromkeys(STAGES, ("fresh", ""))
    assert run.main(["all", f"--run={kept}", "--workers=1"]) == 0
    assert "everything is fresh" in capsys.readouterr().out
    assert files_and_times(kept) == before


def test_searches_of_an_older_version_are_continued(kept, capsys):
    assert run.main(["search", f"--run={kept}", "--trials=2"]) == 0
    assert "2 trials there already" in capsys.readouterr().out
    assert run.main(["tune", f"--run={kept}", "--trials=4", "--workers=1"]) == 0
    assert "4 trials" in capsys.readouterr().out
    # the three of before, and one more
    assert len(read_table(kept / "stage2" / "trials.parquet")) == 4


def test_a_half_trained_run_of_an_older_version_continues_from_its_checkpoint(
    half, older_version, capsys
):
    """It ends where the uninterrupted run did, but for the last bits of another processor.

    These are 1e-5 of what the rest of the training changes; lost moments of Adam would be .95.
    """
    before = load_file(half / "stage1/cnn/fold1/checkpoint.safetensors")
    assert run.main(["train", f"--run={half}"]) == 0
    out = capsys.readouterr().out
    assert "cnn fold 0: 2 epochs" in out and out.count(", kept") == 1
    assert "cnn fold 1: continues in epoch 2, after 3 steps" in out
    ours, theirs = (
        load_file(f / "stage1/cnn/fold1/weights.safetensors") for f in (half, older_version / "run")
    )
    assert ours.keys() == theirs.keys()
    kernels = [name for name, weight in theirs.items() if weight.ndim > 1]
    start = flat(before[f"model.backbone.{name}"] for name in kernels)
    end, reached = (flat(weights[name] for name in kernels) for weights in (theirs, ours))
    assert np.linalg.norm(reached - end) < 1e-3 * np.linalg.norm(end - start)


def flat(tensors):
    """Return the values of all tensors, (n,)."""
    return np.concatenate([tensor.numpy().ravel() for tensor in tensors])


def test_features_made_again_keep_the_descriptions_that_tune_depends_on(kept):
    names = kept / "stage2" / "features" / "names.json"
    before = names.read_bytes()
    (kept / "receipts" / "features.json").unlink()
    assert run.main(["features", f"--run={kept}"]) == 0
    assert names.read_bytes() == before
    for damaged in (b"{", b"5", b"[1, 2]", b"{}"):
        names.write_bytes(damaged)
        (kept / "receipts" / "features.json").unlink()
        assert run.main(["features", f"--run={kept}"]) == 0
        assert list(json.loads(names.read_text())) == list(json.loads(before))


@pytest.mark.parametrize("kind", ["run", "model"])
def test_score_gives_the_older_versions_probabilities(older_version, tmp_path, kind):
    words = [
        f"--data={older_version / 'dicom'}",
        f"--to={tmp_path / 'scored'}",
        "--device=cpu",
        "--workers=1",
    ]
    model = shutil.copytree(older_version / kind, tmp_path / kind)
    assert run.main(["score", f"--{kind}={model}", *words]) == 0
    expected = pd.read_csv(older_version / "expected" / f"score-{kind}.csv", index_col="slice_id")
    ours = pd.read_csv(tmp_path / "scored" / "slices.csv", index_col="slice_id")
    assert list(ours.index) == list(expected.index)
    np.testing.assert_allclose(ours[list(LABELS)], expected[list(LABELS)], atol=1e-6, rtol=0)


def test_export_model_packs_an_older_run_as_the_older_version_did(kept, older_version, tmp_path):
    assert run.main(["export-model", f"--run={kept}", f"--to={tmp_path / 'model'}"]) == 0
    of_before = older_version / "model"
    names = {path.relative_to(of_before) for path in of_before.rglob("*") if path.is_file()}
    assert {
        path.relative_to(tmp_path / "model")
        for path in (tmp_path / "model").rglob("*")
        if path.is_file()
    } == names
    for name in names:
        if name.suffix in (".safetensors", ".txt"):
            assert (tmp_path / "model" / name).read_bytes() == (of_before / name).read_bytes(), name
    recipes = [
        load_recipe(folder / "recipe.yaml", updates.older_recipe)
        for folder in (tmp_path / "model", of_before)
    ]
    assert recipes[0] == recipes[1]
    ours, theirs = (
        json.loads((folder / "stage2.json").read_text())
        for folder in (tmp_path / "model", of_before)
    )
    assert ours["names"] == theirs["names"] and ours["blend"] == theirs["blend"]
    for label in LABELS:
        assert ours["studies"][label] == pytest.approx(theirs["studies"][label], abs=1e-6)


@pytest.fixture
def new_fields(monkeypatch):
    """A later version: one more field, with a default, in the Configs of CNN, features, stack."""
    kinds = (
        (CnnConfig, "zoom"),
        (FeatureConfig, "depth"),
        (StackConfig, "shrink"),
        (PixelConfig, "crop"),
    )
    for kind, name in kinds:
        monkeypatch.setitem(
            kind.__pydantic_fields__, name, FieldInfo(annotation=float, default=0.5)
        )
    rebuild()
    yield
    monkeypatch.undo()
    rebuild()


def rebuild():
    for kind in (CnnConfig, FeatureConfig, StackConfig, PixelConfig, StageOneConfig, Recipe):
        kind.model_rebuild(force=True)


def test_a_new_field_makes_nothing_stale(kept, new_fields):
    assert Run(kept).recipe.stage1.models[0].zoom == Run(kept).recipe.features.depth == 0.5
    assert stage_states(Run(kept)) == dict.fromkeys(STAGES, ("fresh", ""))


def test_a_new_field_keeps_checkpoints_units_and_trials(kept, half, new_fields, capsys):
    assert run.main(["train", f"--run={half}"]) == 0
    out = capsys.readouterr().out
    assert out.count(", kept") == 1 and "continues in epoch 2" in out
    assert run.main(["search", f"--run={kept}", "--trials=2"]) == 0
    assert "2 trials there already" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in (kept / "stage2" / "tune").glob("*.json")}
    (kept / "receipts" / "tune.json").unlink()
    assert run.main(["tune", f"--run={kept}", "--workers=1"]) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times  # no label was tuned again
    journal = (kept / "stage2" / "tune" / "any-fold1.journal").read_bytes()
    assert run.main(["tune", f"--run={kept}", "--trials=4", "--workers=1"]) == 0
    assert (kept / "stage2" / "tune" / "any-fold1.journal").read_bytes().startswith(journal)


def test_a_new_field_at_another_value_is_a_change(kept, new_fields):
    recipe = yaml.safe_load((kept / "recipe.yaml").read_text())
    recipe["features"]["depth"] = 0.75
    (kept / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    states = stage_states(Run(kept))
    assert states["features"] == ("stale", "recipe changed, features.depth: 0.5 -> 0.75")
    assert states["predict"] == ("fresh", "")


def test_a_new_default_may_differ_from_the_older_value(
    kept, half, older_version, new_fields, monkeypatch, capsys
):
    """OLDER_VALUES then names the value that reproduces older runs: they keep it."""
    for name in ("CnnConfig.zoom", "FeatureConfig.depth", "StackConfig.shrink"):
        monkeypatch.setitem(updates.OLDER_VALUES, name, 0.0)
    recipe = Run(kept).recipe
    assert (recipe.stage1.models[0].zoom, recipe.features.depth, recipe.stage2.shrink) == (
        0.0,
        0.0,
        0.0,
    )
    assert load_recipe(kept / "recipe.yaml").features.depth == 0.5  # a new run takes the new one
    assert model_of_folder(older_version / "model").recipe.features.depth == 0.0
    assert stage_states(Run(kept)) == dict.fromkeys(STAGES, ("fresh", ""))
    assert run.main(["train", f"--run={half}"]) == 0
    assert "continues in epoch 2" in capsys.readouterr().out


def test_what_is_added_by_hand_to_a_recipe_of_now_has_the_defaults_of_now(finished, tmp_path):
    """Only a recipe.yaml without a version lacks fields because it is older."""
    folder = shutil.copytree(finished, tmp_path / "r")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["version"] == 1
    second = {"name": "second", "backbone": "test_resnet"}
    recipe["stage1"]["models"].append(second)
    recipe["stage2"] = {"components": ["raw", "lightgbm"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    read = Run(folder).recipe
    assert read.stage1.models[1] == CnnConfig(**second)
    assert (read.stage2.blend_rounds, read.stage2.calibrate_by) == (2.0, "patient")
    del recipe["version"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    read = Run(folder).recipe
    assert (read.stage1.models[1].outputs, read.stage2.blend_rounds) == ("probabilities", 1.0)


def test_a_new_field_keeps_the_digest_of_an_unfinished_training(new_fields):
    part = {
        "model": CnnConfig(name="a", backbone="b").model_dump(mode="json"),
        "seed": 0,
        "fold": 1,
    }
    before = {
        **part,
        "model": {name: value for name, value in part["model"].items() if name != "zoom"},
    }
    changed = {**part, "model": {**part["model"], "zoom": 0.75}}
    assert inputs_digest(part, {}) == inputs_digest(before, {}) != inputs_digest(changed, {})


def test_an_interrupted_ingest_of_an_older_version_continues_and_keeps_its_key(
    finished, tmp_path, monkeypatch, capsys
):
    r = shutil.copytree(finished, tmp_path / "r")
    read = json.loads((r / "receipts/ingest.json").read_text())["read"]
    (r / "receipts/ingest.json").unlink()
    (r / "ingest.json").unlink()
    (r / "ingest.part").mkdir()
    files = {name: read[name] for name in ("train files", "test files")}
    of_before = {"source": Run(r).recipe.data.source, "files": files, "versions": versions()}
    (r / "ingest.part/inputs.json").write_text(json.dumps(of_before))
    (r / "ingest.part/piece").write_text("of what was read")

    def stop(*words):
        raise InputError(f"stopped; the piece is there: {(r / 'ingest.part/piece').exists()}")

    monkeypatch.setattr(header_units, "read_header_chunk", stop)
    assert run.main(["ingest", f"--run={r}"]) == 1
    assert "the piece is there: True" in capsys.readouterr().err
    key = bytearray((r / "key").read_bytes())
    key[7] ^= 1
    (r / "key").write_bytes(key)
    assert run.main(["ingest", f"--run={r}"]) == 1
    assert "the key of the pseudonyms has changed" in capsys.readouterr().err


def test_receipts_note_processes_device_and_precision(finished):
    for name in STAGES:
        receipt = json.loads((finished / "receipts" / f"{name}.json").read_text())
        device = pick_device().type if name in ("train", "predict") else "cpu"
        assert receipt["processes"] == 1 and receipt["device"].startswith(device)
        assert receipt.get("precision", "").startswith(("fp", "bf")) == (
            name in ("train", "predict")
        )


def test_work_of_different_versions_is_named_and_stays_fresh(kept, capsys):
    path = kept / "receipts/stack.json"
    receipt = json.loads(path.read_text())
    receipt["versions"]["lightgbm"], receipt["commit"] = "9.9.9", "abcdef123456"
    path.write_text(json.dumps(receipt))
    for name in ("report.json", "submit.json"):
        (kept / "receipts" / name).unlink()
    assert run.main(["status", f"--run={kept}"]) == 0
    out = capsys.readouterr().out
    stages = "(ingest, folds, train, predict, features, tune)"
    assert f"made by different versions: lightgbm 4.7.0 {stages}, 9.9.9 (stack)" in out
    assert f"made by different versions: commit fcf6187026a3 {stages}, abcdef" in out
    assert stage_states(Run(kept))["stack"] == ("fresh", "")
    assert run.main(["report", f"--run={kept}"]) == 0
    page = (kept / "report.html").read_text()
    assert "lightgbm 4.7.0 (ingest, folds, train, predict, features, tune), 9.9.9 (stack)" in page


def test_equal_versions_give_no_line():
    same = {"commit": "a", "versions": {"torch": "1"}}
    assert version_differences({"ingest": same, "stack": dict(same)}) == []
    assert (
        version_differences({"ingest": {}, "stack": same}) == []
    )  # of an older one nothing is known
    other = {"commit": "a", "versions": {"torch": "1", "xgboost": "2"}}
    assert version_differences({"ingest": same, "stack": other}) == [
        "made by different versions: xgboost none (ingest), 2 (stack)"
    ]


def test_ingest_done_again_by_this_version_makes_nothing_stale(
    finished, older_version, competition, tmp_path
):
    """The source is read again after a duplicate label row: later stages' inputs are equal."""
    for name in ("slices.parquet", "pixels/index.parquet", "folds.parquet"):
        assert list(read_table(finished / name)) == list(
            read_table(older_version / "run" / name)
        ), name
    r, data = (
        shutil.copytree(finished, tmp_path / "r"),
        shutil.copytree(competition, tmp_path / "data"),
    )
    receipt = json.loads((r / "receipts/ingest.json").read_text())
    # as an older version left it
    del receipt["made"]["pixels/checksums.parquet"], receipt["read"]["key"]
    (r / "receipts/ingest.json").write_text(json.dumps(receipt))
    (r / "pixels/checksums.parquet").unlink()
    labels = (data / "stage_2_train.csv").read_text()
    (data / "stage_2_train.csv").write_text(labels + labels.splitlines(keepends=True)[-1])
    recipe = yaml.safe_load((r / "recipe.yaml").read_text())
    recipe["data"]["source"] = str(data)
    (r / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run.main(["ingest", f"--run={r}", "--workers=1"]) == 0
    assert (r / "pixels/checksums.parquet").is_file()
    assert {name for name, (kind, _) in stage_states(Run(r)).items() if kind != "fresh"} == {
        "submit",
        "report",
    }
