"""Several processes read one source at the same time, and one of them is killed."""

import os
import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
from conftest import ROOT

import run

COPIES = 16  # of 40 slices: two shards of the pixel cache


@pytest.fixture(scope="module")
def data(competition, tmp_path_factory):
    """The competition with COPIES of each slice, each with a name of its own."""
    folder = tmp_path_factory.mktemp("copies") / "data"
    for path in sorted(competition.glob("stage_2_*/*.dcm")):
        whole = path.read_bytes()
        for copy in range(COPIES):
            name = f"ID_{copy:x}{path.stem[4:]}"
            target = folder / path.parent.name / f"{name}.dcm"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(whole.replace(path.stem.encode(), name.encode()))
    for path in competition.glob("*.csv"):
        rows = pd.read_csv(path, dtype=str)
        ids = [rows.assign(ID=f"ID_{copy:x}" + rows["ID"].str[4:]) for copy in range(COPIES)]
        pd.concat(ids).to_csv(folder / path.name, index=False)
    return folder


def start(root, shard):
    words = ["ingest", f"--run={root}", "--workers=1", f"--shard={shard}"]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
    )


def made(root):
    """{name: bytes} of what ingest makes; nothing else may be left of it."""
    assert not (root / "ingest.part").exists()
    paths = [root / name for name in ("slices.parquet", "quarantine.csv", "ingest.json")]
    paths += sorted((root / "pixels").iterdir())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_workers_and_shards_make_the_same_bytes_though_one_is_killed(data, tmp_path):
    roots = {name: tmp_path / name for name in ("one", "workers", "shards")}
    for root in roots.values():
        assert run.main(["new", f"--run={root}", "--recipe=micro", f"--data={data}"]) == 0
        if root != roots["one"]:
            shutil.copy(roots["one"] / "key", root / "key")
    for name, workers in (("one", 1), ("workers", 2)):
        words = [sys.executable, str(ROOT / "run.py"), "ingest", f"--run={roots[name]}"]
        subprocess.run([*words, f"--workers={workers}"], check=True, capture_output=True)
    expected = made(roots["one"])
    assert len([name for name in expected if "shard-" in name]) == 2
    assert made(roots["workers"]) == expected

    root = roots["shards"]
    shards = [start(root, f"{number}/3") for number in (1, 2, 3)]
    until = time.monotonic() + 60
    while not (root / "ingest.part" / "files.json").exists() and time.monotonic() < until:
        time.sleep(0.01)
    shards[1].kill()
    texts = [shard.communicate(timeout=120)[0] for shard in shards]
    texts += [start(root, "2/3").communicate(timeout=120)[0]]
    assert sum("  made " in text for text in texts) == 1, texts
    assert made(root) == expected
