"""The engine that a verb's options choose."""

import os

from pipeline.checked_options import RunOptions, ScoreOptions
from pipeline.engines.local_engine import LocalEngine, chosen_devices
from pipeline.units.unit import Engine


def choose_engine(options: RunOptions | ScoreOptions) -> Engine:
    """Return the engine of a verb's options.

    Raises InputError where they name a GPU that is not there.
    """
    workers, gpus = getattr(options, "workers", None), getattr(options, "gpus", None)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return LocalEngine(workers=1, devices=())  # all processes of torchrun do one unit together
    return LocalEngine(workers, chosen_devices(gpus) if gpus else None)
