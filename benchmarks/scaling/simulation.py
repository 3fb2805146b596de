"""Simulate stages of units with stated times on machines, by the engines' own rule of placement."""

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.scaling.gold_units import StatedStage, StatedUnit
from pipeline.engines.placement import Machine, Placement


class Simulated(NamedTuple):
    """A stage of a simulated run."""

    name: str
    seconds: float
    bound: str  # what keeps it from being faster


def simulate(machines: Sequence[Machine], units: Iterable[StatedUnit]) -> float:
    """Return the seconds until all units are done.

    Units start in their order, each on the first machine where it fits, as soon as its needs are
    done; one that does not fit lets later ones pass.
    """
    placements = [Placement(machine) for machine in machines]
    waiting, not_done = list(units), set[str]()
    not_done.update(unit.name for unit in waiting)
    running: list[tuple[float, int, StatedUnit, Placement, str]] = []  # a heap by end
    now, count = 0.0, 0
    while waiting or running:
        left = []
        for unit in waiting:
            place = None if not_done.intersection(unit.needs) else _start(placements, unit)
            if place is None:
                left.append(unit)
                continue
            count += 1
            heapq.heappush(running, (now + unit.seconds, count, unit, *place))
        waiting = left
        now, _, unit, placement, device = heapq.heappop(running)
        placement.end(unit.takes, device)
        not_done.discard(unit.name)
    return now


def _start(placements: Sequence[Placement], unit: StatedUnit) -> tuple[Placement, str] | None:
    """Start a unit on the first machine where it fits. Returns (machine, device) or None."""
    for placement in placements:
        device = placement.start(unit.takes)
        if device is not None:
            return placement, device
    return None


def simulate_stages(machines: Sequence[Machine], stages: Iterable[StatedStage]) -> list[Simulated]:
    """Return the stages of a run: one after the other, each with its join at the end."""
    simulated = []
    for stage in stages:
        units = simulate(machines, stage.units)
        seconds = max(units, stage.disk) + stage.join
        simulated.append(Simulated(stage.name, seconds, _bound(machines, stage, units)))
    return simulated


def _bound(machines: Sequence[Machine], stage: StatedStage, seconds: float) -> str:
    """Return what a stage waits for most of the time."""
    if not stage.units:
        return "one process"
    if stage.disk > seconds:
        return "the shared disk"
    if stage.join > seconds:
        return "its join, one process"
    longest = max(stage.units, key=lambda unit: unit.seconds)
    if longest.seconds > 0.9 * seconds:
        return f"the longest unit, {longest.name}"
    return "GPUs" if longest.takes.gpus else "cores"
