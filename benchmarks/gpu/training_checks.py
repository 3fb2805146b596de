"""Checks of trainings and predictions on one device: no memory left, precisions, compiling."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.gpu.example_runs import BACKBONE, inputs_of, new_run
from pipeline.training.stage_one_inputs import StageOneInputs
from stage1_cnn.batches.dataset import fold_rows
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import pick_device
from stage1_cnn.inference import predict
from stage1_cnn.model import Cnn
from stage1_cnn.train_loop import Hooks, TrainedCnn, train_cnn

TOO_MUCH = 1 << 50  # bytes; no device has them
# what a halved batch changes: batch norm, and the random numbers of each piece
SAME_WHEN_HALVED = {
    "backbone": "test_convnext",
    "precision": "fp32",
    "epochs": 1,
    "lr": 1e-3,
    "flip": False,
    "rotate": 0,
    "scale": 0,
    "shift": 0,
}


class Example:
    """The slices of a small run, on which CNNs are trained and tried."""

    def __init__(self, folder: Path) -> None:
        self.inputs: StageOneInputs = inputs_of(new_run(folder))
        self.split = fold_rows(self.inputs.slices, self.inputs.fold, 0)
        self.log: list[str] = []

    def train(self, **settings: Any) -> TrainedCnn:
        """Train a CNN with these settings; `log` has its lines."""
        self.log.clear()
        config, hooks = cnn_config(**settings), Hooks(log=self.log.append)
        cache = self.inputs.cache.read
        return train_cnn(self.inputs.slices, self.split, cache, config, 0, hooks)

    def predict(self, trained: TrainedCnn, **settings: Any) -> np.ndarray:
        """Return the probabilities (n, 6) of the held-out slices."""
        config, rows = cnn_config(**settings), self.split[1]
        table_rows = self.inputs.neighbours(config.neighbours)[rows]
        readable, cache = self.inputs.readable[rows], self.inputs.cache.read
        probs, _ = predict(trained.model, table_rows, readable, cache, config)
        assert np.isfinite(probs[readable]).all(), "probabilities are NaN or infinite"
        return probs[readable]


def cnn_config(**settings: Any) -> CnnConfig:
    """Return the settings of a small CNN, with changes."""
    small = {"name": "a", "backbone": BACKBONE, "batch": 16, "epochs": 4, "lr": 3e-3, "threads": 1}
    small["outputs"] = "probabilities"
    return CnnConfig(**(small | settings))


@contextlib.contextmanager
def memory_runs_out(owner: Any, name: str, call: int = 0) -> Iterator[list[int]]:
    """Context in which one call of a function asks the device for more memory than it has.

    The error is the device's own. Yields the numbers of the calls.
    """
    function, calls = getattr(owner, name), list[int]()

    def asking(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == call + 1:
            torch.empty(TOO_MUCH, dtype=torch.int8, device=pick_device())
        return function(*args, **kwargs)

    with mock.patch.object(owner, name, asking):
        yield calls


def exhausted_memory(folder: Path) -> list[str]:
    """Let memory run out in the forward pass, in the optimizer's first step and in a prediction."""
    example = Example(folder)
    kind = SAME_WHEN_HALVED
    whole, lines = example.train(**kind), []
    expected = example.predict(whole, **kind)
    for what, owner, name in (
        ("forward pass", Cnn, "forward"),
        ("optimizer's first step", torch.optim.AdamW, "step"),
    ):
        with memory_runs_out(owner, name):
            trained = example.train(**kind)
        assert trained.micro_batch == 8 and "out of memory" in example.log[0], example.log
        gap = float(np.abs(example.predict(trained, **kind) - expected).max())
        assert gap < 0.01, f"{what}: probabilities differ by {gap:.1e} after the batch was halved"
        lines.append(f"{what}: batch halved, probabilities within {gap:.0e}")
    with memory_runs_out(Cnn, "forward") as calls:
        probs = example.predict(whole, **kind)
    gap = float(np.abs(probs - expected).max())
    assert len(calls) > 1 and gap < 1e-4, f"prediction: probabilities differ by {gap:.1e}"
    return [*lines, f"prediction: batch halved, probabilities within {gap:.0e}"]


def precisions(folder: Path) -> list[str]:
    """Train and predict in each precision; compare the predictions with those of fp32."""
    example, lines = Example(folder), []
    reference = example.train(precision="fp32")
    expected = example.predict(reference, precision="fp32")
    for precision in ("bf16", "fp16"):
        gap = float(np.abs(example.predict(reference, precision=precision) - expected).max())
        assert gap < 0.05, f"{precision}: predictions of the same weights differ by {gap:.2f}"
        lines.append(f"{precision}: predictions within {gap:.4f} of fp32")
    for precision in ("fp32", "bf16", "fp16"):
        lines.append(f"{precision}: {learnt(example.train(precision=precision, ema=0.5))}")
    return lines


def compiled(folder: Path) -> list[str]:
    """Train with torch.compile: a moving average, a last batch of another size, less memory."""
    example, start = Example(folder), time.perf_counter()
    eager = learnt(example.train(ema=0.5))
    trained = example.train(compile=True, ema=0.5)
    lines = [f"eager: {eager}", f"compiled: {learnt(trained)}, {time.perf_counter() - start:.0f} s"]
    example.predict(trained, compile=True)
    with memory_runs_out(torch.optim.AdamW, "step"):
        halved = example.train(compile=True, epochs=2)
    assert halved.micro_batch == 8, "compiled: the batch was not halved"
    return [*lines, "compiled, memory exhausted: batch halved"]


def learnt(trained: TrainedCnn) -> str:
    """Return the losses of a training. Raises AssertionError where it did not learn."""
    first, last = (entry["train_loss"] for entry in (trained.curve[0], trained.curve[-1]))
    assert np.isfinite(last) and last < first, f"the loss went from {first:.3f} to {last:.3f}"
    return f"train loss {first:.3f} to {last:.3f}"
