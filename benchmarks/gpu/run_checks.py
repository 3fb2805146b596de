"""Checks of the verbs on one device: killed and resumed, explained, scored; several ranks."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.command_line import ROOT, RUN
from benchmarks.gpu.example_runs import MIXED, fold_folder, new_run, receipt, verb
from ct.labels import LABELS
from ct.storage.file_formats import read_table

PATIENCE = 240  # seconds until a training has a checkpoint
RANKS = 2
SCORED_AGAIN = 1e-3  # largest difference of `score` from the submission: batches of another make-up


def whole_run(folder: Path) -> list[str]:
    """Train, kill, resume, predict, explain and score a run; compare it with an unbroken one."""
    run = new_run(folder, MIXED)
    unbroken = Path(shutil.copytree(run, folder / "unbroken"))
    verb("train", f"--run={unbroken}", "--workers=1")
    kill_at_checkpoint(run)
    assert "continues in epoch" in verb("train", f"--run={run}", "--workers=1")
    verb("all", f"--run={run}", "--workers=1")
    for k in (0, 1):
        assert weights(run, "strict", k) == weights(unbroken, "strict", k), (
            f"fold {k} of the deterministic CNN: other bits after a kill"
        )
    free = " other" if weights(run, "free", 1) != weights(unbroken, "free", 1) else " the same"
    reasons = receipt(run, "free", 1).get("not_repeatable", [])
    lines = [
        "killed, resumed: the deterministic CNN has the same bits, "
        f"the other one{free} ({'; '.join(reasons) or 'no reason noted'})"
    ]
    return [*lines, explained(run), scored(run, folder)]


def kill_at_checkpoint(run: Path) -> None:
    """Start a training in a process of its own, and kill that at its first checkpoint."""
    words = [*RUN, "train", f"--run={run}", "--workers=1"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint = fold_folder(run, "free") / "checkpoint.safetensors"
    until = time.monotonic() + PATIENCE
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert checkpoint.exists(), "the training had no checkpoint when it was killed"


def weights(run: Path, name: str, fold: int) -> bytes:
    """Return the file of the weights of one CNN and fold."""
    return (fold_folder(run, name, fold) / "weights.safetensors").read_bytes()


def explained(run: Path) -> str:
    """Make Grad-CAM maps of one study of the train split."""
    if importlib.util.find_spec("captum") is None:
        assert not torch.cuda.is_available(), "explain: captum is not installed"
        return "explain: not tried, captum is not installed"
    slices = read_table(run / "slices.parquet")
    study = slices["study_id"][slices["split"] == "train"].iloc[0]
    verb("explain", f"--run={run}", f"--studies={study}", "--model=strict")
    (path,) = (run / "stage1" / "strict" / "explain").glob("*.npy")
    maps = np.load(path)
    assert maps.any(), "explain: the Grad-CAM maps are empty"
    return f"explain: maps {maps.shape} of one study"


def scored(run: Path, folder: Path) -> str:
    """Score the test slices, and compare the probabilities with those of the submission."""
    verb("score", f"--run={run}", f"--data={folder / 'data' / 'stage_2_test'}", f"--to={folder}/to")
    ours = pd.read_csv(folder / "to" / "slices.csv", index_col="slice_id")[list(LABELS)]
    assert np.isfinite(ours.to_numpy()).all() and ((ours > 0) & (ours < 1)).all(axis=None)
    rows = pd.read_csv(run / "submission.csv", index_col="ID")["Label"]
    wanted = [f"{slice_id}_{label}" for slice_id in ours.index for label in LABELS]
    largest = float(np.abs(ours.to_numpy().ravel() - rows[wanted].to_numpy()).max())
    assert largest < SCORED_AGAIN, f"score differs from the submission by {largest:.1e}"
    return f"score: {len(ours)} slices, {largest:.1e} at most from the submission"


def ranks_on_one_device(folder: Path) -> list[str]:
    """Train and predict with two processes of torchrun that share one device."""
    run = new_run(folder, MIXED)
    seconds = []
    for name in ("train", "predict"):
        start = time.perf_counter()
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
        words = [sys.executable, *words, "--", str(ROOT / "run.py"), name, f"--run={run}"]
        done = subprocess.run(
            words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, f"torchrun {name}: {done.stderr.strip()[-600:]}"
        seconds.append(time.perf_counter() - start)
    made = receipt(run, "strict", 1)
    assert made["processes"] == RANKS, made
    table = read_table(run / "stage1" / "strict" / "oof.parquet")
    slices = read_table(run / "slices.parquet").loc[table.index, "readable"]
    assert table[slices].notna().all(axis=None), "out-of-fold probabilities are missing"
    return [
        f"{RANKS} ranks: train {seconds[0]:.0f} s, predict {seconds[1]:.0f} s, on {made['device']}"
    ]
