"""One thread for the library of linear algebra (BLAS).

The last bits of its sums and products depend on how many threads share them, and a machine's cores,
a job's share of them and an engine's variables all decide that number. On one thread they are the
same everywhere on one kind of processor. Work runs side by side in units and fits instead.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run the block with one BLAS thread, in all threads of the process.

    Libraries that are loaded in the block are not limited: import what uses them before it.
    LightGBM's and torch's own threads stay.
    """
    with threadpool_limits(1, "blas"):
        yield
