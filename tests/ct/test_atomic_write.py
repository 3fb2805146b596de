"""What is replaced is whole, on the disk, and the program's own: killed at any point, among a
user's files, beside links.
"""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

import run
from ct.storage import atomic_write
from ct.storage.atomic_write import discard, replacing, restore, restore_all
from ct.storage.ingest_work import prepare_ingest_work

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


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_is_there_whatever_moment_the_process_is_killed_at(tmp_path):
    """Old or new, after `restore`: killed before each rename, flush and removal in turn."""
    (tmp_path / "script.py").write_text(KILLED)
    found = []
    for moment in range(30):
        folder = tmp_path / str(moment)
        (folder / "boosters").mkdir(parents=True)
        (folder / "boosters" / "old").write_text("old")
        words = [sys.executable, tmp_path / "script.py", ROOT, folder / "boosters", str(moment)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 9), done.stderr
        restore(folder / "boosters")
        found.append(names(folder / "boosters"))
        with replacing(folder / "boosters") as part:
            part.mkdir()
        assert names(folder) == ["boosters"]
        if done.returncode == 0:
            break
    assert found.count(["old"]) >= 3 and found.count(["new"]) >= 3 and len(found) < 30, found


PUT = (
    KILLED[: KILLED.index("with replacing")].replace("import replacing", "import move_into_place")
    + """
move_into_place(Path(sys.argv[2]) / "work" / "pixels", Path(sys.argv[2]) / "pixels")
"""
)


def test_pixels_that_get_their_place_are_there_whatever_moment_the_process_is_killed_at(tmp_path):
    """What took hours to decode is taken up, never the pixels of the ingest before: at every
    rename, flush and removal.
    """
    (tmp_path / "script.py").write_text(PUT)
    for moment in range(10):
        folder = tmp_path / str(moment)
        (folder / "work" / "shards").mkdir(parents=True)
        for name in ("pixels", "work/pixels"):
            (folder / name).mkdir()
            (folder / name / ("new" if "work" in name else "old")).touch()
        words = [sys.executable, tmp_path / "script.py", ROOT, folder, str(moment)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 9), done.stderr
        restore_all(folder)
        prepare_ingest_work(folder / "work", folder / "pixels", print)
        assert names(folder / "work" / "pixels") == ["new"], moment
        if done.returncode == 0:
            break
    assert 4 <= moment < 9


def test_what_is_written_is_flushed_before_the_rename_and_its_folder_after(tmp_path, monkeypatch):
    seen, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: seen.append(os.readlink(f"/proc/self/fd/{handle}")) or fsync(handle),
    )
    monkeypatch.setattr(os, "replace", lambda a, b: seen.append("rename") or replace(a, b))
    with replacing(tmp_path / "t.txt") as part:
        part.write_text("x")
    assert seen == [f"{tmp_path}/t.txt.part", "rename", str(tmp_path)]
    seen.clear()
    with replacing(tmp_path / "d") as part:
        (part / "sub").mkdir(parents=True)
        (part / "sub" / "f").write_text("x")
    end = seen.index("rename")
    assert set(seen[:end]) == {
        f"{tmp_path}/d.part",
        f"{tmp_path}/d.part/sub",
        f"{tmp_path}/d.part/sub/f",
    }
    assert seen[end + 1 :] == [str(tmp_path)]
    seen.clear()
    with replacing(tmp_path / "progress", lasting=False) as part:
        part.write_text("x")
    assert seen == ["rename"]


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


def test_what_a_killed_synth_left_is_removed_by_the_next(tmp_path):
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
        (part / "link").symlink_to(outside)  # nor is a link within flushed or followed
    for name in "fg":
        with replacing(tmp_path / f"{name}.txt") as part:
            part.write_text("new")
    assert not (tmp_path / "d").is_symlink() and (tmp_path / "f.txt").read_text() == "new"
    discard(tmp_path / "d")
    assert (
        names(outside) == ["boosters", "precious.txt"]
        and (outside / "precious.txt").read_text() == "x"
    )


def test_a_linked_folder_of_a_run_is_not_written_into(tmp_path, finished, outside, capsys):
    """But the pixels may lie on another disk: they are read there, and a new ingest puts its own in
    the place of the link.
    """
    work = shutil.copytree(finished, tmp_path / "r")
    shutil.move(work / "pixels", tmp_path / "large_disk")
    (work / "pixels").symlink_to(tmp_path / "large_disk")
    assert run.main(["all", f"--run={work}", "--workers=1"]) == 0
    assert "everything is fresh" in capsys.readouterr().out
    (work / "receipts" / "ingest.json").unlink()
    shards = names(tmp_path / "large_disk")
    assert run.main(["ingest", f"--run={work}", "--workers=1"]) == 0
    assert not (work / "pixels").is_symlink() and names(tmp_path / "large_disk") == shards == names(
        work / "pixels"
    )
    shutil.rmtree(work / "stage2")
    (work / "stage2").symlink_to(outside)
    capsys.readouterr()
    assert run.main(["all", f"--run={work}", "--workers=1"]) == 1
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and "error: stage2 in the run folder" in said and "is a link" in said
    )
    assert names(outside) == ["boosters", "precious.txt"] and names(outside / "boosters") == [
        "precious.txt"
    ]


@pytest.mark.parametrize("words", [["folds"], ["status", "--verify"]])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_lock_that_is_a_link_is_not_followed(tmp_path, before_trust, words, is_there, capsys):
    work, outside = shutil.copytree(before_trust / "run", tmp_path / "r"), tmp_path / "precious.txt"
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
