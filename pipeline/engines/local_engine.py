"""The engine of one machine: units side by side on its GPUs and cores, within its memory.

Where only one unit can run at a time, it runs in this process, unless it shall see other GPUs than
this process does. Otherwise worker processes run them: one for each GPU, which sees that GPU alone,
and as many as cores and memory allow for units that take none.
"""

import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool

from ct.errors import InputError
from ct.system.machine_memory import free_memory_mb
from ct.system.parallel_jobs import Worker, cores
from pipeline.engines.placement import CPU, Machine, Placement, at_once
from pipeline.progress import Bar, no_bar
from pipeline.units.progress_files import shown_progress
from pipeline.units.unit import Log, MakeBar, Resources, Unit
from pipeline.units.unit_lock import lock_path
from pipeline.units.unit_runner import Outcome, run_in_worker, run_unit
from stage1_cnn.config import GPU_OF_PROCESS

TRIES = 3  # of a unit whose process is killed
# of units on devices, whose threads may be more than the cores: threads that wait for work would
# keep cores busy that others need. Elsewhere it makes two threads of a LightGBM fit 1.3 times as
# fast as one, not 1.9 times.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}


class LocalEngine:
    """Runs units on this machine."""

    name = "local"

    def __init__(
        self,
        workers: int | None = None,
        devices: Sequence[str] | None = None,
        wait_for_locks: bool = True,
    ) -> None:
        """workers: units at the same time that take no GPU; None: as cores and memory allow.

        devices: as `visible_gpus` returns them, or "cpu" for a place on the CPU; None: all visible
        GPUs. wait_for_locks: wait for a unit that another process does; else leave it.
        """
        self.workers, self.devices, self.wait_for_locks = workers, devices, wait_for_locks
        self._at_once = 1

    def cores(self) -> int:
        """Return the processor cores that units may use altogether."""
        return min(cores(), self.workers or cores())

    def at_once(self) -> int:
        """Return how many units ran at the same time in the last call of `run`, at most."""
        return self._at_once

    def run(self, units: Sequence[Unit], log: Log, bar: MakeBar) -> None:
        """Run units as `Engine.run` describes."""
        if not units:
            return
        machine = self.machine(units)
        takes = [[unit.takes() for unit in level] for level in levels(units)]
        self._at_once = max(at_once(machine, level) for level in takes)
        if self._at_once == 1 and not self._needs_worker(machine):
            self._run_here(units, log, bar)
            return
        with (
            _stage_bar(units, bar) as stage_bar,
            shown_progress(lock_path(units[0]).parent, stage_bar),
        ):
            _Workers(machine, self.wait_for_locks, log, stage_bar).run(units)

    def _needs_worker(self, machine: Machine) -> bool:
        """Return whether the chosen devices are others than the GPUs that this process sees.

        CUDA reads CUDA_VISIBLE_DEVICES once. That may have happened here, when the GPUs were
        counted: a change would come too late, and a unit would run on the wrong GPU.
        """
        chosen = machine.devices and self.devices is not None
        return bool(chosen) and list(machine.devices) != (visible_gpus() or [CPU])

    def _run_here(self, units: Sequence[Unit], log: Log, bar: MakeBar) -> None:
        """Run units in this process, one after the other."""
        brief = all(unit.is_brief for unit in units)
        with _stage_bar(units, bar if brief else no_bar) as stage_bar:
            for level in levels(units):
                for unit in level:
                    run_unit(unit, self.wait_for_locks, log, no_bar if brief else bar)
                    stage_bar.update()

    def machine(self, units: Sequence[Unit]) -> Machine:
        """Return what units may use of this machine."""
        devices: Sequence[str] = ()
        if any(unit.takes().gpus for unit in units):  # only then torch must be imported
            devices = visible_gpus() if self.devices is None else self.devices
        return Machine(cores(), free_memory_mb(), tuple(devices), self.workers)


def levels(units: Sequence[Unit]) -> list[list[Unit]]:
    """Return units in groups, each after the groups with the units that its units need."""
    groups, waiting = list[list[Unit]](), list(units)
    while waiting:
        names = {unit.name for unit in waiting}
        groups.append([unit for unit in waiting if not names.intersection(unit.needs)])
        ready = {unit.name for unit in groups[-1]}
        waiting = [unit for unit in waiting if unit.name not in ready]
    return groups


def _stage_bar(units: Sequence[Unit], bar: MakeBar) -> Bar:
    """Return a bar that counts the units of a stage."""
    return bar(len(units), units[0].name.partition("/")[0], "unit")


def visible_gpus() -> list[str]:
    """Return the names of the GPUs that torch finds, as in CUDA_VISIBLE_DEVICES."""
    import torch

    count, words = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = [word.strip() for word in words if word.strip()]
    # of several instances of a GPU, CUDA shows a process the first one alone
    if count and names and all(name.startswith("MIG-") for name in names):
        return names
    return names[:count] if names else [str(number) for number in range(count)]


def chosen_devices(words: str) -> list[str]:
    """Return the devices of `--gpus`: numbers of visible GPUs, or "cpu", separated by commas.

    Raises InputError where there is no such GPU.
    """
    devices, visible = [], visible_gpus()
    for word in words.split(","):
        if word != CPU and int(word) >= len(visible):
            raise InputError(f"--gpus={words}: torch finds {len(visible)} GPUs here, no GPU {word}")
        devices.append(CPU if word == CPU else visible[int(word)])
    return devices


def device_environment(device: str) -> dict[str, str]:
    """Return the environment of a process that sees one GPU; "" and "cpu": none."""
    gpu = "" if device == CPU else device
    visible = {"CUDA_VISIBLE_DEVICES": gpu, GPU_OF_PROCESS: gpu}
    return PASSIVE | visible if device else visible


class _Workers:
    """Worker processes that run the units of one call."""

    def __init__(self, machine: Machine, wait_for_locks: bool, log: Log, bar: Bar) -> None:
        self.placement, self.wait_for_locks = Placement(machine), wait_for_locks
        self.log, self.bar = log, bar
        self.idle: dict[str, list[Worker]] = {}  # by device
        self.running: dict[Future[Outcome], tuple[Unit, Worker, str]] = {}
        self.tries: dict[str, int] = {}

    def run(self, units: Sequence[Unit]) -> None:
        """Run units, each after those that it needs."""
        waiting, not_done = list(units), {unit.name for unit in units}
        try:
            while waiting or self.running:
                waiting = self._start_ready(waiting, not_done)
                for future in wait(self.running, return_when=FIRST_COMPLETED).done:
                    unit = self._end(future)
                    if future.exception() is None:
                        not_done.discard(unit.name)
                    else:
                        waiting.insert(0, unit)
        except BaseException:
            self._close(at_once=True)  # an error or an interrupt: the rest may run for hours
            raise
        self._close()

    def _start_ready(self, waiting: Sequence[Unit], not_done: set[str]) -> list[Unit]:
        """Start the units that fit and whose needs are done. Returns the others."""
        left, refused = [], set[Resources]()
        for unit in waiting:
            takes = unit.takes()
            ready = takes not in refused and not not_done.intersection(unit.needs)
            device = self.placement.start(takes) if ready else None
            if device is not None:
                self._start(unit, device)
                continue
            if ready:
                refused.add(takes)  # a later unit that takes as much does not fit either
            left.append(unit)
        return left

    def _start(self, unit: Unit, device: str) -> None:
        """Start a unit in an idle worker of this device, or in a new one."""
        idle = self.idle.setdefault(device, [])
        worker = idle.pop() if idle else Worker(device_environment(device))
        try:
            future = worker.submit(run_in_worker, unit, self.wait_for_locks)
        except BrokenProcessPool:  # it was killed while it was idle
            worker.close(at_once=True)
            self._start(unit, device)
        else:
            self.running[future] = unit, worker, device

    def _end(self, future: "Future[Outcome]") -> Unit:
        """Log the lines of a unit that has ended, and free what it took. Returns the unit.

        Raises the unit's error, and InputError where its process was killed TRIES times.
        """
        unit, worker, device = self.running.pop(future)
        self.placement.end(unit.takes(), device)
        try:
            outcome = future.result()
        except BrokenProcessPool:
            worker.close(at_once=True)
            self._count_kill(unit)
            return unit
        self.idle[device].append(worker)
        if outcome.error is not None:
            raise outcome.error
        for line in outcome.lines:
            self.log(line)
        self.bar.update()
        return unit

    def _count_kill(self, unit: Unit) -> None:
        tries = self.tries[unit.name] = self.tries.get(unit.name, 0) + 1
        if tries == TRIES:
            raise InputError(
                f"the process of {unit.name} was killed or could not start, {TRIES} times, perhaps "
                "because memory or open files ran out (ulimit -a); what is finished is kept, try "
                "again with fewer: --workers=1"
            )
        self.log(f"  {unit.name}: its process was killed; it is tried again")

    def _close(self, at_once: bool = False) -> None:
        """End all workers. at_once: in the middle of their units"""
        workers = [worker for _, worker, _ in self.running.values()]
        for worker in (*workers, *(each for idle in self.idle.values() for each in idle)):
            worker.close(at_once)
