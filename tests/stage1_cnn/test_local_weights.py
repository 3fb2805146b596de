"""Local pretrained weights: each CNN depends on its own file, whatever its name and place."""

import json

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import run
from pipeline.freshness import file_digest, inputs_digest
from pipeline.input_digests import input_digests
from pipeline.older_versions import reads_of_cnn
from pipeline.receipt import Receipt
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.stage_runner import stage_states
from pipeline.training.stage_one_inputs import StageOneInputs
from pipeline.training.training_unit import TrainFold
from stage1_cnn.device import pick_device


def with_local_weights(kept, receipts, folder, digests=("d1",)):
    """Change a run of an older version: its CNN and copies of it start from local weights.

    Those are `folder`/<number>/model.safetensors. Returns their paths.
    """
    paths = [folder / str(number) / "model.safetensors" for number in range(len(digests))]
    recipe = yaml.safe_load((kept / "recipe.yaml").read_text())
    first = recipe["stage1"]["models"][0]
    models = [
        {**first, "name": f"cnn{number or ''}", "pretrained": str(path)}
        for number, path in enumerate(paths)
    ]
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


def why_trained(kept, model, k=0):
    """Return why one CNN and fold must be trained, as `train` computes it."""
    read = input_digests(Run(kept), STAGES["train"])
    return TrainFold(str(kept), model, k, read).why_not_done(verify=True)


def test_local_weights_in_older_receipts_are_matched_by_file_name(kept, tmp_path):
    (path,) = with_local_weights(kept, OF_WEIGHTS, tmp_path / "w")
    assert stage_states(Run(kept))["train"] == ("fresh", "") and why_trained(kept, "cnn") == ""
    path.write_bytes(b"others")
    assert stage_states(Run(kept))["train"] == ("stale", "pretrained weights of cnn changed")
    assert why_trained(kept, "cnn") == "pretrained weights of cnn changed"
    path.unlink()  # gone, as a source may be
    assert stage_states(Run(kept))["train"] == ("fresh", "") and why_trained(kept, "cnn") == ""


def test_two_local_weights_with_one_file_name_are_distinguished(kept, tmp_path):
    paths = with_local_weights(kept, OF_WEIGHTS, tmp_path / "w", ("first", "second"))
    # an older receipt had one digest for both files: nothing is known to have changed
    assert stage_states(Run(kept))["train"] == ("fresh", "")
    assert why_trained(kept, "cnn") == why_trained(kept, "cnn", 1) == ""
    r = Run(kept)
    with Receipt(
        kept,
        r.dir.receipt("train"),
        "train",
        r.recipe_part(STAGES["train"].keys),
        input_digests(r, STAGES["train"]),
    ):
        pass
    assert stage_states(Run(kept))["train"] == ("fresh", "")
    paths[0].write_bytes(b"other")
    assert stage_states(Run(kept))["train"] == ("stale", "pretrained weights of cnn changed")
    paths[0].write_bytes(b"first")
    paths[1].write_bytes(b"other")
    assert stage_states(Run(kept))["train"] == ("stale", "pretrained weights of cnn1 changed")


@pytest.mark.parametrize("others", [1, 2])
def test_another_cnn_with_local_weights_keeps_the_finished_jobs(kept, tmp_path, capsys, others):
    """A job depends on its own inputs alone, not on the weights that other CNNs start from."""
    path = tmp_path / "model.safetensors"
    weights = load_file(kept / "stage1/cnn/fold0/weights.safetensors")
    recipe = yaml.safe_load((kept / "recipe.yaml").read_text())
    first = recipe["stage1"]["models"][0]
    for number in range(others):
        save_file(weights, path)
        recipe["stage1"]["models"].append(
            {**first, "name": f"more{number}", "pretrained": str(path), "epochs": 1}
        )
        (kept / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        capsys.readouterr()
        assert run.main(["train", f"--run={kept}"]) == 0
        assert capsys.readouterr().out.count(", kept") == 2 * (number + 1)
        path = tmp_path / "another" / "model.safetensors"  # the same name
        path.parent.mkdir(exist_ok=True)
    receipt = json.loads((kept / "stage1/more0/fold0/train.json").read_text())
    assert [name for name in receipt["read"] if "weights" in name] == [
        "pretrained weights of more0"
    ]
    assert (
        receipt["processes"] == 1
        and receipt["device"].startswith(pick_device().type)
        and receipt["precision"]
    )


def test_an_older_checkpoint_with_local_weights_is_continued(half, tmp_path, capsys):
    with_local_weights(half, ["stage1/cnn/fold0/train.json"], tmp_path / "w", ("first", "second"))
    r = Run(half)
    part = {"model": r.recipe.stage1.models[0].model_dump(mode="json"), "seed": 0, "fold": 1}
    read = input_digests(r, STAGES["train"])
    of_before = {n: d for n, d in read.items() if not n.startswith("pretrained")}
    of_before["weights model.safetensors"] = read["pretrained weights of cnn1"]
    path = half / "stage1/cnn/fold1/checkpoint.safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
    save_file(load_file(path), path, header | {"same": inputs_digest(part, of_before)})
    unit = TrainFold(str(half), "cnn", 1, read)
    assert unit.training_digest(StageOneInputs(r), part) == inputs_digest(part, of_before)
    path.unlink()
    assert unit.training_digest(StageOneInputs(r), part) == inputs_digest(
        part, reads_of_cnn(read, "cnn")
    )
