"""The engine that a verb's options choose."""

import contextlib
import os
from collections.abc import Iterator

from ct.config import Config
from ct.errors import InputError
from pipeline.engines.local_engine import LocalEngine, chosen_devices
from pipeline.engines.shard_engine import ShardEngine
from pipeline.units.unit import Engine


@contextlib.contextmanager
def chosen_engine(options: Config) -> Iterator[Engine]:
    """Yield the engine of a verb's options; what it has started ends with the block.

    Raises InputError where they name a GPU that is not there, and for a shard, Ray or named GPUs
    under torchrun.
    """
    workers, gpus = getattr(options, "workers", None), getattr(options, "gpus", None)
    shard, is_ray = getattr(options, "shard", None), getattr(options, "engine", "") == "ray"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if shard or is_ray:
            flag = f"--shard={shard}" if shard else "--engine=ray"
            raise InputError(f"{flag}: not under torchrun, whose processes do all units")
        if gpus:
            raise InputError(
                f"--gpus={gpus}: not under torchrun, whose processes take the visible GPUs in "
                "turn; choose them with CUDA_VISIBLE_DEVICES"
            )
        yield LocalEngine(workers=1, devices=())  # all processes of torchrun do one unit together
        return
    devices = chosen_devices(gpus) if gpus else None
    if is_ray:
        from pipeline.engines.ray_engine import RayEngine

        with RayEngine(getattr(options, "address", None), workers, devices) as engine:
            yield engine
        return
    local = LocalEngine(workers, devices, wait_for_locks=not shard)
    if shard:
        number, count = map(int, shard.split("/"))
        yield ShardEngine(number, count, local)
    else:
        yield local
