"""benchmarks/gpu: what fails is red, what needs a GPU is not run without one, time is kept."""

import re
import sys
import time

import pytest
import torch

from benchmarks.gpu import gpu_checks
from benchmarks.gpu.gpu_checks import GREEN, NOT_RUN, PARTS, RED, Part, outcome_of
from benchmarks.gpu.step_share import gold_cases, step_shares
from benchmarks.gpu.training_checks import memory_runs_out
from benchmarks.train_step import GPU, Case
from stage1_cnn.gpu_memory import is_out_of_memory


@pytest.fixture
def child(monkeypatch):
    """Return a function that lets the processes of parts run a line of Python instead."""

    def run(line):
        monkeypatch.setattr(gpu_checks, "module_command", lambda *_: [sys.executable, "-c", line])

    return run


@pytest.fixture(params=[True, False], ids=["gpu", "no gpu"])
def has_gpu(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param)
    return request.param


def test_figures_of_a_part_are_in_its_row(child, has_gpu):
    child("print('a b'); print(); print('c')")
    assert outcome_of("memory", 60)[:2] == (GREEN, "a b; c")


@pytest.mark.parametrize(
    ("line", "figures"),
    [
        ("print('figure'); print('failed: too slow'); raise SystemExit(1)", "failed: too slow"),
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("import os; os.kill(os.getpid(), 9)", ""),
    ],
)
def test_a_part_that_fails_is_red(child, has_gpu, line, figures):
    child(line)
    assert outcome_of("memory", 60)[:2] == (RED, figures)


def test_what_needs_a_gpu_or_has_no_time_is_red_only_on_a_gpu(child, has_gpu):
    child("import time; time.sleep(60)")
    late = RED if has_gpu else NOT_RUN
    assert outcome_of("memory", 5)[:2] == (late, "the time is up")
    start = time.monotonic()
    assert outcome_of("memory", 10.5)[:2] == (late, "not done in 10 s")
    assert time.monotonic() - start < 15
    if not has_gpu:
        assert outcome_of("speed", 60)[:2] == (NOT_RUN, "no GPU")


@pytest.mark.parametrize(("outcome", "status"), [(GREEN, 0), (NOT_RUN, 0), (RED, 1)])
def test_the_table_is_written_and_red_is_an_exit_status(
    outcome, status, monkeypatch, tmp_path, capsys
):
    results = {"memory": (GREEN, "fine", 1.0), "ranks": (outcome, "2 | 3", 2.0)}
    monkeypatch.setattr(gpu_checks, "outcome_of", lambda name, left: results[name])
    out = tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["gpu_checks", f"--out={out}", "--only=memory,ranks"])
    monkeypatch.setattr(gpu_checks, "__spec__", sys.modules["benchmarks.gpu.gpu_checks"].__spec__)
    assert gpu_checks.main() == status
    table = out.read_text()
    assert table in capsys.readouterr().out and torch.__version__ in table
    assert f"| {PARTS['ranks'].title} | {outcome} | 2 / 3 | 2 |" in table


def test_an_assertion_of_a_part_is_one_line(monkeypatch, capsys, tmp_path):
    def refuse(folder):
        raise AssertionError("no good")

    monkeypatch.setitem(PARTS, "memory", Part(refuse, "memory", True, 1))
    assert gpu_checks.run_part("memory", tmp_path) == 1
    assert capsys.readouterr().out == "failed: no good\n"


def test_all_parts_fit_into_nine_minutes_and_gold_is_measured():
    assert gpu_checks.SECONDS <= 540
    cases = [case for _, case in gold_cases()]
    assert len(cases) == 5 and len({case.backbone for case in cases}) == 5
    assert {case.settings.get("ema", 0) for case in cases} == {0, 0.9995}


@pytest.mark.slow
def test_the_speed_of_a_step_is_measured(tmp_path):
    """On the CPU, and once without and once with everything that `gold` has."""
    gold = gold_cases()[1][1].settings | {"image_size": 32, "windows": ("brain",)}
    cases = [
        (32, Case("cpu", "test_resnet", 4, "fp32", 1, (), GPU.bars, settings))
        for settings in ({}, gold)
    ]
    lines = step_shares(tmp_path, 0.1, cases)
    assert len(lines) == 2
    for line in lines:
        images, share = re.search(r"([\d,]+) images/s, .*; not the CNN (-?[\d.]+)%", line).groups()
        assert int(images.replace(",", "")) > 0 and float(share) < 100


def test_memory_runs_out_once_with_the_devices_own_error(monkeypatch):
    class Step:
        def take(self):
            return "taken"

    with memory_runs_out(Step, "take", call=1) as calls:
        assert Step().take() == "taken"
        with pytest.raises(RuntimeError) as raised:
            Step().take()
        assert is_out_of_memory(raised.value) and Step().take() == "taken"
    assert calls == [0, 1, 2] and Step().take() == "taken"
