"""Shards of a micro run: the same bytes as one process, at once, in turn, and after kills."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import run
from pipeline.registry import STAGES

pytestmark = pytest.mark.slow
SHARDED = ("ingest", "train", "predict", "features", "tune", "stack")
CONTENT = (".parquet", ".npy", ".csv", ".safetensors", ".txt", ".blosc2")
TIMES = ("trials.parquet",)  # holds the seconds of each trial


@pytest.fixture
def folder(tmp_path, competition, stacking):
    """A run folder before its first stage."""
    folder = tmp_path / "r"
    assert (
        run.main(["new", f"--run={folder}", f"--recipe={stacking}", f"--data={competition}"]) == 0
    )
    return folder


def contents(folder):
    """{name: bytes} of the files of a run that do not hold times."""
    paths = [path for path in folder.rglob("*") if path.suffix in CONTENT]
    names = {path.relative_to(folder).as_posix(): path for path in paths if path.name not in TIMES}
    return {name: path.read_bytes() for name, path in names.items()} | {
        "scores": (folder / "stage2/scores.json").read_bytes()
    }


def assert_same(folder, finished):
    ours, theirs = contents(folder), contents(finished)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert run.main(["folds", f"--run={folder}"]) == 0
    assert not (folder / "locks").exists()


def slurm_files(folder, place):
    """Write the files of docs/scaling.md for this run: step.sbatch, gold.sh, and an sbatch."""
    page = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    step, gold = re.findall(r"^```bash\n(.*?)^```", page, re.S | re.M)
    step = step.replace("/shared/runs/gold", str(folder)).replace("/shared/ich-stack", str(ROOT))
    step = step.replace(".venv/bin/python", sys.executable)
    (place / "step.sbatch").write_text(step)
    gold, arrays = re.subn(r"--array=1-(\d+) (.*) \1$", r"--array=1-2 \2 2", gold, flags=re.M)
    assert arrays == 5
    (place / "gold.sh").write_text(gold)
    sbatch = place / "bin/sbatch"
    sbatch.parent.mkdir()
    program = ROOT / "tests/end_to_end/simulated_sbatch.py"
    sbatch.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
    sbatch.chmod(0o700)


def test_the_slurm_files_with_a_task_of_each_array_killed(folder, finished, tmp_path):
    """Two tasks of each array at once. Whoever ends last makes the stage's files, once."""
    place = tmp_path / "slurm"
    place.mkdir()
    slurm_files(folder, place)
    environment = {
        **os.environ,
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "SIMULATED_SLURM": str(place),
        "SETTLE": "0",
    }
    subprocess.run(["bash", "gold.sh"], cwd=place, env=environment, check=True)
    logs = [
        path.read_text() for path in sorted(place.glob("*.log"), key=lambda path: int(path.stem))
    ]
    assert len(logs) == len(list(place.glob("*.ok"))) == 10, logs
    assert len(list(place.glob("*.killed"))) >= 3  # others had ended before
    for verb in STAGES:
        makes = STAGES[verb].makes
        assert sum(text.count(f"  made {makes} in") for text in logs) == 1, (verb, logs)
    assert_same(folder, finished)


def test_one_after_the_other(folder, finished, capsys):
    for verb in STAGES:
        texts = []
        for flags in [["--shard=2/2"], ["--shard=1/2"]] if verb in SHARDED else [[]]:
            assert run.main([verb, f"--run={folder}", *flags]) == 0
            texts.append(capsys.readouterr().out)
        assert sum("  made " in text for text in texts) == 1, (verb, texts)
        if verb in ("train", "predict"):
            left = f"{verb}: 1 of 2 units are left to other shards; the one that ends last"
            assert left in texts[0] and "left to other shards" not in texts[1]
    assert_same(folder, finished)
