"""Tiny units of work for the tests of engines; importable by worker processes."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from ct.errors import InputError
from pipeline.units.unit import Resources, Unit
from stage1_cnn.config import GPU_OF_PROCESS


class NotANumber(InputError):
    """Like stage1_cnn.train_loop's: pickle cannot make it from its text."""

    def __init__(self, message, batch):
        super().__init__(message)
        self.batch = batch


@dataclass(frozen=True)
class Note(Unit):
    """Writes one file: the process, its devices, and when it began and ended."""

    number: int
    seconds: float = 0.0
    together: tuple[int, ...] = ()  # it ends only when those have begun
    after: tuple[int, ...] = ()
    cores: int = 1
    gpus: int = 0
    memory_mb: int = 0
    killed: int = 0  # times that its process is killed
    error: str = ""
    environment: str = "CUDA_VISIBLE_DEVICES"  # variable that it writes in place of the devices

    @property
    def name(self):
        return f"notes/{self.number}"

    @property
    def needs(self):
        return tuple(f"notes/{number}" for number in self.after)

    @property
    def path(self):
        return Path(self.root) / f"{self.number}.txt"

    def takes(self):
        return Resources(self.cores, self.gpus, self.memory_mb)

    def why_not_done(self, verify=False):
        return "" if self.path.exists() else "not made yet"

    def run(self, log, bar):
        attempts = Path(self.root) / f"{self.number}.attempts"
        with open(attempts, "a", encoding="utf-8") as file:
            file.write("x")
        if attempts.stat().st_size <= self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.error == "not a number":
            raise NotANumber(self.error, {"slice_ids": []})
        for number in self.after:
            assert (Path(self.root) / f"{number}.txt").exists()
        start = time.time()
        with bar(2, f"note {self.number}", "step") as steps:
            steps.update()
            time.sleep(self.seconds)
            for number in self.together:
                _wait_for(Path(self.root) / f"{number}.attempts")
        if self.error:
            raise InputError(self.error)
        log(f"  line of {self.number}")
        devices = os.environ.get(self.environment, "unset")
        text = f"{os.getpid()} {devices or 'none'} {start} {time.time()}"
        part = self.path.with_suffix(".part")
        part.write_text(text)
        part.rename(self.path)

    def summary(self):
        return f"note {self.number}"


@dataclass(frozen=True)
class PickDevice(Note):
    """Chooses its device as a training does, then writes the variable of the process's GPU."""

    environment: str = GPU_OF_PROCESS

    def run(self, log, bar):
        from stage1_cnn.device import pick_device  # loads torch

        pick_device()
        super().run(log, bar)


def _wait_for(path, seconds=30):
    end = time.time() + seconds
    while not path.exists():
        assert time.time() < end, f"{path.name} did not begin"
        time.sleep(0.01)


def read(unit):
    """(process, devices, start, end) that a finished Note wrote."""
    process, devices, start, end = unit.path.read_text().split()
    return int(process), devices, float(start), float(end)


def overlap(one, other):
    """Whether two finished Notes ran at the same time."""
    (*_, start, end), (*_, other_start, other_end) = read(one), read(other)
    return start < other_end and other_start < end
