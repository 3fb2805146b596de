"""The training step with the whole data path, compared with a step on images on the device.

    python -m benchmarks.train_step [--quick]      --quick: fewer rounds, five minutes at most

The data path: pixel cache on disk, read ahead, augmentation, windows. Prints one table; exits with
1 below a bar. Both take turns in one process; a ratio is the median over the rounds. On a GPU: a
ResNet-50 in bfloat16, by the clock. On the CPU: a ResNet-18 in float32, one thread of one core, in
seconds of that core, so that no second core hides the reading and other processes do not count. The
clock's ratio is printed beside it.
"""

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import run as command_line
from benchmarks.command_line import flag_parser
from ct.labels import LABELS
from pipeline.progress import no_bar
from pipeline.run_context import Run
from pipeline.training.stage_one_inputs import StageOneInputs
from stage1_cnn.batches.augment import augment, to_channels
from stage1_cnn.batches.batch_reader import read_ahead
from stage1_cnn.batches.dataset import fold_rows, shuffled, training_steps
from stage1_cnn.batches.head_crop import crop_to_head
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import mixed_precision, torch_settings
from stage1_cnn.model import build_model
from stage1_cnn.train_loop import Hooks, TrainLoop
from stage1_cnn.training_step import Trainer, weighted_bce

SIZE, STUDIES = 256, 14  # px; about 340 slices, 280 of them in train
# on top of the defaults: flip, rotate, scale, shift
AUGMENTED = {"erase": 0.2, "hu_shift": 3.0, "hu_noise": 3.0}
IMAGES, HU, PATH = (
    "images on the device",
    "HU on the device, augmentation, windows",
    "the whole data path",
)


@dataclass(frozen=True)
class Case:
    """What is measured on one device; bars: {(slower, faster): least ratio of their images/s}.

    settings: further fields of the CNN
    """

    device: str
    backbone: str
    batch: int
    precision: str
    steps: int  # a round
    seconds: tuple  # of all rounds, quick and in full
    bars: dict
    settings: dict = field(default_factory=lambda: AUGMENTED)


CPU = Case("cpu", "resnet18", 16, "fp32", 1, (110, 600), {(PATH, IMAGES): 0.95})
GPU = Case("cuda", "resnet50", 64, "bf16", 40, (60, 180), {(PATH, HU): 0.95, (PATH, IMAGES): 0.9})


def main():
    options = flag_parser(__doc__)
    quick, missed, mine = options.parse_args().quick, [], os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory(prefix="ich-step-") as folder:
        made = make_cache(Path(folder))
        for case in (CPU, GPU):
            if case is GPU and not torch.cuda.is_available():
                print("no GPU here: nothing measured on CUDA")
                continue
            os.sched_setaffinity(0, sorted(mine)[:1] if case is CPU else mine)
            # its cache reads with as many threads as cores
            inputs = StageOneInputs(Run(made, log=lambda line: None, bar=no_bar))
            missed += Bench(case, inputs).report(case.seconds[0 if quick else 1])
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


def make_cache(folder, size=SIZE, studies=STUDIES):
    """Write example slices and ingest them, by the verbs. Returns the run folder."""
    data, made = folder / "data", folder / "run"
    recipe = folder / "step.yaml"
    recipe.write_text(
        f"name: step\npixels: {{size: {size}}}\nstage1: "
        f"{{models: [{{name: a, backbone: test_resnet}}]}}\n"
    )
    with contextlib.redirect_stdout(io.StringIO()):
        for words in (
            ["synth", f"--out={data}", f"--studies={studies}"],
            ["new", f"--run={made}", f"--recipe={recipe}", f"--data={data}"],
            ["ingest", f"--run={made}"],
            ["folds", f"--run={made}"],
        ):
            if command_line.main(words):
                raise SystemExit(f"{' '.join(words)} failed")
    return made


class Bench:
    """One case: a Trainer, and the ways to give it work."""

    def __init__(self, case, inputs):
        self.case, self.inputs = case, inputs
        self.on_cpu = case.device == "cpu"
        self.config = CnnConfig(
            name="a",
            backbone=case.backbone,
            batch=case.batch,
            precision=case.precision,
            threads=1,
            deterministic=self.on_cpu,
            **case.settings,
        )
        train, _ = fold_rows(inputs.slices, inputs.fold, 0)
        rounds = -(-case.batch * case.steps // len(train))
        rows = np.concatenate([shuffled(train, seed) for seed in range(rounds)])[
            : case.batch * case.steps
        ]
        self.order = training_steps(rows, case.batch)
        self.labels = np.nan_to_num(inputs.slices[list(LABELS)].to_numpy(np.float32))
        model = build_model(self.config, 0, self.labels[train].mean(axis=0)).to(case.device)
        self.trainer = Trainer(model, self.config, 10**6, 0, print)
        neighbours = inputs.neighbours(self.config.neighbours)
        self.loop = TrainLoop(inputs.slices, self.labels, inputs.cache.read, self.trainer, Hooks())
        rows, hu = next(read_ahead(inputs.cache.read, neighbours, self.order, case.device))
        self.hu, self.truth = hu.clone(), torch.from_numpy(self.labels[rows]).to(case.device)
        self.images = to_channels(self.hu, self.config)

    def report(self, seconds):
        """Measure for about so many seconds, print the table, and return what misses its bar."""
        with torch_settings(self.config):
            rounds = self.rounds(seconds)
            reading, parts = self.reading(), self.parts(5 if self.on_cpu else 30)
            crop = self.cropping(5 if self.on_cpu else 30)
        where = "one thread of one CPU core" if self.on_cpu else torch.cuda.get_device_name()
        print(
            f"{self.case.backbone}, {self.case.precision}, batch {self.case.batch}, {SIZE} px, "
            f"{where}: "
            f"{len(rounds)} rounds of {self.case.steps * self.case.batch} images each way"
        )
        print(f"{'a step on':42} images/s  by the clock  ratio (bar)")
        missed = []
        for way in self.ways():
            speeds = [self.median(rounds, way, clock=clock) for clock in (False, True)]
            cells = []
            for (slower, faster), bar in self.case.bars.items():
                if slower == way:
                    ratio, clock = (
                        self.median(rounds, way, faster, clock) for clock in (False, True)
                    )
                    cells.append(
                        f"{ratio:.3f} of {faster} "
                        f"({bar}){f', by the clock {clock:.3f}' if self.on_cpu else ''}"
                    )
                    if ratio < bar:
                        missed.append(
                            f"{self.case.device}: {way} runs at {ratio:.3f} of {faster}, the bar "
                            f"is {bar}"
                        )
            print(f"{way:42} {speeds[0]:8.1f}  {speeds[1]:12.1f}  {', '.join(cells)}")
        print(f"{'no step: the data path alone, cache to HU':42} {reading:8.0f}")
        whole = sum(parts.values())
        print(
            "of a step: " + ", ".join(f"{name} {took / whole:.1%}" for name, took in parts.items()),
        )
        print(
            f"crop_head: {self.case.batch / crop:.0f} images/s alone, {crop / whole:.1%} of a step",
            flush=True,
        )
        return missed

    def median(self, rounds, way, against=None, clock=False):
        """Return the median over the rounds of images/s, or of the ratio to another way's."""
        images = self.case.batch * self.case.steps
        return statistics.median(
            (times[against][clock] if against else images) / times[way][clock] for times in rounds
        )

    def ways(self):
        """{what the steps of a round begin with: function that takes them}."""
        ways = {IMAGES: self.on_images, HU: self.on_hu, PATH: self.whole}
        needed = {way for pair in self.case.bars for way in pair}
        return {way: ways[way] for way in ways if way in needed}

    def rounds(self, seconds):
        """Let the ways take turns, in changing order.

        Returns one dict per round: way -> `timed` of its steps.
        """
        ways, rounds = self.ways(), []
        for take in ways.values():
            self.timed(take)  # warms up
        start = time.perf_counter()
        while len(rounds) < 3 or time.perf_counter() - start < seconds:
            turns = list(ways.items())[:: -1 if len(rounds) % 2 else 1]
            rounds.append({way: self.timed(take) for way, take in turns})
        return rounds

    def timed(self, function):
        """Return the seconds of a function until the device is done.

        Seconds of the core on the CPU, and by the clock.
        """
        self.wait()
        start, spent = time.perf_counter(), time.process_time()
        function()
        self.wait()
        clock, spent = time.perf_counter() - start, time.process_time() - spent
        return (spent if self.on_cpu else clock), clock

    def wait(self):
        if not self.on_cpu:
            torch.cuda.synchronize()

    def whole(self):
        """Training as it is, a fresh epoch of `steps`: it waits for its first batch."""
        self.loop.run_epoch(self.order, {"epoch": 1, "step": 0, "loss_sum": 0.0})

    def on_hu(self):
        """The same without reading."""
        self.steps(lambda: self.trainer.step(self.hu, self.truth, len(self.hu)))

    def on_images(self):
        """Without reading, augmentation and windows."""
        self.steps(self.bare_step)

    def steps(self, step):
        """Take the steps of a round; each loss is read after the next step, as training does."""
        losses = []
        for _ in range(self.case.steps):
            losses.append(step())
            if len(losses) > 1:
                float(losses[-2])
        float(losses[-1])

    def bare_step(self):
        """One step in its plainest form: forward, loss, backward, clipping, AdamW."""
        trainer = self.trainer
        trainer.model.train()
        trainer.optimizer.zero_grad(set_to_none=True)
        with mixed_precision(self.config, trainer.device):
            logits, _ = trainer.model(self.images)
        loss = weighted_bce(logits, self.truth, trainer.weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), self.config.clip)
        trainer.optimizer.step()
        return loss.detach()

    def reading(self):
        """Return images/s from the cache to HU on the device, without training."""
        order = self.order * max(1, 2000 // (self.case.batch * self.case.steps))

        def read():
            for _ in read_ahead(
                self.inputs.cache.read,
                self.inputs.neighbours(self.config.neighbours),
                order,
                self.case.device,
            ):
                pass

        return (
            self.case.batch * len(order) / statistics.median(self.timed(read)[0] for _ in range(5))
        )

    def cropping(self, repeats):
        """Return the seconds that the crop to the head takes for a batch, which no step has."""
        config = self.config.model_copy(update={"crop_head": True})
        return statistics.median(
            self.timed(lambda: crop_to_head(self.hu, config))[0] for _ in range(repeats)
        )

    def parts(self, repeats):
        """{part of a step: seconds}, each alone and the median of a few."""
        trainer, kept = self.trainer, {}

        def forward():
            trainer.optimizer.zero_grad(set_to_none=True)
            with mixed_precision(self.config, trainer.device):
                logits, _ = trainer.model(self.images)
            kept["loss"] = weighted_bce(logits, self.truth, trainer.weights)

        def update():
            torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), self.config.clip)
            trainer.optimizer.step()

        parts = {
            "augmentation": lambda: kept.update(
                hu=augment(self.hu.float(), self.config, trainer.generator)
            ),
            "windows": lambda: to_channels(kept["hu"], self.config),
            "forward": forward,
            "backward": lambda: kept["loss"].backward(),
            "optimizer": update,
        }
        took = [{name: self.timed(part)[0] for name, part in parts.items()} for _ in range(repeats)]
        return {name: statistics.median(times[name] for times in took) for name in parts}


if __name__ == "__main__":
    sys.exit(main())
