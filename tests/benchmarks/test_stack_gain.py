"""The verdict of stack_gain: gains are counted over patients, and missed bars are named."""

import numpy as np
import pytest

from benchmarks.stacking.stack_gain import COLUMNS, CONTENDERS, CONTROLS, judge

N, PATIENTS = 3000, np.arange(3000) // 30
MEANS = {"raw": 0.060, "smoothed": 0.058, "plain": 0.055, "single": 0.051, "ours": 0.050}


def losses(seeds=(0,), **other):
    """Losses (n, 7) of each contender and control around a mean, {(name, family, seed): losses}."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.02, (N, 7))
    means = {**dict.fromkeys(CONTROLS, 0.060), **MEANS, **other}
    return {
        (name, "runs", seed): means[name] + shared + rng.normal(0, 0.002, (N, 7))
        for seed in seeds
        for name in (*CONTENDERS, *CONTROLS)
    }


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, []),
        ({"permuted in studies": 0.056}, []),  # a study is a bag: shown, no bar
        ({"ours": 0.0549}, ["times what plain gains"]),
        ({"plain": 0.0515}, ["times what plain gains, the bar is 1.25"]),
        ({"no neighbours": 0.058}, ["no neighbours, yet 3."]),
        ({"permuted in folds": 0.058}, ["permuted in folds, yet 3."]),
    ],
)
def test_bars(other, expected, capsys):
    missed = judge(losses(**other), "runs", [0], PATIENTS)
    assert len(missed) == len(expected) and all(
        text in line for text, line in zip(expected, missed, strict=True)
    )
    shown = capsys.readouterr().out
    assert "ours less plain" in shown and "ours less single" in shown


@pytest.mark.parametrize(("label", "counts"), [("subdural", True), ("epidural", False)])
def test_a_label_worse_than_raw_is_a_miss_but_epidural(label, counts, capsys):
    found = losses()
    found["ours", "runs", 0][:, COLUMNS.index(label)] += 0.02
    missed = judge(found, "runs", [0], PATIENTS)
    assert missed == ([f"runs: ours is worse than raw on {label}"] if counts else [])


def test_no_gain_beyond_doubt_is_a_miss(capsys):
    missed = judge(losses(ours=0.060, plain=0.060), "runs", [0], PATIENTS)
    assert [line for line in missed if "beyond doubt on" in line] == [
        "runs: ours gains nothing beyond doubt on weighted",
        "runs: ours gains nothing beyond doubt on any",
    ]


def test_a_gain_is_the_mean_of_the_seeds(capsys):
    found = losses(seeds=(0, 1))
    for j in range(7):
        found["ours", "runs", 1][:, j] += 0.008
    judge(found, "runs", [0, 1], PATIENTS)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("weighted"))
    assert abs(float(row.split("]")[3].split()[0]) - 600) < 20  # of 1000 and 200
