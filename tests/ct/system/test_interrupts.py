"""Ctrl-C ends the program with one line within seconds; the same command continues."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

import run
from ct.system.interrupts import INTERRUPTED, LINE, InterruptWatch

BUSY = "hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)"  # minutes of C code that no signal ends
DROPPED = """
class Slow:
    def __del__(self):
        time.sleep(60)
slow = Slow()
print("busy", flush=True)
del slow
while True:
    time.sleep(0.01)
"""
SCRIPT = """
import hashlib, sys, time
sys.path.insert(0, sys.argv[1])
import ct.system.interrupts
ct.system.interrupts.PATIENCE = 1.0
try:
    with ct.system.interrupts.InterruptWatch():
        {body}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def interrupted(folder, body):
    """Run a script and interrupt it after it prints "busy".

    Returns (status, output, errors, seconds).
    """
    script = folder / "script.py"
    script.write_text(SCRIPT.format(body=body.strip().replace("\n", "\n        ")))
    words = [sys.executable, "-u", script, ROOT]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "busy\n"
        time.sleep(0.2)
        start = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err, time.monotonic() - start


def test_the_program_ends_during_c_code(tmp_path):
    status, out, err, seconds = interrupted(tmp_path, f'print("busy", flush=True)\n{BUSY}')
    assert (status, out, err) == (INTERRUPTED, "", f"error: {LINE}\n") and seconds < 10


def test_a_dropped_interrupt_is_raised_again(tmp_path):
    status, out, err, seconds = interrupted(tmp_path, DROPPED)
    assert (status, out, err) == (0, "interrupted\n", "") and seconds < 10


def test_an_ordinary_interrupt_is_raised_at_once(tmp_path):
    status, out, err, seconds = interrupted(tmp_path, 'print("busy", flush=True)\ntime.sleep(60)')
    assert (status, out, err) == (0, "interrupted\n", "") and seconds < 5


def test_jobs_in_worker_processes_are_ended(tmp_path):
    """A study of `tune` may take hours."""
    body = "from ct.system.parallel_jobs import run_jobs\n"
    body += "for _ in run_jobs(time.sleep, [(0,), (60,), (60,)], 2):\n    "
    body += "print('busy', flush=True)"
    script = tmp_path / "jobs.py"
    script.write_text(
        "import sys, time; sys.path.insert(0, sys.argv[1])\nif __name__ == '__main__':\n    "
        + body.replace("\n", "\n    ")
    )
    words = [sys.executable, script, ROOT]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stdout.readline() == "busy\n"
        os.killpg(process.pid, signal.SIGINT)
        start = time.monotonic()
        process.communicate(timeout=30)
    assert process.returncode and time.monotonic() - start < 10


def test_an_error_caused_by_the_interrupt_counts_as_the_interrupt(monkeypatch, capsys):
    def execute(verb, options):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("Error: did not possess lock") from None

    monkeypatch.setattr("pipeline.commands.dispatch.execute", execute)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert run.main(["status", "--run=r"]) == INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == f"error: {LINE}\n"


def test_other_errors_are_raised_and_other_handlers_stay(monkeypatch):
    def execute(verb, options):
        raise RuntimeError("a fault of the program")

    monkeypatch.setattr("pipeline.commands.dispatch.execute", execute)
    for handler in (signal.SIG_IGN, signal.default_int_handler):
        before = signal.signal(signal.SIGINT, handler)
        try:
            with pytest.raises(RuntimeError, match="a fault"):
                run.main(["status", "--run=r"])
            assert signal.getsignal(signal.SIGINT) is handler
            with InterruptWatch() as interrupts:
                assert (signal.getsignal(signal.SIGINT) is handler) == (handler is signal.SIG_IGN)
            assert not interrupts.interrupted
        finally:
            signal.signal(signal.SIGINT, before)


def test_tune_is_interrupted_with_one_line_and_continued(finished, tmp_path):
    """At several moments: some printed a traceback or hung in earlier versions."""
    work = shutil.copytree(finished, tmp_path / "r")
    (work / "receipts" / "tune.json").unlink()
    shutil.rmtree(work / "stage2" / "tune")
    words = [sys.executable, "-u", str(ROOT / "run.py"), "tune", f"--run={work}", "--workers=1"]
    for wait in (0.0, 0.2, 0.5):
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout:
                if line.startswith("  reads"):
                    break
            time.sleep(wait)
            process.send_signal(signal.SIGINT)
            err = process.communicate(timeout=15)[1]
        assert (process.returncode, err) in ((INTERRUPTED, f"error: {LINE}\n"), (0, ""))
    assert run.main(["all", f"--run={work}", "--workers=1"]) == 0
    assert (work / "submission.csv").read_bytes() == (finished / "submission.csv").read_bytes()


def test_ctrl_c_reaches_the_children_of_tests_where_it_is_ignored():
    """Also under nohup, or in the background of a shell."""
    code = "import sys; sys.path.insert(0, sys.argv[1])\nimport conftest, subprocess\n"
    code += "command = [sys.executable, '-c', sys.argv[2]]\n"
    code += "print(subprocess.run(command, capture_output=True, text=True).stdout)"
    ask = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children inherit it
    try:
        child = [
            subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
            for words in (
                [sys.executable, "-c", ask],
                [sys.executable, "-c", code, str(ROOT / "tests"), ask],
            )
        ]
    finally:
        signal.signal(signal.SIGINT, before)
    assert child == ["False", "True"]
