"""Runs independent jobs on the processes of this machine. The only module that knows how."""

import collections
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from ct.errors import InputError

AHEAD = 4  # jobs that wait or are done but not fetched, for each worker


def cores():
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(function, jobs, workers=None):
    """Yield `function(*job)` for each of `jobs`, in their order, on `workers` processes (the machine's cores if None).

    With one worker or one job everything runs in this process. Jobs are taken as they are needed, a few ahead. `function` must
    be importable by name. Its results depend on the jobs alone, never on the number of workers. Processes are spawned, not
    forked: a fork after OpenMP ran can hang.
    """
    jobs = iter(jobs)
    first = list(itertools.islice(jobs, workers or cores()))
    jobs = itertools.chain(first, jobs)
    if len(first) <= 1:
        for job in jobs:
            yield function(*job)
        return
    context = multiprocessing.get_context("spawn")
    stop, stopped = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(len(first), mp_context=context, initializer=_begin, initargs=(stop,))
    waiting = collections.deque()
    try:
        for job in jobs:
            with _uninterrupted():
                waiting.append(pool.submit(function, *job))
            if len(waiting) == AHEAD * len(first):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed, perhaps for want of memory; try again with fewer: --workers=1"
        ) from None
    except BaseException:  # an interrupt, or the caller asks for no more: jobs under way may take hours
        stopped.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        stopped.close()
        stop.close()


def run_threads(function, jobs, workers=None):
    """Return [function(job) for job in jobs], worked on by threads of this process (one for each core if None).

    For libraries that let go of Python's lock, on data that is too large to be handed to other processes.
    """
    pool = ThreadPoolExecutor(workers or cores())
    try:
        return list(pool.map(function, jobs))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _uninterrupted():
    """Hold Ctrl-C back. Processes that begin meanwhile never see it: one that is still importing would print a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(stop):
    """Let this worker end when its parent does: after a SIGKILL it would go on and write beside the one that resumes.

    stop: a pipe, which the parent closes to end its workers in the middle of their jobs
    """
    parent = multiprocessing.parent_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent says so, once, and ends

    def watch():
        multiprocessing.connection.wait([parent.sentinel, stop])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
