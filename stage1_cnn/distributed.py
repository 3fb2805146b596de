"""Several processes that train one CNN together, as torchrun starts them. Alone, a process is rank
0 of 1.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

# for a rank that is busy alone, such as rank 0 while it joins the parts of a table
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    world: int = 1


def here():
    """Return the Ranks of this process."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks()


@contextmanager
def joined():
    """Join the processes that torchrun started: NCCL where there is CUDA, a device each; else
    gloo.
    """
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)
    yield here()
    # not after an error: the others may wait in a sum; torchrun ends them
    dist.destroy_process_group()


def tell(value):
    """Give a plain value of rank 0 to every rank. Returns it; alone, that is all."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def wait():
    """Wait until every rank is here."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(1))  # on the CPU, where every backend of `joined` works
