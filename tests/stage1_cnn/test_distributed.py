"""The GPU and the backend of each process that torchrun starts. Runs without a GPU."""

import pytest
import torch
import torch.distributed as dist

from stage1_cnn.distributed import process_group

OWN = "cpu:gloo,cuda:nccl"


@pytest.mark.parametrize(
    ("gpus", "processes", "rank", "number", "backend"),
    [
        (2, 2, 1, 1, OWN),
        (4, 2, 1, 1, OWN),
        (1, 2, 1, 0, "gloo"),  # NCCL refuses two processes on one GPU
        (2, 4, 3, 1, "gloo"),
        (0, 2, 1, None, "gloo"),
    ],
)
def test_processes_get_the_gpus_in_turn(gpus, processes, rank, number, backend, monkeypatch):
    devices, backends = [], []
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(dist, "init_process_group", lambda name, timeout: backends.append(name))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: backends.append("ended"))
    with process_group():
        assert devices == [number] * (gpus > 0) and backends == [backend]
    assert backends == [backend, "ended"]
