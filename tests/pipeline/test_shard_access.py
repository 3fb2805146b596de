"""Who may work on a run folder at the same time: shards of one stage, and nobody else."""

import os
import shutil

import pytest
import yaml
from conftest import error_line
from fake_units import fake_units

import run
from ct.errors import InputError
from ct.storage.file_lock import file_lock
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.stage_runner import run_units
from pipeline.units.unit import UnitsLeft
from pipeline.units.unit_lock import join_lock, stage_of_shards

SHARD = ["train", "--shard=1/2"]


def call(folder, verb, *flags):
    return run.main([verb, f"--run={folder}", *flags])


def times(folder):
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.mark.parametrize(
    "words", [["folds"], ["all"], ["tune", "--trials=9"], ["status", "--verify"]]
)
def test_other_verbs_are_refused_while_a_shard_works(kept, words, capsys):
    before = times(kept)
    with file_lock(kept / ".lock", shared=True):
        assert call(kept, *words) == 1
        assert "another process works on this run; wait for it" in error_line(capsys)
        assert call(kept, *SHARD) == 0  # another shard is not
        assert call(kept, "status") == 0
    assert times(kept) == before


def test_a_shard_is_refused_while_another_verb_works(kept, capsys):
    with file_lock(kept / ".lock"):
        assert call(kept, *SHARD) == 1
    assert "another process works on this run; wait for it" in error_line(capsys)


def test_shards_of_two_stages_do_not_work_at_the_same_time(kept, capsys):
    """One of them would read what the other one replaces."""
    with stage_of_shards(kept, "ingest"):
        assert call(kept, *SHARD) == 1
        assert "shards of ingest work on this run; wait for them" in error_line(capsys)
        assert call(kept, "ingest", "--shard=2/2") == 0


@pytest.mark.parametrize("verb", ["ingest", "train", "predict", "features", "tune", "stack"])
def test_a_shard_of_a_fresh_stage_says_so_and_does_nothing(kept, verb, capsys):
    before = times(kept)
    assert call(kept, verb, "--shard=2/3") == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{verb}: fresh, nothing to do"
    assert times(kept) == before


def test_a_shard_does_not_change_the_recipe(kept, capsys):
    recipe = (kept / "recipe.yaml").read_bytes()
    trials = yaml.safe_load(recipe)["stage2"]["trials"]
    assert call(kept, "tune", "--shard=1/2", f"--trials={trials}") == 0
    capsys.readouterr()
    assert call(kept, "tune", "--shard=1/2", f"--trials={trials + 1}") == 1
    line = error_line(capsys)
    assert f"stage2.trials: {trials} -> {trials + 1}" in line and "recipe.yaml" in line
    assert (kept / "recipe.yaml").read_bytes() == recipe


def test_the_next_verb_removes_lock_files(kept):
    assert call(kept, *SHARD) == 0
    assert (kept / "locks").is_dir()
    assert call(kept, "folds") == 0
    assert not (kept / "locks").exists()


def test_a_folder_of_locks_that_is_a_link_is_refused(kept, tmp_path, capsys):
    (kept / "locks").symlink_to(tmp_path)
    assert call(kept, *SHARD) == 1
    assert "locks in the run folder" in error_line(capsys)
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.parametrize("joining", [False, True])
def test_a_shard_undoes_a_replacement_unless_another_one_is_at_it(kept, joining, capsys):
    """A killed join left the old folder alone; a join that runs has it so for a moment."""
    old = kept / "pixels.ich-stack.old"
    os.rename(kept / "pixels", old)
    if joining:
        with join_lock(kept, "train"):
            call(kept, *SHARD)
        assert old.exists() and not (kept / "pixels").exists()
    else:
        assert call(kept, *SHARD) == 0
        assert not old.exists() and (kept / "pixels").is_dir()


def test_no_lock_file_is_made_where_there_is_no_run(tmp_path, capsys):
    assert call(tmp_path / "r", *SHARD) == 1
    assert "no such run" in error_line(capsys) and not (tmp_path / "r").exists()
    (tmp_path / "r").mkdir()
    assert call(tmp_path / "r", *SHARD) == 1
    assert not list((tmp_path / "r").iterdir())
    shutil.rmtree(tmp_path / "r")


@pytest.mark.parametrize("error", [UnitsLeft(1, 2), InputError("the work folder is gone")])
@pytest.mark.parametrize("finished", [True, False])
def test_units_that_vanish_with_a_finished_stage_are_no_error(
    kept, error, finished, monkeypatch, capsys
):
    """The shard that ends last may remove what the units left, before another one has looked."""
    receipt = kept / "receipts/train.json"
    content = receipt.read_bytes()
    receipt.unlink()

    def vanish(run, stage, read):
        if finished:
            receipt.write_bytes(content)
        raise error

    monkeypatch.setattr("pipeline.stage_runner.run_units", vanish)
    status = call(kept, *SHARD)
    out = capsys.readouterr().out
    if finished:
        assert status == 0 and "another shard has finished the stage" in out
    elif isinstance(error, UnitsLeft):
        assert status == 0 and "train: 1 of 2 units are left to other shards" in out
    else:
        assert status == 1
    assert receipt.exists() == finished


def test_units_that_another_process_makes_known_while_a_stage_is_planned_are_run(
    kept, tmp_path, monkeypatch
):
    """The first one is not done when the plan is made, and done when it is checked."""
    first, second = fake_units(tmp_path, ["first", "second"])
    plans = [[first], [first, second], [first, second]]

    def units_of(run, stage, read):
        plan = plans.pop(0)
        first.path("receipt").touch()
        return plan

    monkeypatch.setattr("pipeline.stage_runner.units_of", units_of)
    run_units(Run(kept), STAGES["train"], {})
    assert (first.runs(), second.runs(), plans) == (0, 1, [])
