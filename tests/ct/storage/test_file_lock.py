"""Locks between processes: alone or shared, released by a kill, never through a link."""

import fcntl
import os
import subprocess
import sys
import threading
from errno import ENOLCK

import pytest

from ct.errors import InputError
from ct.storage.file_lock import discard_unused, file_lock

HOLD = """
import sys
from pathlib import Path
from ct.storage.file_lock import file_lock
with file_lock(Path(sys.argv[1]), shared=sys.argv[2] == "shared") as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds tmp_path/a.lock, "shared" or "alone", until it is killed."""
    processes = []

    def start(kind):
        words = [sys.executable, "-c", HOLD, str(tmp_path / "a.lock"), kind]
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
        )
        processes.append(process)
        assert process.stdout.readline() == "True\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_alone_excludes_all_others_and_shared_only_those_that_want_it_alone(tmp_path, holder):
    path = tmp_path / "a.lock"
    held = {}
    for theirs in ("alone", "shared"):
        process = holder(theirs)
        for ours in ("alone", "shared"):
            with file_lock(path, shared=ours == "shared") as held[theirs, ours]:
                pass
        process.kill()
        process.wait()
    assert held == {
        ("alone", "alone"): False,
        ("alone", "shared"): False,
        ("shared", "alone"): False,
        ("shared", "shared"): True,
    }


def test_a_kill_releases_the_lock_and_whoever_waits_gets_it(tmp_path, holder):
    process, got = holder("alone"), threading.Event()

    def wait():
        with file_lock(tmp_path / "a.lock", wait=True) as held:
            assert held
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.1)
    process.kill()
    assert got.wait(10)
    thread.join()
    with file_lock(tmp_path / "a.lock") as held:  # the file that stays means nothing
        assert held and (tmp_path / "a.lock").exists()


def test_the_lock_is_of_the_handle_not_of_the_process(tmp_path):
    """Two threads of one process exclude each other, too."""
    with (
        file_lock(tmp_path / "a.lock") as first,
        file_lock(tmp_path / "a.lock") as second,
    ):
        assert first and not second


def test_an_error_in_the_block_releases_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), file_lock(tmp_path / "a.lock"):
        raise ZeroDivisionError
    with file_lock(tmp_path / "a.lock") as held:
        assert held


def test_unused_locks_are_removed_and_those_in_use_stay(tmp_path, holder):
    process = holder("shared")
    (tmp_path / "old.lock").touch()
    (tmp_path / "old.now").touch()
    discard_unused(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.lock"]
    process.kill()
    process.wait()
    discard_unused(tmp_path)
    assert not tmp_path.exists()
    discard_unused(tmp_path)


def test_whoever_waits_for_a_removed_file_locks_the_new_one(tmp_path):
    """Else one process would hold the removed file, and another one a new file of its name."""
    path, got, done = tmp_path / "a.lock", threading.Event(), threading.Event()

    def wait():
        with file_lock(path, wait=True):
            got.set()
            done.wait(10)

    with file_lock(path):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.wait(0.2)
        path.unlink()  # as discard_unused does, which holds it
    assert got.wait(10)
    with file_lock(path) as held:
        assert not held
    done.set()
    thread.join()


def test_a_link_is_refused_and_its_target_stays(tmp_path):
    (tmp_path / "a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"a\.lock is a link"), file_lock(tmp_path / "a.lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_disk_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(handle, operation):
        raise OSError(ENOLCK, os.strerror(ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with (
        pytest.raises(InputError, match="this disk has no file locks .*docs/scaling.md"),
        file_lock(tmp_path / "a.lock"),
    ):
        pass
    if before:
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_lock_file_is_private(tmp_path):
    with file_lock(tmp_path / "a.lock"):
        assert (tmp_path / "a.lock").stat().st_mode & 0o777 == 0o600
