"""Several processes that train one CNN together, as torchrun starts them.

Without torchrun a process is rank 0 of 1.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# how long the others wait while one rank works alone, such as rank 0 while it joins a table
TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Process:
    """The number of a process, from 0, and how many there are."""

    rank: int = 0
    world_size: int = 1


def this_process() -> Process:
    """Return the rank of this process, and the number of processes."""
    return Process(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Process()


@contextmanager
def process_group() -> Iterator[Process]:
    """Context in which the processes of torchrun communicate.

    By NCCL where there is CUDA, with one device for each process; else by gloo.
    """
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)
    yield this_process()
    # not after an error: the others may be waiting in an all-reduce; torchrun ends them
    dist.destroy_process_group()


def broadcast(value: Any) -> Any:
    """Broadcast a plain value from rank 0. Returns it; a no-op without torch.distributed."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
    return values[0]


def barrier() -> None:
    """Wait until every process has called this; a no-op without torch.distributed."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(1))  # on the CPU, where both backends of process_group work
