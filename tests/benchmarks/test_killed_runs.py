"""Which process does a unit, and which files of two runs differ."""

import os

from benchmarks.scaling.killed_runs import ancestors, unit_holders
from benchmarks.scaling.same_bytes import different_files
from ct.storage.file_lock import file_lock


def test_the_process_that_holds_a_units_lock_does_the_unit(tmp_path):
    """Locks of a join and of the shards, and of another run, are not units."""
    locks = tmp_path / "run" / "locks"
    locks.mkdir(parents=True)
    (tmp_path / "locks").mkdir()
    assert unit_holders(tmp_path / "run") == []
    with (
        file_lock(locks / "train.resnet.fold0.lock"),
        file_lock(locks / "train.join.lock"),
        file_lock(locks / "train.shards.lock", shared=True),
        file_lock(tmp_path / "locks" / "tune.any.fold0.lock"),
    ):
        assert unit_holders(tmp_path / "run") == [("train", "train.resnet.fold0", os.getpid())]
    assert unit_holders(tmp_path / "run") == []


def test_the_ancestors_of_a_process():
    above = ancestors(os.getpid())
    assert above[0] == os.getppid() and os.getpid() not in above


def test_files_that_differ_or_are_missing_are_named(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, text in ((one, "1"), (two, "2")):
        folder.mkdir()
        (folder / "same").write_text("0")
        (folder / "other").write_text(text)
    (one / "alone").write_text("0")
    names = ("same", "other", "alone", "nowhere")
    assert different_files(one, two, names) == ["other", "alone", "nowhere"]
