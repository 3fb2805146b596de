"""The interface of a unit of work, and of an engine that runs units.

A unit is a frozen dataclass of plain values: an engine sends it to another process or machine. It
reads and writes the run folder alone; no array passes through an engine. Running it twice does
nothing the second time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pipeline.progress import Bar

Log = Callable[[str], None]  # is called with a line
MakeBar = Callable[[int | None, str, str], Bar]  # as pipeline.progress.progress_bar


class Resources(NamedTuple):
    """What a unit takes while it runs."""

    cores: int = 1
    gpus: int = 0  # where the machine has none, the unit runs on its cores
    memory_mb: int = 0  # at its peak, without memory maps that processes share
    memory_with_gpu_mb: int = 0  # of the machine's memory where it runs on a GPU


@dataclass(frozen=True)
class Unit(ABC):
    """One piece of a stage's work."""

    root: str  # the run folder

    @property
    @abstractmethod
    def name(self) -> str:
        """Return its name, such as "train/resnet/fold0"; the stage comes first."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the names of the units of the same stage that must be done before."""
        return ()

    @property
    def extends_plan(self) -> bool:
        """Return whether the stage can plan more units once this one is done."""
        return False

    @property
    def is_brief(self) -> bool:
        """Return whether it takes seconds: a bar counts such units, and they show none."""
        return False

    def takes(self) -> Resources:
        """Return what it takes while it runs."""
        return Resources()

    @abstractmethod
    def why_not_done(self, verify: bool = False) -> str:
        """Return why it must run, or "" where it is done.

        verify: read its files and compare them with its receipt; else compare sizes and times
        """

    @abstractmethod
    def run(self, log: Log, bar: MakeBar) -> None:
        """Do the work, and write the receipt last. The caller holds the unit's lock."""

    def summary(self) -> str:
        """Return a line for the log once it is done, "" for none."""
        return ""


class UnitsLeft(Exception):
    """Other processes have not finished all units of a stage; `left` of `total` are missing."""

    def __init__(self, left: int, total: int) -> None:
        super().__init__(f"{left} of {total} units are not done yet")
        self.left, self.total = left, total


class Engine(Protocol):
    """Runs units in this process, in other processes, or on other machines."""

    name: str  # in receipts

    def cores(self) -> int:
        """Return the processor cores that units may use altogether."""

    def at_once(self) -> int:
        """Return how many units ran at the same time in the last call of `run`, at most."""

    def run(self, units: Sequence[Unit], log: Log, bar: MakeBar) -> None:
        """Run all of `units`, each after those that it needs.

        The units of other names that a unit needs are done. Raises UnitsLeft where others do some
        of them and are not ready; InputError where a unit's process was killed again and again;
        errors of a unit unchanged.
        """
