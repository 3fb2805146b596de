"""An update loses no work: what an earlier version left is fresh, is continued, and gives the same answers."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic.fields import FieldInfo
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import run
from ct.labels import LABELS
from ct.provenance import differences
from ct.rundir import read_table
from features.config import FeatureConfig
from pipeline import cnns, updates
from pipeline.fresh import Receipt, file_digest, inputs_digest
from pipeline.jobs import Inputs
from pipeline.packed_model import model_of_folder
from pipeline.recipe import PixelConfig, Recipe, StageOneConfig, load_recipe
from pipeline.stages import STAGES, Run, state
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import pick_device
from stage2_stack.config import StackConfig


@pytest.fixture
def kept(before_trust, tmp_path):
    """The finished run of an earlier version, which may be changed."""
    return shutil.copytree(before_trust / "run", tmp_path / "run")


@pytest.fixture
def half(before_trust, tmp_path):
    """The half-trained run of an earlier version, which may be changed."""
    return shutil.copytree(before_trust / "half", tmp_path / "half")


def files_and_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_finished_run_of_before_is_fresh_and_stays_as_it_is(kept, capsys):
    before = files_and_times(kept)
    assert state(Run(kept)) == dict.fromkeys(STAGES, ("fresh", ""))
    assert run.main(["all", f"--run={kept}", "--workers=1"]) == 0
    assert "everything is fresh" in capsys.readouterr().out
    assert files_and_times(kept) == before


def test_its_searches_are_continued(kept, capsys):
    assert run.main(["search", f"--run={kept}", "--trials=2"]) == 0
    assert "2 trials are there already" in capsys.readouterr().out
    assert run.main(["tune", f"--run={kept}", "--trials=4", "--workers=1"]) == 0
    assert "4 trials" in capsys.readouterr().out
    assert len(read_table(kept / "stage2" / "trials.parquet")) == 4  # the three of before, and one more


def test_a_half_trained_run_of_before_goes_on_from_its_checkpoint(half, before_trust, capsys):
    assert run.main(["train", f"--run={half}"]) == 0
    out = capsys.readouterr().out
    assert "cnn fold 0: 2 epochs" in out and out.count(", kept") == 1
    assert "cnn fold 1: continues in epoch 2, after 3 steps" in out
    ours, theirs = (load_file(f / "stage1/cnn/fold1/weights.safetensors") for f in (half, before_trust / "run"))
    for name, weight in theirs.items():  # in one piece or two; on another processor the last bits may differ
        np.testing.assert_allclose(ours[name].numpy(), weight.numpy(), atol=1e-4, err_msg=name)


@pytest.mark.parametrize("kind", ["run", "model"])
def test_score_answers_as_before(before_trust, tmp_path, kind):
    words = [f"--data={before_trust / 'dicom'}", f"--to={tmp_path / 'scored'}", "--device=cpu", "--workers=1"]
    model = shutil.copytree(before_trust / kind, tmp_path / kind)
    assert run.main(["score", f"--{kind}={model}", *words]) == 0
    expected = pd.read_csv(before_trust / "expected" / f"score-{kind}.csv", index_col="slice_id")
    ours = pd.read_csv(tmp_path / "scored" / "slices.csv", index_col="slice_id")
    assert list(ours.index) == list(expected.index)
    np.testing.assert_allclose(ours[list(LABELS)], expected[list(LABELS)], atol=1e-6, rtol=0)


@pytest.fixture
def new_fields(monkeypatch):
    """Settings of a later version: a field more in the CNNs', the features' and the stackers' Config, with defaults."""
    kinds = ((CnnConfig, "zoom"), (FeatureConfig, "depth"), (StackConfig, "shrink"), (PixelConfig, "crop"))
    for kind, name in kinds:
        monkeypatch.setitem(kind.__pydantic_fields__, name, FieldInfo(annotation=float, default=0.5))
    rebuild()
    yield
    monkeypatch.undo()
    rebuild()


def rebuild():
    for kind in (CnnConfig, FeatureConfig, StackConfig, PixelConfig, StageOneConfig, Recipe):
        kind.model_rebuild(force=True)


def test_a_new_field_makes_nothing_stale(kept, new_fields):
    assert Run(kept).recipe.stage1.models[0].zoom == Run(kept).recipe.features.depth == 0.5
    assert state(Run(kept)) == dict.fromkeys(STAGES, ("fresh", ""))


def test_a_new_field_throws_no_checkpoint_no_unit_and_no_trial_away(kept, half, new_fields, capsys):
    assert run.main(["train", f"--run={half}"]) == 0
    out = capsys.readouterr().out
    assert out.count(", kept") == 1 and "continues in epoch 2" in out
    assert run.main(["search", f"--run={kept}", "--trials=2"]) == 0
    assert "2 trials are there already" in capsys.readouterr().out
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
    states = state(Run(kept))
    assert states["features"] == ("stale", "recipe changed, features.depth: 0.5 -> 0.75")
    assert states["predict"] == ("fresh", "")


def test_a_new_default_may_differ_from_what_was_before(kept, half, before_trust, new_fields, monkeypatch, capsys):
    """Where the default is a better one, the table names the one that reproduces older runs: they keep it."""
    for name in ("CnnConfig.zoom", "FeatureConfig.depth", "StackConfig.shrink"):
        monkeypatch.setitem(updates.OLDER_VALUES, name, 0.0)
    recipe = Run(kept).recipe
    assert (recipe.stage1.models[0].zoom, recipe.features.depth, recipe.stage2.shrink) == (0.0, 0.0, 0.0)
    assert load_recipe(kept / "recipe.yaml").features.depth == 0.5  # a new run takes the new one
    assert model_of_folder(before_trust / "model").recipe.features.depth == 0.0
    assert state(Run(kept)) == dict.fromkeys(STAGES, ("fresh", ""))
    assert run.main(["train", f"--run={half}"]) == 0
    assert "continues in epoch 2" in capsys.readouterr().out


def test_the_digest_of_an_unfinished_training_outlives_a_new_field(new_fields):
    part = {"model": CnnConfig(name="a", backbone="b").model_dump(mode="json"), "seed": 0, "fold": 1}
    before = {**part, "model": {name: value for name, value in part["model"].items() if name != "zoom"}}
    changed = {**part, "model": {**part["model"], "zoom": 0.75}}
    assert inputs_digest(part, {}) == inputs_digest(before, {}) != inputs_digest(changed, {})


def with_local_weights(kept, receipts, folder, digests=("d1",)):
    """Make a run one of before whose CNNs, copies of its only one, begin with `folder`/<number>/model.safetensors."""
    paths = [folder / str(number) / "model.safetensors" for number in range(len(digests))]
    recipe = yaml.safe_load((kept / "recipe.yaml").read_text())
    first = recipe["stage1"]["models"][0]
    models = [{**first, "name": f"cnn{number or ''}", "pretrained": str(path)} for number, path in enumerate(paths)]
    recipe["stage1"]["models"] = models
    (kept / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True)
        path.write_bytes(digests[number].encode())
    read = {"weights model.safetensors": file_digest(paths[-1])}
    for receipt in receipts:
        values = json.loads((kept / receipt).read_text())
        if "model" in values["recipe"]:
            values["recipe"]["model"] = models[0]
        else:
            values["recipe"]["stage1.models"] = models
        values["read"] |= read if values["stage"] == "train" else {}
        (kept / receipt).write_text(json.dumps(values))
    return paths


OF_WEIGHTS = ("receipts/train.json", "stage1/cnn/fold0/train.json", "stage1/cnn/fold1/train.json")


def job_of(kept, model, k=0):
    """Why the unit of one CNN and fold must run, as `train` asks."""
    r = Run(kept)
    config = next(config for config in r.recipe.stage1.models if config.name == model)
    part = {"model": config.model_dump(mode="json"), "seed": r.recipe.seed, "fold": k}
    return r.job(r.dir.fold(model, k) / "train.json", "train", part, updates.reads_of_cnn(r.read(STAGES["train"]), model))[0]


def test_local_weights_of_before_are_known_by_their_cnn(kept, tmp_path):
    (path,) = with_local_weights(kept, OF_WEIGHTS, tmp_path / "w")
    assert state(Run(kept))["train"] == ("fresh", "") and job_of(kept, "cnn") == ""
    path.write_bytes(b"others")
    assert state(Run(kept))["train"] == ("stale", "pretrained weights of cnn changed")
    assert job_of(kept, "cnn") == "pretrained weights of cnn changed"
    path.unlink()  # moved away: as a source that was
    assert state(Run(kept))["train"] == ("fresh", "") and job_of(kept, "cnn") == ""


def test_two_local_weights_of_one_file_name_are_told_apart(kept, tmp_path):
    paths = with_local_weights(kept, OF_WEIGHTS[:1], tmp_path / "w", ("first", "second"))
    assert state(Run(kept))["train"] == ("fresh", "")  # an older receipt had one digest for both: nothing is known
    r = Run(kept)
    with Receipt(kept, r.dir.receipt("train"), "train", r.part(STAGES["train"].keys), r.read(STAGES["train"])):
        pass
    assert state(Run(kept))["train"] == ("fresh", "")
    paths[0].write_bytes(b"other")
    assert state(Run(kept))["train"] == ("stale", "pretrained weights of cnn changed")
    paths[0].write_bytes(b"first")
    paths[1].write_bytes(b"other")
    assert state(Run(kept))["train"] == ("stale", "pretrained weights of cnn1 changed")


@pytest.mark.parametrize("others", [1, 2])
def test_another_cnn_with_local_weights_leaves_the_finished_ones(kept, tmp_path, capsys, others):
    """A unit of work depends on its own inputs alone: what the others begin with is not among them."""
    path = tmp_path / "model.safetensors"
    weights = load_file(kept / "stage1/cnn/fold0/weights.safetensors")
    recipe = yaml.safe_load((kept / "recipe.yaml").read_text())
    first = recipe["stage1"]["models"][0]
    for number in range(others):
        save_file(weights, path)
        recipe["stage1"]["models"].append({**first, "name": f"more{number}", "pretrained": str(path), "epochs": 1})
        (kept / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        capsys.readouterr()
        assert run.main(["train", f"--run={kept}"]) == 0
        assert capsys.readouterr().out.count(", kept") == 2 * (number + 1)
        path = tmp_path / "another" / "model.safetensors"  # of one name
        path.parent.mkdir(exist_ok=True)
    receipt = json.loads((kept / "stage1/more0/fold0/train.json").read_text())
    assert [name for name in receipt["read"] if "weights" in name] == ["pretrained weights of more0"]
    assert receipt["processes"] == 1 and receipt["device"].startswith(pick_device().type) and receipt["precision"]


def test_receipts_say_what_the_work_was_done_under(finished):
    for name in STAGES:
        receipt = json.loads((finished / "receipts" / f"{name}.json").read_text())
        device = pick_device().type if name in ("train", "predict") else "cpu"
        assert receipt["processes"] == 1 and receipt["device"].startswith(device)
        assert receipt.get("precision", "").startswith(("fp", "bf")) == (name in ("train", "predict"))


def test_a_checkpoint_of_before_that_began_with_local_weights_goes_on(half, tmp_path, capsys):
    with_local_weights(half, ["stage1/cnn/fold0/train.json"], tmp_path / "w", ("first", "second"))
    r = Run(half)
    part = {"model": r.recipe.stage1.models[0].model_dump(mode="json"), "seed": 0, "fold": 1}
    read = r.read(STAGES["train"])
    of_before = {n: d for n, d in read.items() if not n.startswith("pretrained")}
    of_before["weights model.safetensors"] = read["pretrained weights of cnn1"]
    path = half / "stage1/cnn/fold1/checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file(load_file(path), path, header | {"same": inputs_digest(part, of_before)})
    assert cnns._training_digest(Inputs(r), "cnn", 1, part, read) == inputs_digest(part, of_before)
    path.unlink()
    assert cnns._training_digest(Inputs(r), "cnn", 1, part, read) == inputs_digest(part, updates.reads_of_cnn(read, "cnn"))


def test_work_of_different_versions_is_named_and_stays_fresh(kept, capsys):
    path = kept / "receipts/stack.json"
    receipt = json.loads(path.read_text())
    receipt["versions"]["lightgbm"], receipt["commit"] = "9.9.9", "abcdef123456"
    path.write_text(json.dumps(receipt))
    for name in ("report.json", "submit.json"):
        (kept / "receipts" / name).unlink()
    assert run.main(["status", f"--run={kept}"]) == 0
    out = capsys.readouterr().out
    assert "made by different versions: lightgbm 4.7.0 (ingest, folds, train, predict, features, tune), 9.9.9 (stack)" in out
    assert "made by different versions: commit fcf6187026a3 (ingest, folds, train, predict, features, tune), abcdef" in out
    assert state(Run(kept))["stack"] == ("fresh", "")
    assert run.main(["report", f"--run={kept}"]) == 0
    page = (kept / "report.html").read_text()
    assert "lightgbm 4.7.0 (ingest, folds, train, predict, features, tune), 9.9.9 (stack)" in page


def test_versions_of_one_kind_are_not_worth_a_line():
    same = {"commit": "a", "versions": {"torch": "1"}}
    assert differences({"ingest": same, "stack": dict(same)}) == []
    assert differences({"ingest": {}, "stack": same}) == []  # of an older one nothing is known
    other = {"commit": "a", "versions": {"torch": "1", "xgboost": "2"}}
    assert differences({"ingest": same, "stack": other}) == ["made by different versions: xgboost none (ingest), 2 (stack)"]
