"""Images/s of training steps, and the share of a step that is not the CNN, by train_step.py.

ResNet-50 as there, then each CNN of the recipe `gold` as the recipe has it, without its pretrained
weights.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu.example_runs import inputs_of
from benchmarks.train_step import AUGMENTED, GPU, HU, IMAGES, PATH, Bench, Case, make_cache
from pipeline.recipe import find_recipe, load_recipe
from stage1_cnn.device import torch_settings

SECONDS = 8.0  # of the rounds of one CNN
STEPS = 10  # of a round
GOLD_SIZE = 384
# fields that a Case has itself, or that would need weights from the network
OWN = {"name", "backbone", "batch", "precision", "threads", "deterministic", "pretrained"}


def gold_cases() -> list[tuple[int, Case]]:
    """Return (px of the slices, case) of ResNet-50 and of each CNN of `gold`."""
    resnet = Case("cuda", "resnet50", 64, "bf16", STEPS, (), GPU.bars, AUGMENTED)
    cases = [(256, resnet)]
    for config in load_recipe(find_recipe("gold")).stage1.models:
        settings = config.model_dump(exclude=OWN)
        backbone = config.backbone.partition(".")[0]
        case = Case("cuda", backbone, config.batch, "bf16", STEPS, (), GPU.bars, settings)
        cases.append((GOLD_SIZE, case))
    return cases


def step_shares(
    folder: Path, seconds: float = SECONDS, cases: Sequence[tuple[int, Case]] | None = None
) -> list[str]:
    """Measure `gold_cases`, or others. Returns a line for each.

    Raises AssertionError where the data path of ResNet-50 is below its bar; of the others none is
    known.
    """
    inputs, lines, missed = {}, [], []
    for size, case in cases or gold_cases():
        if size not in inputs:
            (folder / str(size)).mkdir()
            inputs[size] = inputs_of(make_cache(folder / str(size), size))
        if case.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        start, bench = time.perf_counter(), Bench(case, inputs[size])
        with torch_settings(bench.config):
            rounds = bench.rounds(seconds)
        speed, bare = (bench.median(rounds, way, clock=True) for way in (PATH, IMAGES))
        shares = [1 - bench.median(rounds, PATH, way, clock=True) for way in (IMAGES, HU)]
        memory = torch.cuda.max_memory_allocated() / 2**30 if case.device == "cuda" else 0
        lines.append(
            f"{case.backbone}, {size} px, batch {case.batch}, {case.precision}: {speed:,.0f} "
            f"images/s, {bare:,.0f} of a bare step; not the CNN {shares[0]:.1%}, of it waiting for "
            f"slices {shares[1]:.1%}; {memory:.1f} GB; {time.perf_counter() - start:.0f} s"
        )
        print(lines[-1], flush=True)
        for (slower, faster), bar in case.bars.items():
            ratio = bench.median(rounds, slower, faster)
            if case.backbone == "resnet50" and ratio < bar:
                missed.append(f"{case.backbone}: {slower} at {ratio:.3f} of {faster}, bar {bar}")
    assert not missed, "; ".join([*lines, *missed])
    return lines
