"""Run independent jobs on the processes or threads of this machine.

The only module that starts worker processes.
"""

import collections
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from ct.errors import InputError
from ct.system.interrupts import interrupts_blocked

AHEAD = 4  # jobs per worker that are submitted and not yet yielded

Job = TypeVar("Job")
Result = TypeVar("Result")


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    function: Callable[..., Result], jobs: Iterable[tuple[Any, ...]], workers: int | None = None
) -> Iterator[Result]:
    """Yield `function(*job)` for each of `jobs`, in their order, on `workers` processes.

    workers: None for one per core. With one worker or one job everything runs in this process.

    `function` must be importable by name. Jobs are taken from the iterable a few ahead. The results
    do not depend on the number of workers. Processes are spawned: after OpenMP has run, a forked
    process can hang. Raises InputError where a worker is killed or cannot start, and errors of
    `function` unchanged.
    """
    jobs = iter(jobs)
    first = list(itertools.islice(jobs, workers or cores()))
    jobs = itertools.chain(first, jobs)
    if len(first) <= 1:
        for job in jobs:
            yield function(*job)
        return
    context = multiprocessing.get_context("spawn")
    stop, stop_sender = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        len(first), mp_context=context, initializer=_start_worker, initargs=(stop,)
    )
    pending: collections.deque[Future[Result]] = collections.deque()
    try:
        for job in jobs:
            with interrupts_blocked():
                pending.append(pool.submit(function, *job))
            if len(pending) == AHEAD * len(first):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed or could not start, perhaps because memory or open files "
            "ran out (ulimit -a); what is finished is kept, try again with fewer: --workers=1"
        ) from None
    except BaseException:
        # an interrupt, or the caller stopped the iteration: end jobs that may still run for hours
        stop_sender.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        stop_sender.close()
        stop.close()


class Worker:
    """A spawned process that runs one job after the other, in their order.

    environment: variables that it sets before it imports the module of a job
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop, self._stop_sender = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            1,
            mp_context=context,
            initializer=_start_worker,
            initargs=(self._stop, dict(environment)),
        )

    def submit(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Run `function`, which must be importable by name.

        The future raises BrokenProcessPool where the process is killed or cannot start.
        """
        with interrupts_blocked():
            return self._pool.submit(function, *arguments)

    def close(self, at_once: bool = False) -> None:
        """End the process after its jobs, or in the middle of them."""
        if at_once:
            self._stop_sender.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._stop_sender.close()
        self._stop.close()


def run_threads(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int | None = None
) -> list[Result]:
    """Return `[function(job) for job in jobs]`, computed by `workers` threads (None: one per core).

    For libraries that release Python's global lock, on data too large to copy to other processes.
    """
    pool = ThreadPoolExecutor(workers or cores())
    try:
        return list(pool.map(function, jobs))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(stop: Connection, environment: Mapping[str, str] | None = None) -> None:
    """Make this worker end with its parent, and ignore Ctrl-C.

    After a SIGKILL of the parent, a worker would otherwise write while a resumed run writes, too.

    stop: a pipe; the parent closes its other end to stop the workers in the middle of their jobs
    """
    os.environ.update(environment or {})
    parent = multiprocessing.parent_process()
    assert parent
    # Ctrl-C reaches the whole process group; only the parent reports it
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel, stop])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
