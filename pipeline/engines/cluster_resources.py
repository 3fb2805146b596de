"""What a unit asks of a cluster's machines, and how many units they run at the same time."""

from collections.abc import Sequence
from typing import NamedTuple

from ct.errors import number_of
from pipeline.units.unit import Resources


class Node(NamedTuple):
    """A machine of a cluster: all that it has, in use or not."""

    name: str
    cores: int
    gpus: int
    memory_mb: int


def ask(takes: Resources, nodes: Sequence[Node], had_gpus: bool = False) -> Resources:
    """Return what a unit asks for: what it takes, or all of the best machine.

    A unit that takes a GPU asks for one where any machine has one, or had one (`had_gpus`): on a
    processor it would take days. It asks for no more cores than a machine has for each GPU: all
    GPUs shall have a unit.
    """
    with_gpus = [node for node in nodes if node.gpus]
    gpus = 1 if takes.gpus and (with_gpus or had_gpus) else 0
    cores = takes.cores
    if gpus:
        cores = min([cores, *(max(1, node.cores // node.gpus) for node in with_gpus)])
    asks = Resources(cores, gpus, takes.memory_with_gpu_mb if gpus else takes.memory_mb)
    candidates = [node for node in (with_gpus if gpus else nodes) if node.cores]
    if not candidates or any(fits(asks, node) for node in candidates):
        return asks
    best = max(candidates, key=lambda node: (node.memory_mb, node.cores))
    return Resources(min(cores, best.cores), gpus, min(asks.memory_mb, best.memory_mb))


def fits(asks: Resources, node: Node) -> bool:
    """Return whether a machine has what a unit asks for, while it runs no other."""
    return asks.cores <= node.cores and asks.gpus <= node.gpus and asks.memory_mb <= node.memory_mb


def at_once(asks: Sequence[Resources], nodes: Sequence[Node], workers: int | None = None) -> int:
    """Return how many of the first units start at the same time on free machines.

    workers: limit of those that ask for no GPU
    """
    free, started, without_gpu = list(nodes), 0, 0
    for wanted in asks:
        number = next((n for n, node in enumerate(free) if fits(wanted, node)), None)
        if number is None or (not wanted.gpus and without_gpu == workers):
            continue
        node, started = free[number], started + 1
        without_gpu += not wanted.gpus
        free[number] = node._replace(
            cores=node.cores - wanted.cores,
            gpus=node.gpus - wanted.gpus,
            memory_mb=node.memory_mb - wanted.memory_mb,
        )
    return started


def shown(asks: Resources) -> str:
    """Return what a unit asks for in words."""
    gpu = f"{asks.gpus} GPU, " if asks.gpus else ""
    return f"{gpu}{number_of(asks.cores, 'core')} and {asks.memory_mb / 1024:.1f} GB of memory"
