"""`status --units`: the units of each stage, what they take, and which run now."""

import json
import shutil

import run
from pipeline.training.training_unit import TrainFold
from pipeline.units.unit_lock import unit_lock


def units(capsys, folder, stage):
    """{name: unit} of a stage, as `status --units --json` prints them."""
    assert run.main(["status", f"--run={folder}", "--units", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["units"][stage]
    return {row["name"]: row for row in rows}


def test_units_are_done_missing_or_running(finished, tmp_path, capsys):
    folder = shutil.copytree(finished, tmp_path / "r")
    rows = units(capsys, folder, "train")
    assert {name: row["state"] for name, row in rows.items()} == {
        "train/resnet/fold0": "done",
        "train/resnet/fold1": "done",
    }
    (folder / "stage1/resnet/fold1/train.json").unlink()
    row = units(capsys, folder, "train")["train/resnet/fold1"]
    assert (row["state"], row["why"]) == ("missing", "not made yet")
    assert (row["gpus"], row["cores"]) == (1, 2) and row["memory_mb"] > 500 and row["needs"] == []
    with unit_lock(TrainFold(str(folder), "resnet", 1, {}), wait=False) as held:
        assert held
        path = folder / "locks" / "train.resnet.fold1.now"
        path.write_text("resnet fold 1: 3/8 steps, 2 min left")
        row = units(capsys, folder, "train")["train/resnet/fold1"]
    assert (row["state"], row["progress"]) == ("running", "resnet fold 1: 3/8 steps, 2 min left")


def test_the_list_counts_the_units_of_each_stage(competition, tmp_path, capsys):
    folder = tmp_path / "r"
    assert run.main(["new", f"--run={folder}", "--recipe=micro", f"--data={competition}"]) == 0
    capsys.readouterr()
    assert run.main(["status", f"--run={folder}", "--units"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "ingest: 1 unit: 1 missing; more are known later" in lines
    assert "train: 2 units: 2 missing" in lines
    assert any(line.startswith("  predict/resnet/fold1  missing  1 GPU, 2 cores") for line in lines)
    assert not (folder / "ingest.part").exists() and not (folder / "locks").exists()
