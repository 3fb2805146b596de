"""Atomic writes: complete or absent after a kill; user files and link targets are untouched."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

import run
from ct.storage import atomic_write
from ct.storage.atomic_write import discard, replacing, restore, restore_all
from ct.storage.file_formats import write_text
from pipeline.ingestion.ingest_work import IngestWork

KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
left = [int(sys.argv[3])]
def until(function):
    def call(*words, **more):
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
        return function(*words, **more)
    return call
from ct.storage.atomic_write import replacing
for name in ("rename", "replace", "fsync", "unlink", "rmdir"):
    setattr(os, name, until(getattr(os, name)))
with replacing(Path(sys.argv[2])) as part:
    part.mkdir()
    (part / "new").write_text("new")
print("done")
"""


class Broken(Exception):
    """Raised inside a block."""


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_is_complete_whenever_the_process_is_killed(tmp_path):
    """Old or new, after `restore`: killed before each rename, flush and removal in turn."""
    (tmp_path / "script.py").write_text(KILLED)
    states = []
    for moment in range(30):
        folder = tmp_path / str(moment)
        (folder / "boosters").mkdir(parents=True)
        (folder / "boosters" / "old").write_text("old")
        words = [sys.executable, tmp_path / "script.py", ROOT, folder / "boosters", str(moment)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 9), done.stderr
        restore(folder / "boosters")
        states.append(names(folder / "boosters"))
        with replacing(folder / "boosters") as part:
            part.mkdir()
        assert names(folder) == ["boosters"]
        if done.returncode == 0:
            break
    assert states.count(["old"]) >= 3 and states.count(["new"]) >= 3 and len(states) < 30, states


PUT = (
    KILLED[: KILLED.index("with replacing")].replace("import replacing", "import move_into_place")
    + """
move_into_place(Path(sys.argv[2]) / "ingest.part" / "pixels", Path(sys.argv[2]) / "pixels")
"""
)


def test_pixels_are_complete_whenever_the_process_is_killed_while_they_are_moved(tmp_path):
    """The next ingest continues with the new pixels, not with those of the ingest before.

    Killed before each rename, flush and removal in turn.
    """
    (tmp_path / "script.py").write_text(PUT)
    for moment in range(10):
        folder = tmp_path / str(moment)
        (folder / "ingest.part" / "shards").mkdir(parents=True)
        for name in ("pixels", "ingest.part/pixels"):
            (folder / name).mkdir()
            (folder / name / ("new" if "part" in name else "old")).touch()
        words = [sys.executable, tmp_path / "script.py", ROOT, folder, str(moment)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 9), done.stderr
        restore_all(folder)
        IngestWork(folder).take_back_pixels()
        assert names(folder / "ingest.part" / "pixels") == ["new"], moment
        if done.returncode == 0:
            break
    assert 4 <= moment < 9


def test_a_file_is_flushed_before_the_rename_and_its_folder_after(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: calls.append(os.readlink(f"/proc/self/fd/{handle}")) or fsync(handle),
    )
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("rename") or replace(a, b))
    with replacing(tmp_path / "t.txt") as part:
        part.write_text("x")
    assert calls == [f"{tmp_path}/t.txt.part", "rename", str(tmp_path)]
    calls.clear()
    with replacing(tmp_path / "d") as part:
        (part / "sub").mkdir(parents=True)
        (part / "sub" / "f").write_text("x")
    end = calls.index("rename")
    assert set(calls[:end]) == {
        f"{tmp_path}/d.part",
        f"{tmp_path}/d.part/sub",
        f"{tmp_path}/d.part/sub/f",
    }
    assert calls[end + 1 :] == [str(tmp_path)]
    calls.clear()
    with replacing(tmp_path / "progress", lasting=False) as part:
        part.write_text("x")
    assert calls == ["rename"]


def test_a_folder_of_the_users_own_is_left_alone(tmp_path, finished, competition):
    """NAME.part beside synth --out=NAME, score --to=NAME and export-model --to=NAME."""
    work = shutil.copytree(finished, tmp_path / "r")
    study = shutil.copytree(competition / "stage_2_test", tmp_path / "study")
    verbs = {
        "made": ["synth", "--studies=2", "--out"],
        "scored": ["score", f"--run={work}", f"--data={study}", "--workers=1", "--to"],
        "model": ["export-model", f"--run={work}", "--to"],
    }
    for name, words in verbs.items():
        mine = tmp_path / f"{name}.part"
        mine.mkdir()
        (mine / "thesis.txt").write_text("years of work")
        assert run.main([*words[:-1], f"{words[-1]}={tmp_path / name}"]) == 0
        assert (mine / "thesis.txt").read_text() == "years of work"
        assert (tmp_path / name).is_dir() and not (tmp_path / name / "thesis.txt").exists()
    assert not list(tmp_path.glob(f"*{atomic_write.MARK}*"))


def test_the_leftovers_of_a_killed_synth_are_removed_by_the_next(tmp_path):
    left = tmp_path / f"made{atomic_write.MARK}.part"
    left.mkdir()
    (left / "half").write_text("half")
    assert run.main(["synth", "--studies=2", f"--out={tmp_path / 'made'}"]) == 0
    assert names(tmp_path) == ["made"]


@pytest.fixture
def outside(tmp_path):
    """A folder that links point to."""
    folder = tmp_path / "outside"
    (folder / "boosters").mkdir(parents=True)
    (folder / "precious.txt").write_text("x")
    (folder / "boosters" / "precious.txt").write_text("x")
    return folder


def test_links_are_replaced_and_not_followed(tmp_path, outside):
    (tmp_path / "d").symlink_to(outside)
    (tmp_path / "f.txt").symlink_to(outside / "precious.txt")
    (tmp_path / "g.txt.part").symlink_to(outside / "precious.txt")
    with replacing(tmp_path / "d") as part:
        part.mkdir()
        (part / "link").symlink_to(outside)  # a link inside is neither flushed nor followed
    for name in "fg":
        with replacing(tmp_path / f"{name}.txt") as part:
            part.write_text("new")
    assert not (tmp_path / "d").is_symlink() and (tmp_path / "f.txt").read_text() == "new"
    discard(tmp_path / "d")
    assert names(outside) == ["boosters", "precious.txt"]
    assert (outside / "precious.txt").read_text() == "x"


def test_a_linked_folder_of_a_run_is_not_written_into(tmp_path, finished, outside, capsys):
    """The pixels may lie on another disk: a new ingest replaces the link by its own folder."""
    work = shutil.copytree(finished, tmp_path / "r")
    shutil.move(work / "pixels", tmp_path / "large_disk")
    (work / "pixels").symlink_to(tmp_path / "large_disk")
    assert run.main(["all", f"--run={work}", "--workers=1"]) == 0
    assert "everything is fresh" in capsys.readouterr().out
    (work / "receipts" / "ingest.json").unlink()
    shards = names(tmp_path / "large_disk")
    assert run.main(["ingest", f"--run={work}", "--workers=1"]) == 0
    assert not (work / "pixels").is_symlink()
    assert names(tmp_path / "large_disk") == shards == names(work / "pixels")
    shutil.rmtree(work / "stage2")
    (work / "stage2").symlink_to(outside)
    capsys.readouterr()
    assert run.main(["all", f"--run={work}", "--workers=1"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "error: stage2 in the run folder" in message
    assert "is a link" in message
    assert names(outside) == ["boosters", "precious.txt"]
    assert names(outside / "boosters") == ["precious.txt"]


@pytest.mark.parametrize("words", [["folds"], ["status", "--verify"]])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_lock_that_is_a_link_is_not_followed(tmp_path, older_version, words, is_there, capsys):
    work, outside = (
        shutil.copytree(older_version / "run", tmp_path / "r"),
        tmp_path / "precious.txt",
    )
    (work / ".lock").unlink(missing_ok=True)
    (work / ".lock").symlink_to(outside)
    if is_there:
        outside.write_text("precious")
    assert run.main([words[0], f"--run={work}", *words[1:]]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and ".lock is a link" in line
    assert outside.exists() == is_there and (not is_there or outside.read_text() == "precious")


def test_a_run_killed_between_two_renames_of_a_folder_goes_on(tmp_path, finished, capsys):
    work = shutil.copytree(finished, tmp_path / "r")
    for name in ("pixels", "stage2/boosters"):
        os.rename(work / name, work / f"{name}{atomic_write.MARK}.old")
    assert run.main(["all", f"--run={work}", "--workers=1"]) == 0
    assert "everything is fresh" in capsys.readouterr().out


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path, error):
    path = tmp_path / "deep" / "er" / "x.csv"
    with replacing(path) as part:
        assert part == path.with_name("x.csv.part") and part.parent.is_dir()
        part.write_text("one")
        assert not path.exists()
    with replacing(path) as part:
        part.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two" and names(path.parent) == ["x.csv"]
    with pytest.raises(error), replacing(str(path)) as part:
        part.write_text("thr")
        raise error
    assert path.read_text() == "two" and names(path.parent) == ["x.csv"]


def test_a_folder_is_replaced_at_the_end_of_the_block(tmp_path):
    path = tmp_path / "pixels"
    for content in ("one", "two"):
        with replacing(path) as part:
            part.mkdir()
            (part / content).write_text(content)
            (part / "sub").mkdir()
    assert names(path) == ["sub", "two"]  # the old folder is gone
    with pytest.raises(Broken), replacing(path) as part:
        part.mkdir()
        (part / "three").write_text("thr")
        raise Broken
    assert names(path) == ["sub", "two"] and names(tmp_path) == ["pixels"]


def test_the_leftovers_of_a_killed_process_are_removed(tmp_path):
    part = tmp_path / "boosters.part"
    part.mkdir()
    (part / "old").write_text("half")
    with replacing(tmp_path / "boosters") as path:
        assert path == part and not part.exists()
        part.mkdir()
        (part / "new").write_text("whole")
    assert names(tmp_path / "boosters") == ["new"]
    (tmp_path / "t.txt.part").write_text("half")
    write_text(tmp_path / "t.txt", "whole")
    assert (tmp_path / "t.txt").read_text() == "whole" and names(tmp_path) == ["boosters", "t.txt"]


def test_discard_removes_files_and_folders(tmp_path):
    (tmp_path / "f").write_text("x")
    (tmp_path / "d" / "e").mkdir(parents=True)
    for name in ("f", "d", "nothing"):
        discard(tmp_path / name)
    assert names(tmp_path) == []
