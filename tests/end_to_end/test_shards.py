"""Shards of a micro run: the same bytes as one process, at once, in turn, and after kills."""

import subprocess
import sys
import threading

import pytest
from conftest import ROOT

import run
from pipeline.registry import STAGES

pytestmark = pytest.mark.slow
SHARDED = ("ingest", "train", "predict", "features", "tune", "stack")
CONTENT = (".parquet", ".npy", ".csv", ".safetensors", ".txt", ".blosc2")
TIMES = ("trials.parquet",)  # holds the seconds of each trial


@pytest.fixture
def folder(tmp_path, competition):
    """A run folder before its first stage."""
    folder = tmp_path / "r"
    assert run.main(["new", f"--run={folder}", "--recipe=micro", f"--data={competition}"]) == 0
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


def start(folder, verb, shard):
    """Start a shard as a process of its own."""
    words = [sys.executable, "-u", str(ROOT / "run.py"), verb]
    return subprocess.Popen(
        [*words, f"--run={folder}", f"--shard={shard}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def output(process):
    """Wait for a shard. Returns what it printed."""
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return text


def kill_at_work(process):
    """Kill a shard a moment after it has begun, unless it ends before. Returns what it printed."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("  reads"):
            threading.Timer(0.5, process.kill).start()
    process.wait(60)
    return "".join(lines)


def test_at_once_with_one_killed_and_one_started_twice(folder, finished):
    """The last one of those that live makes the stage's files, or the killed one called again."""
    killed = []
    for verb in STAGES:
        if verb not in SHARDED:
            assert run.main([verb, f"--run={folder}"]) == 0
            continue
        shards = ["1/2", "2/2"] + ["2/2"] * (verb == "train")
        first, *others = (start(folder, verb, shard) for shard in shards)
        texts = [kill_at_work(first), *map(output, others)]
        if first.returncode:
            killed.append(verb)
        texts.append(output(start(folder, verb, "1/2")))
        assert sum("  made " in text for text in texts) == 1, (verb, texts)
        assert (folder / "receipts" / f"{verb}.json").exists()
    assert {"train", "tune"} <= set(killed)
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
