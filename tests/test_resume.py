"""Killed in the middle of any stage, and run again: the same submission, byte for byte."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

import run
from pipeline.stages import STAGES


def kill_in(folder, stage, wait):
    """Run `all` on a run folder and kill it `wait` seconds after it has begun `stage`. Returns whether it was killed."""
    words = [sys.executable, "-u", str(ROOT / "run.py"), "all", f"--run={folder}", "--workers=2"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout:
            if line.startswith(f"{stage}:"):
                time.sleep(wait)
                process.send_signal(signal.SIGKILL)  # its workers are left to notice by themselves
                break
    return process.returncode == -signal.SIGKILL


@pytest.fixture
def fresh(tmp_path, competition, finished):
    """A run folder like `finished`, before its first stage."""
    folder = tmp_path / "r"
    assert run.main(["new", f"--run={folder}", "--recipe=micro", f"--data={competition}"]) == 0
    return folder


def test_killed_while_training(fresh, finished):
    assert kill_in(fresh, "train", 2.5)
    assert not (fresh / "receipts/train.json").exists()
    assert run.main(["all", f"--run={fresh}", "--workers=1"]) == 0
    assert (fresh / "submission.csv").read_bytes() == (finished / "submission.csv").read_bytes()


@pytest.mark.slow
def test_killed_in_the_middle_of_every_stage(fresh, finished):
    killed = [stage for stage in STAGES for wait in (0.0, 0.4, 1.5) if kill_in(fresh, stage, wait)]
    assert set(killed) >= {"ingest", "train", "predict", "tune", "stack"}  # the others may be too quick to hit
    assert run.main(["all", f"--run={fresh}", "--workers=2"]) == 0
    assert (fresh / "submission.csv").read_bytes() == (finished / "submission.csv").read_bytes()
    assert not [path for path in fresh.rglob("*") if path.name.endswith(".part")]


@pytest.mark.slow
def test_killed_tuning_at_many_moments(fresh, finished, tmp_path):
    """The store of a killed study is continued: what optuna had begun is failed, and its number run again."""
    shutil.copytree(finished, tmp_path / "copy")
    for name in ("tune", "stack", "submit", "report"):
        (tmp_path / "copy" / "receipts" / f"{name}.json").unlink()
    shutil.rmtree(tmp_path / "copy" / "stage2" / "tune")
    killed = [kill_in(tmp_path / "copy", "tune", wait) for wait in (2.0, 2.3, 2.6, 2.9, 3.2)]
    assert any(killed)
    assert run.main(["all", f"--run={tmp_path / 'copy'}", "--workers=2"]) == 0
    assert (tmp_path / "copy" / "submission.csv").read_bytes() == (finished / "submission.csv").read_bytes()


def test_workers_end_with_their_parent():
    """A worker that outlives its killed parent would write beside the process that resumes."""
    script = "import sys, time; sys.path.insert(0, sys.argv[1])\nfrom ct.engine import run_jobs\nif __name__ == '__main__':\n"
    script += "    list(run_jobs(time.sleep, [(60,), (60,)], 2))\n"
    path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"ich_engine_{os.getpid()}.py")
    with open(path, "w") as file:
        file.write(script)
    try:
        parent = subprocess.Popen([sys.executable, path, str(ROOT)])
        children = []
        for _ in range(100):
            time.sleep(0.1)
            children = _children(parent.pid)
            if len(children) >= 3:  # two workers, and the tracker of shared resources
                break
        time.sleep(1.5)
        parent.kill()
        parent.wait()
        time.sleep(1.0)
        assert len(children) >= 2
        assert [pid for pid in children if os.path.exists(f"/proc/{pid}") and _state(pid) != "Z"] == []
    finally:
        os.unlink(path)


def _children(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(word) for word in listed.split()]


def _state(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0]
