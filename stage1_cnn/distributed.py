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

    By NCCL where each process has a GPU of its own; else by gloo.
    """
    dist.init_process_group(_use_gpu_of_rank(), timeout=TIMEOUT)
    yield this_process()
    # not after an error: the others may be waiting in an all-reduce; torchrun ends them
    dist.destroy_process_group()


def _use_gpu_of_rank() -> str:
    """Make one of the visible GPUs the current one of this process. Returns the backend.

    Where a machine has more processes than GPUs, they share them. NCCL refuses two processes on
    one GPU; gloo copies by way of the CPU.
    """
    if not torch.cuda.is_available():
        return "gloo"
    gpus, processes = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
    return "cpu:gloo,cuda:nccl" if processes <= gpus else "gloo"


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
