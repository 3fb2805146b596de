"""The engine that a verb's options choose."""

import os

from ct.errors import InputError
from pipeline.checked_options import RunOptions, ScoreOptions
from pipeline.engines.local_engine import LocalEngine, chosen_devices
from pipeline.engines.shard_engine import ShardEngine
from pipeline.units.unit import Engine


def choose_engine(options: RunOptions | ScoreOptions) -> Engine:
    """Return the engine of a verb's options.

    Raises InputError where they name a GPU that is not there, and for a shard under torchrun.
    """
    workers, gpus = getattr(options, "workers", None), getattr(options, "gpus", None)
    shard = getattr(options, "shard", None)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if shard:
            raise InputError(f"--shard={shard}: not under torchrun, whose processes do all units")
        return LocalEngine(workers=1, devices=())  # all processes of torchrun do one unit together
    local = LocalEngine(workers, chosen_devices(gpus) if gpus else None, wait_for_locks=not shard)
    if shard:
        number, count = map(int, shard.split("/"))
        return ShardEngine(number, count, local)
    return local
