"""The jobs of stage one: interrupted and continued, damaged, logged, and in several processes."""

import importlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.special import expit

import run
from ct.errors import InputError
from ct.storage.file_formats import read_array, read_table
from pipeline.run_context import Run
from pipeline.stage_runner import stage_states
from pipeline.training import cnn_jobs

FOLD = "stage1/resnet/fold0"


class Cut(Exception):
    """Stands for a kill of the process."""


@pytest.fixture
def untrained(finished, tmp_path):
    """Return a copy of the run `finished` as it is before `train`."""
    folder = shutil.copytree(finished, tmp_path / "r")
    shutil.rmtree(folder / "stage1")
    for name in ("train", "predict"):
        (folder / "receipts" / f"{name}.json").unlink()
    return folder


def same_weights(a, b):
    a, b = (load_file(folder / FOLD / "weights.safetensors") for folder in (a, b))
    return list(a) == list(b) and all(bool((a[name] == b[name]).all()) for name in a)


def cut_after(monkeypatch, steps):
    """Let a training write a checkpoint after every step and end after `steps` steps."""
    real = cnn_jobs.train_cnn

    def train(slices, split, read_hu, config, seed, hooks, checkpoint):
        left = [steps]

        def progress(*step):
            left[0] -= 1
            if left[0] < 0:
                raise Cut
            hooks.progress(*step)

        often = cnn_jobs.Hooks(progress, hooks.epoch, hooks.save, hooks.log, save_seconds=0.0)
        return real(slices, split, read_hu, config, seed, often, checkpoint)

    monkeypatch.setattr(cnn_jobs, "train_cnn", train)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_training_interrupted_in_a_fold_is_continued(
    untrained, finished, monkeypatch, capsys, steps
):
    cut_after(monkeypatch, steps)
    with pytest.raises(Cut):
        run.main(["train", f"--run={untrained}"])
    assert (untrained / FOLD / "checkpoint.safetensors").is_file()
    assert not (untrained / FOLD / "weights.safetensors").exists()
    monkeypatch.undo()
    capsys.readouterr()
    assert run.main(["train", f"--run={untrained}"]) == 0
    assert (
        f"resnet fold 0: continues in epoch {1 + steps // 2}, after {steps} steps"
        in capsys.readouterr().out
    )
    assert same_weights(untrained, finished)
    assert (untrained / FOLD / "curve.json").read_bytes() == (
        finished / FOLD / "curve.json"
    ).read_bytes()
    assert read_table(untrained / "stage1/resnet/oof.parquet").equals(
        read_table(finished / "stage1/resnet/oof.parquet")
    )
    assert not list(untrained.rglob("checkpoint.safetensors"))


def test_a_training_killed_before_its_receipt_is_not_done_again(untrained, monkeypatch):
    """Hours of training are in the checkpoint until the receipt is there."""

    def cut(self, *error):
        raise Cut

    cut_after(monkeypatch, 1000)
    monkeypatch.setattr("pipeline.training.training_unit.Receipt.__exit__", cut)
    with pytest.raises(Cut):
        run.main(["train", f"--run={untrained}"])
    assert (untrained / FOLD / "weights.safetensors").is_file()
    assert (untrained / FOLD / "checkpoint.safetensors").is_file()
    monkeypatch.undo()
    cut_after(monkeypatch, 0)  # no step more
    with pytest.raises(Cut):  # of fold 1
        run.main(["train", f"--run={untrained}"])
    assert (untrained / FOLD / "train.json").is_file()
    assert not (untrained / FOLD / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_another_training_is_not_continued(untrained, monkeypatch, capsys):
    cut_after(monkeypatch, 2)
    with pytest.raises(Cut):
        run.main(["train", f"--run={untrained}"])
    monkeypatch.undo()
    recipe = yaml.safe_load((untrained / "recipe.yaml").read_text())
    recipe["stage1"]["models"][0]["lr"] = 0.001
    (untrained / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    capsys.readouterr()
    assert run.main(["train", f"--run={untrained}"]) == 0
    assert "continues" not in capsys.readouterr().out


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:100_000])


def flip_header(path):
    flip(path, path.read_bytes().index(b"done"))


def flip_tensor(path):
    flip(path, path.stat().st_size - 1000)


def flip_digest_name(path):
    flip(path, path.read_bytes().index(b'"digest"') + 1)


def flip(path, at):
    """Flip one bit of a file and keep its times."""
    whole, times = bytearray(path.read_bytes()), path.stat()
    whole[at] ^= 0x02
    path.write_bytes(whole)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("damage", [empty, cut, flip_header, flip_tensor, flip_digest_name])
def test_a_training_with_a_damaged_checkpoint_begins_anew(
    untrained, finished, monkeypatch, capsys, damage
):
    cut_after(monkeypatch, 2)
    with pytest.raises(Cut):
        run.main(["train", f"--run={untrained}"])
    monkeypatch.undo()
    damage(untrained / FOLD / "checkpoint.safetensors")
    capsys.readouterr()
    assert run.main(["train", f"--run={untrained}"]) == 0
    out = capsys.readouterr().out
    assert out.count("resnet fold0: its checkpoint is damaged") == 1 and "continues" not in out
    assert same_weights(untrained, finished)


def older(path, change):
    """Write a checkpoint as an older version did, after change(tensors, state)."""
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state = json.loads(about["state"])
    change(tensors, state)
    save_file(tensors, path, {"same": about["same"], "state": json.dumps(state)})


def spoil(tensors, state):
    tensors["model.backbone.fc.weight"][0, 0] = float("inf")


def shorten(tensors, state):
    tensors["model.backbone.fc.weight"] = tensors["model.backbone.fc.weight"][:3].clone()


def misplace(tensors, state):
    state["epoch"] = -1


def leave(tensors, state):
    pass


@pytest.mark.parametrize(
    "change, whole", [(leave, True), (spoil, False), (shorten, False), (misplace, False)]
)
def test_a_checkpoint_of_an_older_version_is_used_where_it_fits(
    untrained, finished, monkeypatch, capsys, change, whole
):
    cut_after(monkeypatch, 2)
    with pytest.raises(Cut):
        run.main(["train", f"--run={untrained}"])
    monkeypatch.undo()
    older(untrained / FOLD / "checkpoint.safetensors", change)
    capsys.readouterr()
    assert run.main(["train", f"--run={untrained}"]) == 0
    out = capsys.readouterr().out
    assert ("continues in epoch 2, after 2 steps" in out) == whole and ("is damaged" in out) == (
        not whole
    )
    assert same_weights(untrained, finished)


@pytest.mark.parametrize("stage", ["folds", "train"])
def test_a_recipe_that_is_changed_before_the_first_unit_is_noticed(
    untrained, monkeypatch, capsys, stage
):
    recipe = untrained / "recipe.yaml"
    text = recipe.read_text()
    (untrained / "receipts/folds.json").unlink()
    module = importlib.import_module(f"pipeline.stages.{stage}")
    real = getattr(module, stage)

    def change(*args):
        real(*args)  # at the end of its work the next experiment is prepared
        recipe.write_text(text.replace("name: resnet", "name: other"))

    monkeypatch.setattr(module, stage, change)
    status = run.main(["all", f"--run={untrained}", "--workers=1"])
    error = capsys.readouterr().err
    recipe.write_text(text)
    assert status == 1 and "Traceback" not in error
    later = "predict" if stage == "train" else "train"
    assert f"recipe.yaml was changed while {later}, or a stage before it, worked" in error
    assert "stage1.models" in error and stage_states(Run(untrained))[later][0] != "fresh"


def test_a_cnn_that_is_renamed_while_it_is_trained_is_one_line(untrained, monkeypatch, capsys):
    recipe, real = untrained / "recipe.yaml", cnn_jobs.train_cnn

    def train(*args):
        recipe.write_text(recipe.read_text().replace("name: resnet", "name: other"))
        return real(*args)

    monkeypatch.setattr(cnn_jobs, "train_cnn", train)
    assert run.main(["train", f"--run={untrained}", "--workers=1"]) == 1
    error = capsys.readouterr().err
    assert "no CNN called resnet any more: recipe.yaml was changed" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("put_back", [False, True])
def test_a_recipe_that_is_changed_while_a_stage_works_does_not_make_a_fresh_stage(
    untrained, monkeypatch, capsys, put_back
):
    recipe, calls = untrained / "recipe.yaml", []
    text = recipe.read_text()
    real = cnn_jobs.train_cnn

    def train(*args):
        calls.append(args[3].lr)
        if len(calls) == 1:  # the next experiment is prepared
            recipe.write_text(yaml.safe_dump(with_other_rate(text)))
        elif len(calls) == 2 and put_back:
            recipe.write_text(text)
        return real(*args)

    monkeypatch.setattr(cnn_jobs, "train_cnn", train)
    assert run.main(["train", f"--run={untrained}", "--workers=1"]) == 1
    error = capsys.readouterr().err
    assert "recipe.yaml was changed while train, or a" in error and "run `train` again" in error
    assert ("worked: put back, but 1 of 2 units (train/resnet/fold1) is" in error) == put_back
    assert stage_states(Run(untrained))["train"][0] == "missing"
    rates = set(calls)
    recipe.write_text(text)
    assert run.main(["train", f"--run={untrained}", "--workers=1"]) == 0
    for receipt in untrained.glob("stage1/*/fold*/train.json"):
        assert json.loads(receipt.read_text())["recipe"]["model"]["lr"] == calls[0] != max(rates)


def with_other_rate(text):
    """The values of a recipe, with the learning rate of every CNN doubled."""
    values = yaml.safe_load(text)
    for model in values["stage1"]["models"]:
        model["lr"] = 2 * model.get("lr", 1e-3)
    return values


def test_a_change_of_another_stages_settings_is_left_for_that_stage(untrained, monkeypatch):
    recipe, real = untrained / "recipe.yaml", cnn_jobs.train_cnn

    def train(*args):
        values = yaml.safe_load(recipe.read_text())
        values["stage2"]["trials"] = values["stage2"]["trials"] + 1
        recipe.write_text(yaml.safe_dump(values))
        return real(*args)

    monkeypatch.setattr(cnn_jobs, "train_cnn", train)
    assert run.main(["train", f"--run={untrained}", "--workers=1"]) == 0


def test_all_processes_of_torchrun_train_by_the_recipe_of_the_first(untrained, monkeypatch):
    first, seen = Run(untrained).recipe, []
    recipe = untrained / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(with_other_rate(recipe.read_text())))
    messages = [("train", first, ("resnet", 0, "digest")), None]
    monkeypatch.setattr(cnn_jobs, "broadcast", lambda _: messages.pop(0))
    monkeypatch.setitem(cnn_jobs.JOBS, "train", lambda inputs, *_: seen.append(inputs.run.recipe))
    cnn_jobs.worker_loop(lambda: Run(untrained))
    assert seen == [first]


def test_a_checkpoint_continued_in_another_environment_is_logged(untrained, monkeypatch, capsys):
    real = cnn_jobs.environment
    monkeypatch.setattr(cnn_jobs, "environment", lambda config: real(config) | {"processes": 2})
    cut_after(monkeypatch, 2)
    with pytest.raises(Cut):
        run.main(["train", f"--run={untrained}"])
    monkeypatch.undo()
    cut_after(monkeypatch, 1)  # interrupted again: the first environment is still known
    with pytest.raises(Cut):
        run.main(["train", f"--run={untrained}"])
    monkeypatch.undo()
    assert "resnet fold 0: continued with processes 1 after 2" in capsys.readouterr().out
    assert run.main(["train", f"--run={untrained}"]) == 0
    assert "continued with" not in capsys.readouterr().out
    why = json.loads((untrained / FOLD / "train.json").read_text())["not_repeatable"]
    assert why == ["continued with processes 1 after 2"]


@pytest.mark.parametrize(
    ("changed", "older", "kept"),
    [
        ({}, False, 3),
        ({"processes": 4}, False, 3),
        ({"device": "cuda, A"}, False, 0),
        ({"precision": "bf16"}, False, 0),
        ({"device": "cuda, A"}, True, 3),  # an older version did not note the device
    ],
)
def test_the_parts_of_a_prediction_are_all_of_one_device(
    untrained, monkeypatch, changed, older, kept
):
    monkeypatch.setattr(cnn_jobs, "PART_SLICES", 4)
    real, environment, calls = cnn_jobs.predict, cnn_jobs.environment, []
    digest_of = cnn_jobs.text_digest
    if older:  # the name of the folder had the digest itself
        monkeypatch.setattr(cnn_jobs, "text_digest", lambda text: text.partition(" ")[0])

    def until(*args):
        calls.append(1)
        if len(calls) == 4:
            raise Cut
        return real(*args)

    monkeypatch.setattr(cnn_jobs, "predict", until)
    monkeypatch.setattr(cnn_jobs, "environment", lambda config: environment(config) | changed)
    with pytest.raises(Cut):
        run.main(["train", f"--run={untrained}", "--workers=1"])
    monkeypatch.setattr(cnn_jobs, "environment", environment)
    monkeypatch.setattr(cnn_jobs, "text_digest", digest_of)
    calls[:] = []
    monkeypatch.setattr(cnn_jobs, "predict", lambda *args: calls.append(1) or real(*args))
    assert run.main(["train", f"--run={untrained}", "--workers=1"]) == 0
    held_out = read_table(next(untrained.glob("stage1/resnet/fold?/held_out.parquet")))
    parts = sum(
        -(-len(read_table(path)) // 4) for path in untrained.glob("stage1/*/fold?/held_out.parquet")
    )
    assert len(held_out) > 12 and len(calls) == parts - kept


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", ["00001.parquet", "00001.npy"])
def test_a_damaged_part_of_a_prediction_is_predicted_anew(
    untrained, finished, monkeypatch, capsys, name, sealed
):
    monkeypatch.setattr(cnn_jobs, "PART_SLICES", 4)
    real, calls = cnn_jobs.predict, []

    def until(model, table_rows, *rest):
        if len(calls) == 3:
            raise Cut
        calls.append(1)
        return real(model, table_rows, *rest)

    monkeypatch.setattr(cnn_jobs, "predict", until)
    with pytest.raises(Cut):
        run.main(["train", f"--run={untrained}"])
    parts = next((untrained / FOLD).glob("held_out-*.part"))
    if sealed:
        flip(parts / name, (parts / name).stat().st_size - 20)
    else:  # of an older version: damage is noticed only where the file cannot be read
        (parts / f"{name}.seal").unlink()
        (parts / name).write_bytes((parts / name).read_bytes()[:70])
    calls[:] = []
    monkeypatch.setattr(cnn_jobs, "predict", lambda *args: calls.append(1) or real(*args))
    assert run.main(["train", f"--run={untrained}"]) == 0
    assert (
        "resnet fold 0: 1 parts of held out are damaged and are predicted anew"
        in capsys.readouterr().out
    )
    held = read_table(finished / FOLD / "held_out.parquet")
    again = read_table(untrained / FOLD / "held_out.parquet")
    np.testing.assert_allclose(expit(again), expit(held), atol=1e-6)
    assert len(calls) < -(-len(held) // 4) + 5


def test_a_prediction_interrupted_between_parts_is_continued(untrained, finished, monkeypatch):
    monkeypatch.setattr(cnn_jobs, "PART_SLICES", 4)  # 19 and 16 slices are held out
    real, calls = cnn_jobs.predict, []

    def cut(model, table_rows, *rest):
        if len(calls) == 3:
            raise Cut
        calls.append(len(table_rows))
        return real(model, table_rows, *rest)

    monkeypatch.setattr(cnn_jobs, "predict", cut)
    with pytest.raises(Cut):
        run.main(["train", f"--run={untrained}"])
    parts = next((untrained / FOLD).glob("held_out-*.part"))
    assert (
        len(list(parts.glob("*.parquet"))) == 3
        and not (untrained / FOLD / "held_out.parquet").exists()
    )
    rows = len(read_table(finished / FOLD / "held_out.parquet"))
    calls[:] = []
    monkeypatch.setattr(
        cnn_jobs, "predict", lambda *args: calls.append(len(args[1])) or real(*args)
    )
    assert run.main(["train", f"--run={untrained}"]) == 0
    assert sum(calls[: -(-rows // 4) - 3]) == rows - 12  # of fold 0 only the missing parts
    for k in (0, 1):
        a, b = (folder / f"stage1/resnet/fold{k}" for folder in (untrained, finished))
        np.testing.assert_allclose(
            expit(read_table(a / "held_out.parquet")),
            expit(read_table(b / "held_out.parquet")),
            atol=1e-6,
        )
        np.testing.assert_allclose(
            read_array(a / "held_out_embeddings.npy"),
            read_array(b / "held_out_embeddings.npy"),
            atol=1e-3,
        )
    assert not list(untrained.rglob("*.part"))


def test_parts_made_with_other_weights_are_dropped(untrained, monkeypatch):
    old = untrained / FOLD / "held_out-000000000000-000000000000.part"
    old.mkdir(parents=True)
    (old / "00000.parquet").write_text("of other weights")
    assert run.main(["train", f"--run={untrained}"]) == 0
    assert not old.exists()


def test_on_a_gpu_every_cnn_is_checked_before_the_first_is_trained(untrained, monkeypatch, capsys):
    def refuse(config, size):
        assert size == Run(untrained).recipe.pixels.size
        raise InputError(f"{config.backbone} has no backward pass")

    monkeypatch.setattr("pipeline.training.training_unit.check_trainable", refuse)
    monkeypatch.setattr("pipeline.training.training_unit.pick_device", lambda: torch.device("cuda"))
    assert run.main(["train", f"--run={untrained}"]) == 1
    assert "has no backward pass" in capsys.readouterr().err and not list(
        (untrained / "stage1").rglob("*.safetensors")
    )


def test_a_loss_that_is_not_a_number_writes_the_slices_of_its_batch(untrained, monkeypatch, capsys):
    nan = float("nan")
    monkeypatch.setattr(
        "stage1_cnn.training_step.weighted_bce", lambda logits, labels, weights: logits.sum() * nan
    )
    assert run.main(["train", f"--run={untrained}"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "not_a_number.json names them all" in err
    batch = json.loads((untrained / FOLD / "not_a_number.json").read_text())
    assert (batch["epoch"], batch["step"], len(batch["slice_ids"])) == (1, 1, 8)
    assert set(batch["slice_ids"]) <= set(read_table(untrained / "slices.parquet").index)
    monkeypatch.undo()
    assert run.main(["train", f"--run={untrained}"]) == 0
    assert not (untrained / FOLD / "not_a_number.json").exists()


def test_reasons_why_a_training_is_not_repeatable_are_in_the_receipt(untrained, monkeypatch):
    class HalvedBatch:
        def __init__(self, trained):
            self.model, self.curve, self.micro_batch, self.state = (
                trained.model,
                trained.curve,
                4,
                trained.state,
            )

    real = cnn_jobs.train_cnn
    monkeypatch.setattr(cnn_jobs, "train_cnn", lambda *args: HalvedBatch(real(*args)))
    assert run.main(["train", f"--run={untrained}"]) == 0
    assert json.loads((untrained / FOLD / "train.json").read_text())["not_repeatable"] == [
        "batch cut to 4 for memory"
    ]
    whole = json.loads((untrained / "receipts/train.json").read_text())["not_repeatable"]
    assert whole == [f"resnet fold {k}: batch cut to 4 for memory" for k in (0, 1)]
    (untrained / "receipts/report.json").unlink()  # the weights are the same
    assert run.main(["all", f"--run={untrained}", "--workers=1"]) == 0
    assert (
        f"A second training may give other numbers: {'; '.join(whole)}."
        in (untrained / "report.html").read_text()
    )


def test_scalars_for_tensorboard(untrained):
    pytest.importorskip("tensorboard", reason="the extra `track` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = yaml.safe_load((untrained / "recipe.yaml").read_text())
    recipe["stage1"]["tensorboard"] = True
    (untrained / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run.main(["train", f"--run={untrained}"]) == 0
    events = EventAccumulator(str(untrained / FOLD / "tensorboard")).Reload()
    curve = json.loads((untrained / FOLD / "curve.json").read_text())
    for name in ("train_loss", "held_out_loss", "lr"):
        found = events.Scalars(f"epoch/{name}")
        assert [(e.step, e.value) for e in found] == [
            (row["epoch"], pytest.approx(row[name], rel=1e-6)) for row in curve
        ]
    steps = events.Scalars("loss/step")
    assert [e.step for e in steps] == list(range(1, len(steps) + 1))
    half = len(steps) // 2
    assert np.mean([e.value for e in steps[:half]]) == pytest.approx(
        curve[0]["train_loss"], rel=1e-5
    )


def test_a_recipe_with_tensorboard_is_refused_where_it_is_not_installed(
    finished, competition, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("pipeline.training.tensorboard.find_spec", lambda name: None)
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    recipe["stage1"]["tensorboard"] = True
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    assert (
        run.main(
            [
                "new",
                f"--run={tmp_path / 'r'}",
                f"--recipe={tmp_path / 'mine.yaml'}",
                f"--data={competition}",
            ]
        )
        == 1
    )
    assert "pip install -e '.[track]'" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def torchrun(*words, count=2):
    """Run a script in several processes that torchrun starts."""
    start = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={count}",
        "--",
    ]
    return subprocess.run(
        [*start, *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.mark.slow
def test_two_processes_write_the_same_files_as_one(untrained, finished):
    for verb in ("train", "predict"):
        done = torchrun(ROOT / "run.py", verb, f"--run={untrained}")
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count(f"{verb}:") == 1  # only rank 0 prints
    for name in ("train", "predict"):
        assert stage_states(Run(untrained))[name][0] == "fresh"
        assert json.loads((untrained / FOLD / f"{name}.json").read_text())["processes"] == 2
    files = [
        {str(p.relative_to(f)) for p in (f / "stage1").rglob("*") if p.is_file()}
        for f in (untrained, finished)
    ]
    assert files[0] == files[1]
    for name in (
        "oof.parquet",
        "fold0/held_out.parquet",
        "fold1/held_out.parquet",
        "fold0/test.parquet",
        "fold1/test.parquet",
    ):
        mine, one = (
            read_table(folder / "stage1/resnet" / name) for folder in (untrained, finished)
        )
        assert mine.index.equals(one.index) and mine.isna().equals(one.isna())
    again = torchrun(ROOT / "run.py", "train", f"--run={untrained}")
    assert again.returncode == 0 and "fresh, nothing to do" in again.stdout


@pytest.mark.slow
def test_a_verb_that_does_not_run_in_several_processes_is_refused(finished):
    done = torchrun(ROOT / "run.py", "stack", f"--run={finished}")
    assert done.returncode != 0
    assert "error: torchrun is for train and predict; run `stack` without it" in done.stderr


SHARED = """
import sys; sys.path[:0] = ["tests", "tests/stage1_cnn", "."]
from safetensors.torch import save_file
from test_train_loop import NO_BATCH_NORM, config, data, train
from stage1_cnn.distributed import process_group, this_process
slices, hu, fold = data()
with process_group():
    trained = train(slices, hu, fold, 0, config(batch=6, epochs=2, lr=1e-3, **NO_BATCH_NORM))
    save_file(trained.state(), f"{sys.argv[1]}/{this_process().rank}.safetensors")
"""


@pytest.mark.slow
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path):
    from test_train_loop import NO_BATCH_NORM, config, data, train

    (tmp_path / "shared.py").write_text(SHARED)
    done = torchrun(tmp_path / "shared.py", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    ours = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    slices, hu, fold = data()  # 20 training slices: one full step of 12, one of 8
    one = train(slices, hu, fold, 0, config(batch=12, epochs=2, lr=1e-3, **NO_BATCH_NORM)).state()
    before = train(
        slices, hu, fold, 0, config(batch=12, epochs=2, lr=1e-9, **NO_BATCH_NORM)
    ).state()
    for name, value in one.items():
        assert bool((ours[0][name] == ours[1][name]).all())
        assert (
            float((ours[0][name] - value).abs().max())
            <= 0.05 * float((value - before[name]).abs().max()) + 1e-6
        ), name
