"""An update loses no work: what an earlier version left is fresh, is continued, and gives the same answers."""

import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

import run
from ct.labels import LABELS
from ct.rundir import read_table
from pipeline.stages import STAGES, Run, state


@pytest.fixture
def kept(before_trust, tmp_path):
    """The finished run of an earlier version, which may be changed."""
    return shutil.copytree(before_trust / "run", tmp_path / "run")


@pytest.fixture
def half(before_trust, tmp_path):
    """The half-trained run of an earlier version, which may be changed."""
    return shutil.copytree(before_trust / "half", tmp_path / "half")


def files_and_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_finished_run_of_before_is_fresh_and_stays_as_it_is(kept, capsys):
    before = files_and_times(kept)
    assert state(Run(kept)) == dict.fromkeys(STAGES, ("fresh", ""))
    assert run.main(["all", f"--run={kept}", "--workers=1"]) == 0
    assert "everything is fresh" in capsys.readouterr().out
    assert files_and_times(kept) == before


def test_its_searches_are_continued(kept, capsys):
    assert run.main(["search", f"--run={kept}", "--trials=2"]) == 0
    assert "2 trials are there already" in capsys.readouterr().out
    assert run.main(["tune", f"--run={kept}", "--trials=4", "--workers=1"]) == 0
    assert "4 trials" in capsys.readouterr().out
    assert len(read_table(kept / "stage2" / "trials.parquet")) == 4  # the three of before, and one more


def test_a_half_trained_run_of_before_goes_on_from_its_checkpoint(half, before_trust, capsys):
    assert run.main(["train", f"--run={half}"]) == 0
    out = capsys.readouterr().out
    assert "cnn fold 0: 2 epochs" in out and out.count(", kept") == 1
    assert "cnn fold 1: continues in epoch 2, after 3 steps" in out
    ours, theirs = (load_file(f / "stage1/cnn/fold1/weights.safetensors") for f in (half, before_trust / "run"))
    for name, weight in theirs.items():  # in one piece or two; on another processor the last bits may differ
        np.testing.assert_allclose(ours[name].numpy(), weight.numpy(), atol=1e-4, err_msg=name)


@pytest.mark.parametrize("kind", ["run", "model"])
def test_score_answers_as_before(before_trust, tmp_path, kind):
    words = [f"--data={before_trust / 'dicom'}", f"--to={tmp_path / 'scored'}", "--device=cpu", "--workers=1"]
    model = shutil.copytree(before_trust / kind, tmp_path / kind)
    assert run.main(["score", f"--{kind}={model}", *words]) == 0
    expected = pd.read_csv(before_trust / "expected" / f"score-{kind}.csv", index_col="slice_id")
    ours = pd.read_csv(tmp_path / "scored" / "slices.csv", index_col="slice_id")
    assert list(ours.index) == list(expected.index)
    np.testing.assert_allclose(ours[list(LABELS)], expected[list(LABELS)], atol=1e-6, rtol=0)
