"""A short run of benchmarks/faults.py: lost work would be found, and none is lost."""

import collections
import random
import shutil
import subprocess

import pytest

from benchmarks import faults
from benchmarks.fault_injection.fault_places import STAGES, before_stage, flip, kinds_of_files
from benchmarks.fault_injection.faulted_runs import TRIALS, FaultedRuns


@pytest.fixture
def runs(finished, competition, stacking, tmp_path):
    """FaultedRuns whose unbroken run is `finished`."""
    runs = FaultedRuns.__new__(FaultedRuns)
    runs.folder, runs.rng, runs.outcomes = tmp_path, random.Random(3), collections.Counter()
    runs.recipe = stacking
    runs.whole = shutil.copytree(finished, tmp_path / "whole")
    (tmp_path / "data").symlink_to(competition)
    return runs


def test_a_run_before_a_stage_lacks_what_follows(runs):
    run = before_stage(runs.copy(), "tune")
    receipts = {path.stem for path in (run / "receipts").iterdir()}
    assert receipts == set(STAGES[: STAGES.index("tune")])
    assert (run / "stage2" / "features").is_dir() and not (run / "stage2" / "configs.json").exists()


def test_a_flipped_bit_keeps_size_and_times(runs):
    path = runs.whole / "folds.parquet"
    before = path.stat()
    kept = flip(path, random.Random(0))
    after, whole = path.stat(), path.read_bytes()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert sum(bin(a ^ b).count("1") for a, b in zip(whole, kept.content, strict=True)) == 1


def test_every_kind_of_file_of_a_run_is_hit(runs):
    names = {path.relative_to(runs.whole).as_posix() for path in kinds_of_files(runs.whole)}
    assert names >= {
        "key",
        "slices.parquet",
        "pixels/index.parquet",
        "stage2/blend.json",
        "submission.csv",
        "report.html",
    }
    assert sum(name.endswith("weights.safetensors") for name in names) == 1


def test_lost_loud_and_hung_are_found(runs, capsys):
    def done(status, errors):
        return subprocess.CompletedProcess([], status, "", errors)

    runs.judge("a", done(1, "error: no room"), (0, 1))
    runs.judge("b", done(-9, ""), (0, -9))
    assert runs.outcomes == {"good": 2}
    runs.judge("c", done(1, "Traceback (most recent call last)\nerror: x"), (0, 1))
    runs.judge("d", done(1, "error: x\nerror: y"), (0, 1))
    runs.judge("e", done(-7, "error: x"), (0, 1))
    runs.judge("f", done(130, "error: interrupted"), (130,), seconds=16)
    assert runs.outcomes == {"good": 2, "loud": 3, "hung": 1}
    run = before_stage(runs.copy(), "report")
    (run / "submission.csv.part").write_text("left behind")
    runs.same("g", run)
    assert runs.outcomes["lost"] == 1 and "g" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["damage", "workers"])
def test_faults_cost_nothing(runs, kind):
    """The others have quick tests of their own: test_full_disk, test_interrupts, test_integrity."""
    if kind == "workers":
        tuned = before_stage(shutil.copytree(runs.whole, runs.folder / "tuned"), "tune")
        runs.must(["tune", f"--run={tuned}", "--workers=1", f"--trials={TRIALS}"])
    faults.KINDS[kind](runs, 2)
    assert runs.outcomes["good"] == 2 and len(runs.outcomes) == 1
