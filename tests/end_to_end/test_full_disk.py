"""A full disk: one line names the program's own file; with room, the same command continues."""

import contextlib
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

import run
from ct.storage.atomic_write import as_full_disk, replacing
from ct.storage.file_formats import join_arrays, write_array, write_arrays, write_table, write_text
from pipeline.optuna_studies.trial_journal import Journal
from pipeline.stage_data.binned_files import write_bins
from pipeline.stage_data.cross_fitting import new_array
from stage2_stack.learners.binned_features import FIXED

ROWS = 40_000


def write_weights(path):
    with replacing(path) as part:
        save_file({"a": torch.zeros(ROWS)}, part)


def write_mapped(path):
    with new_array(path, (ROWS, 2)) as X:
        X[:] = 1


def write_csv(path):
    with replacing(path) as part:
        pd.DataFrame({"a": np.random.default_rng(0).random(ROWS)}).to_csv(part)


def write_joined(path):
    parts = [path.with_name(f"{number}.npy") for number in (0, 1)]  # they are there already
    join_arrays(path, parts)


def write_journal(path):
    Journal(path).append_logs([{"op_code": 1, "text": "x" * 4 * ROWS}])


def write_binned(path):
    X = np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)
    write_bins(path, lgb.Dataset(X, np.zeros(ROWS), params=FIXED).construct, FIXED)


WRITERS = {
    "bins": write_binned,
    "weights": write_weights,
    "mapped": write_mapped,
    "csv": write_csv,
    "joined": write_joined,
    "journal": write_journal,
    "array": lambda path: write_array(path, np.zeros(ROWS)),
    "arrays": lambda path: write_arrays(path, {"a": np.zeros(ROWS)}),
    "table": lambda path: write_table(
        path, pd.DataFrame({"a": np.random.default_rng(0).random(ROWS)})
    ),
    "text": lambda path: write_text(path, "x" * 4 * ROWS),
}


@contextlib.contextmanager
def limit_of_size(size):
    """Let no file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("kind", WRITERS)
def test_every_writer_names_its_file_on_a_full_disk(tmp_path, kind):
    for number in (0, 1):
        np.save(tmp_path / f"{number}.npy", np.zeros(ROWS))
    path = tmp_path / "made"
    with limit_of_size(20_000), pytest.raises(OSError) as caught:
        WRITERS[kind](path)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC) and str(
        caught.value.filename
    ).startswith(str(path))
    assert not path.exists() or kind == "journal"
    assert not (tmp_path / "made.part").exists()
    WRITERS[kind](path)  # there is room again
    assert path.stat().st_size > 20_000


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


SMALL = """
import sys; sys.path[:0] = ["tests", "tests/end_to_end", "."]
from pathlib import Path
from test_full_disk import WRITERS
for kind in set(WRITERS) - {"joined"}:  # its parts lie beside it
    path = Path(sys.argv[1], kind)
    try:
        WRITERS[kind](path)
    except OSError as error:
        print(kind, error.errno, error.filename, path.with_name(f"{kind}.part").exists())
"""


def test_a_real_full_disk(small_disk):
    """In a process of its own: a memory map of a file without room would end it by SIGBUS."""
    (small_disk / "ballast").write_bytes(bytes(200_000))
    words = [sys.executable, "-c", SMALL, small_disk]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    kinds = set(WRITERS) - {"joined"}
    expected = {f"{kind} {errno.ENOSPC} {small_disk}/{kind}" for kind in kinds}
    assert {
        line.removesuffix(" False").removesuffix(".part") for line in done.stdout.splitlines()
    } == expected


def test_other_errors_are_not_changed(tmp_path):
    assert as_full_disk(ValueError("28"), "p") is None
    assert as_full_disk(OSError(errno.EIO, "input/output error"), "p") is None
    named = OSError(errno.ENOSPC, "no space", "other")
    assert as_full_disk(named, "p") is None
    full = as_full_disk(OSError("4896 requested and 4032 written"), "p")
    assert (full.errno, full.filename) == (errno.ENOSPC, "p")


def test_a_full_disk_is_one_error_line_and_the_run_continues(finished, tmp_path, capsys):
    work = shutil.copytree(finished, tmp_path / "r")
    for name in ("features", "stack"):
        (work / "receipts" / f"{name}.json").unlink()
    capsys.readouterr()
    with limit_of_size(3_000):
        assert run.main(["all", f"--run={work}", "--workers=1"]) == 1
    line = capsys.readouterr().err
    assert (
        line.count("\n") == 1
        and f"error: {work}/stage2/" in line
        and "the same command continues" in line
    )
    assert run.main(["all", f"--run={work}", "--workers=1"]) == 0
    assert (work / "submission.csv").read_bytes() == (finished / "submission.csv").read_bytes()
