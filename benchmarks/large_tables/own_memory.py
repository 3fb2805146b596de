"""The memory and the processor time that a piece of work takes in this process."""

import contextlib
import threading
import time
from pathlib import Path

STEP = 0.005  # seconds between two samples


class Cost:
    """What the work took: memory of its own at the peak, bytes; processor seconds."""

    memory = cpu = 0


def own_memory():
    """Return the bytes of memory of this process that no file backs.

    Memory maps are left out: processes share them, and the system drops them when it must.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def measured():
    """Yield a Cost that is filled in when the block ends; imports come before it."""
    cost, over, start = Cost(), threading.Event(), own_memory()

    def sample():
        while not over.wait(STEP):
            cost.memory = max(cost.memory, own_memory() - start)

    thread, cpu = threading.Thread(target=sample, daemon=True), time.process_time()
    thread.start()
    yield cost
    cost.cpu = time.process_time() - cpu
    over.set()
    thread.join()
    cost.memory = max(cost.memory, own_memory() - start)
