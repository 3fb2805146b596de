"""Runs independent jobs on the processes of this machine. The only module that knows how."""

import atexit
import collections
import itertools
import multiprocessing
import multiprocessing.connection
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from pathlib import Path

from ct.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
BEGINS = 120  # seconds that a child may take to begin, on a busy machine
# before each message between a child and its parent: how many bytes it has
LENGTH = struct.Struct("<Q")
AHEAD = 4  # jobs that wait or are done but not fetched, for each worker


def cores():
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(function, jobs, workers=None):
    """Yield `function(*job)` for each of `jobs`, in their order, on `workers` processes (the
    machine's cores if None).

    With one worker or one job everything runs in this process. Jobs are taken as they are needed, a
    few ahead. `function` must be importable by name. Its results depend on the jobs alone, never on
    the number of workers. Processes are spawned, not forked: a fork after OpenMP ran can hang.
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
            "a worker process was killed or could not begin, perhaps for want of memory or open files (ulimit -a); what is "
            "finished is kept, try again with fewer: --workers=1"
        ) from None
    except (
        BaseException
    ):  # an interrupt, or the caller asks for no more: jobs under way may take hours
        stopped.close()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        stopped.close()
        stop.close()


def run_threads(function, jobs, workers=None):
    """Return [function(job) for job in jobs], worked on by threads of this process (one for each
    core if None).

    For libraries that let go of Python's lock, on data that is too large to be handed to other
    processes.
    """
    pool = ThreadPoolExecutor(workers or cores())
    try:
        return list(pool.map(function, jobs))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _uninterrupted():
    """Hold Ctrl-C back. Processes that begin meanwhile never see it: one that is still importing
    would print a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(stop):
    """Let this worker end when its parent does: after a SIGKILL it would go on and write beside the
    one that resumes.

    stop: a pipe, which the parent closes to end its workers in the middle of their jobs
    """
    parent = multiprocessing.parent_process()
    # Ctrl-C reaches all; the parent says so, once, and ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.connection.wait([parent.sentinel, stop])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class ChildEnded(Exception):
    """A child that ended without an answer.

    status: as of subprocess, -N for signal N; None where it was killed for being late; began:
    whether it had begun to listen
    """

    def __init__(self, status, began):
        super().__init__(status, began)
        self.status, self.began = status, began


class Child:
    """A process that answers messages of bytes one by one, for work that may crash or run wild: it
    alone is lost then.

    It begins with the first message and again with the one after its end; it ends with this
    process. Nothing is pickled.

    module: its `serve()` runs in the child, and reads and writes by `read_message` and
    `write_message`; the first that it writes, when it listens, is kept as `greeting`
    """

    def __init__(self, module):
        code = f"import sys; sys.path.append({str(ROOT)!r}); from {module} import serve; serve()"
        # -P: no module of the folder that we happen to stand in
        self.words = [sys.executable, "-P", "-c", code]
        self.process, self.owner, self.began, self.answered = None, None, False, 0
        self.greeting = b""
        atexit.register(self.close)

    def ask(self, message, seconds):
        """Return the answer to a message. Raises ChildEnded where none comes within `seconds`,
        OSError.
        """
        # a child of the process that forked this one is not ours
        if self.process is None or self.owner != os.getpid():
            self._begin()
        try:
            write_message(self.process.stdin.fileno(), message)
        except BrokenPipeError:
            raise self._ended() from None
        answer = self._receive(seconds)
        self.answered += 1
        return answer

    def close(self):
        """End the child, if there is one."""
        process, self.process, self.answered = self.process, None, 0
        if process and self.owner == os.getpid():
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def _begin(self):
        self.owner, self.began, self.answered = os.getpid(), False, 0
        one = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
        )  # each reserves memory a thread
        with _uninterrupted():
            self.process = subprocess.Popen(
                self.words,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | one,
            )
        self.greeting = bytes(self._receive(BEGINS))
        self.began = True

    def _receive(self, seconds):
        """Return the next message of the child."""
        end, descriptor = time.monotonic() + seconds, self.process.stdout.fileno()
        head = self._bytes(descriptor, LENGTH.size, end)
        return self._bytes(descriptor, LENGTH.unpack(head)[0], end)

    def _bytes(self, descriptor, count, end):
        # select.select takes no descriptor beyond 1023
        memory, at, readable = bytearray(count), 0, select.poll()
        readable.register(descriptor, select.POLLIN)
        while at < count:
            if not readable.poll(max(end - time.monotonic(), 0) * 1000):
                self.close()
                raise ChildEnded(None, self.began)
            got = os.readv(descriptor, [memoryview(memory)[at:]])
            if not got:
                raise self._ended()
            at += got
        return memory

    def _ended(self):
        """Close what is left of a child that ended, and return the ChildEnded to raise."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)  # its pipe may close a little before it has ended
        status = self.process.returncode
        self.close()
        return ChildEnded(status, self.began)


def limit_memory(more: int) -> bool:
    """Limit the memory of this process to what it has and `more` bytes, and have it leave no core.

    Returns whether that is what it will meet first, not a limit of its parent's.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    except FileNotFoundError:  # no Linux
        return False
    most, (_, hard) = pages * resource.getpagesize() + more, resource.getrlimit(resource.RLIMIT_AS)
    own = hard == resource.RLIM_INFINITY or most <= hard
    resource.setrlimit(resource.RLIMIT_AS, (most if own else hard, hard))
    return own


def write_message(descriptor, *pieces):
    """Write a message, of bytes in several pieces, to a pipe."""
    for piece in (LENGTH.pack(sum(map(len, pieces))), *pieces):
        left = memoryview(piece)
        while left:
            left = left[os.write(descriptor, left) :]


def read_message(file):
    """Return the next message of a file that is a pipe; None where the other side has ended."""
    head = file.read(LENGTH.size)
    return file.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None
