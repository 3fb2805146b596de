"""Which units run at the same time on a machine: within its GPUs, cores and memory."""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.units.unit import Resources

# threads of one LightGBM fit at most: on hundreds of thousands of rows, more gain little
MOST_THREADS = 8

CPU = "cpu"  # among devices: a place for one unit on the CPU, in place of a GPU


class Machine(NamedTuple):
    """What units may use of a machine."""

    cores: int
    memory_mb: int
    devices: tuple[str, ...] = ()  # names of GPUs, or CPU
    most: int | None = None  # units at the same time that take no device; None: as cores allow


class Placement:
    """What running units leave of a machine.

    A unit that takes more than there is runs alone: its resources count as those of the machine.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.cores, self.memory_mb = machine.cores, machine.memory_mb
        self.devices = list(machine.devices)
        self.without_device = 0  # running units

    def start(self, takes: Resources) -> str | None:
        """Start a unit where it fits. Returns its device, "" for none; None where it must wait."""
        needs_device = takes.gpus > 0 and bool(self.machine.devices)
        cores, memory_mb = self._counted(takes)
        if cores > self.cores or memory_mb > self.memory_mb:
            return None
        if needs_device and not self.devices:
            return None
        if not needs_device and self.without_device == (self.machine.most or self.machine.cores):
            return None
        self.cores -= cores
        self.memory_mb -= memory_mb
        if needs_device:
            return self.devices.pop(0)
        self.without_device += 1
        return ""

    def end(self, takes: Resources, device: str) -> None:
        """Free what a unit took. device: as `start` returned it"""
        cores, memory_mb = self._counted(takes)
        self.cores += cores
        self.memory_mb += memory_mb
        if device:
            self.devices.append(device)
        else:
            self.without_device -= 1

    def _counted(self, takes: Resources) -> tuple[int, int]:
        """Return the (cores, memory in MB) that count for a unit."""
        cores, memory_mb = min(takes.cores, self.machine.cores), takes.memory_mb
        if takes.gpus and self.machine.devices:
            # every device has a unit, also where there are fewer cores than their threads
            cores = min(cores, self.machine.cores // len(self.machine.devices))
            if CPU not in self.machine.devices:
                memory_mb = takes.memory_with_gpu_mb
        return cores, min(memory_mb, self.machine.memory_mb)


def at_once(machine: Machine, units: Sequence[Resources]) -> int:
    """Return how many of the first units start at the same time on a free machine."""
    placement = Placement(machine)
    return sum(placement.start(takes) is not None for takes in units)


def threads_each(cores: int, units: int) -> int:
    """Return the threads that each of so many units gets whose result does not depend on them.

    cores: that the units may use altogether. Where there are more units than cores, one each.
    """
    return max(1, min(MOST_THREADS, cores // max(1, units)))
