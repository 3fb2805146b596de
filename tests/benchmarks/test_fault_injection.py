"""The short form of benchmarks/faults.py: it sees what is lost, and finds nothing lost."""

import collections
import random
import shutil
import subprocess

import pytest

from benchmarks import faults
from benchmarks.fault_injection.fault_places import STAGES, before_stage, flip, kinds_of_files


@pytest.fixture
def home(finished, competition, tmp_path):
    """A Home whose unbroken run is `finished`."""
    home = faults.Home.__new__(faults.Home)
    home.folder, home.rng, home.outcomes = tmp_path, random.Random(3), collections.Counter()
    home.whole = shutil.copytree(finished, tmp_path / "whole")
    (tmp_path / "data").symlink_to(competition)
    return home


def test_a_run_before_a_stage_lacks_what_follows(home):
    run = before_stage(home.copy(), "tune")
    receipts = {path.stem for path in (run / "receipts").iterdir()}
    assert receipts == set(STAGES[: STAGES.index("tune")])
    assert (run / "stage2" / "features").is_dir() and not (run / "stage2" / "configs.json").exists()


def test_a_flipped_bit_keeps_size_and_times(home):
    path = home.whole / "folds.parquet"
    before = path.stat()
    kept = flip(path, random.Random(0))
    after, whole = path.stat(), path.read_bytes()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert sum(bin(a ^ b).count("1") for a, b in zip(whole, kept.content, strict=True)) == 1


def test_every_kind_of_file_of_a_run_is_struck(home):
    names = {path.relative_to(home.whole).as_posix() for path in kinds_of_files(home.whole)}
    assert names >= {
        "key",
        "slices.parquet",
        "pixels/index.parquet",
        "stage2/blend.json",
        "submission.csv",
        "report.html",
    }
    assert sum(name.endswith("weights.safetensors") for name in names) == 1


def test_what_is_lost_loud_or_hung_is_seen(home, capsys):
    def done(status, errors):
        return subprocess.CompletedProcess([], status, "", errors)

    home.judge("a", done(1, "error: no room"), (0, 1))
    home.judge("b", done(-9, ""), (0, -9))
    assert home.outcomes == {"good": 2}
    home.judge("c", done(1, "Traceback (most recent call last)\nerror: x"), (0, 1))
    home.judge("d", done(1, "error: x\nerror: y"), (0, 1))
    home.judge("e", done(-7, "error: x"), (0, 1))
    home.judge("f", done(130, "error: interrupted"), (130,), seconds=16)
    assert home.outcomes == {"good": 2, "loud": 3, "hung": 1}
    run = before_stage(home.copy(), "report")
    (run / "submission.csv.part").write_text("left behind")
    home.same("g", run)
    assert home.outcomes["lost"] == 1 and "g" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["damage", "workers"])
def test_faults_cost_nothing(home, kind):
    """The others have quick tests of their own: test_full_disk, test_interrupts, test_damage."""
    if kind == "workers":
        tuned = before_stage(shutil.copytree(home.whole, home.folder / "tuned"), "tune")
        home.must(["tune", f"--run={tuned}", "--workers=1", f"--trials={faults.TRIALS}"])
    faults.KINDS[kind](home, 2)
    assert home.outcomes["good"] == 2 and len(home.outcomes) == 1
