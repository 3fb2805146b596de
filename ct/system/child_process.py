"""A child process that answers messages, for code that may crash, hang or use too much memory.

The parent has a `ChildProcess` and calls `request`. The child runs the function `serve` of a
module: it opens its `message_pipes`, may `limit_memory`, writes a greeting, and then answers each
message (`read_message`, `write_message`) until the parent ends. Nothing is pickled.
"""

import atexit
import os
import resource
import select
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ct.system.interrupts import interrupts_blocked

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 120  # until the child's first message, on a busy machine
LENGTH = struct.Struct("<Q")  # the number of bytes of a message, sent before it
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ChildEnded(Exception):
    """The child ended before it answered.

    status: as in subprocess, -N for signal N; None where it was killed after the time limit
    started: whether it had sent its greeting
    """

    def __init__(self, status: int | None, started: bool) -> None:
        super().__init__(status, started)
        self.status, self.started = status, started


class ChildProcess:
    """A process that answers messages of bytes one by one.

    It starts with the first request, and again with the first request after its end. It ends with
    this process.

    module:        its function `serve` runs in the child. The first message that `serve` writes
                   shows that it is ready; it is stored as `greeting`
    arguments:     texts that `serve` is called with
    start_seconds: limit for the time until the greeting

    The attribute `answered` is the number of requests that the running child has answered.
    """

    def __init__(self, module: str, *arguments: str, start_seconds: float = START_SECONDS) -> None:
        code = (
            f"import sys; sys.path.append({str(ROOT)!r}); "
            f"from {module} import serve; serve(*sys.argv[1:])"
        )
        # -P: import no module from the current folder
        self.command = [sys.executable, "-P", "-c", code, *arguments]
        self.process: subprocess.Popen[bytes] | None = None
        self.owner: int | None = None  # id of the process that started the child
        self.start_seconds = start_seconds
        self.started, self.answered, self.greeting = False, 0, b""
        atexit.register(self.close)

    def request(self, message: bytes, seconds: float) -> bytearray:
        """Send a message and return the answer to it.

        Raises ChildEnded where the child ends, or gives no answer within `seconds`; OSError where
        it cannot be started.
        """
        # after a fork, the child process belongs to the parent of this process
        if self.process is None or self.owner != os.getpid():
            process = self._start()
        else:
            process = self.process
        assert process.stdin
        try:
            write_message(process.stdin.fileno(), message)
        except BrokenPipeError:
            raise self._ended(process) from None
        answer = self._receive(process, seconds)
        self.answered += 1
        return answer

    def close(self) -> None:
        """End the child, if there is one."""
        process, self.process, self.answered = self.process, None, 0
        if process and self.owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        self.owner, self.started, self.answered = os.getpid(), False, 0
        one_thread = dict.fromkeys(THREADS, "1")  # each thread reserves memory
        with interrupts_blocked():
            self.process = process = subprocess.Popen(
                self.command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | one_thread,
            )
        self.greeting = bytes(self._receive(process, self.start_seconds))
        self.started = True
        return process

    def _receive(self, process: "subprocess.Popen[bytes]", seconds: float) -> bytearray:
        """Return the next message of the child."""
        deadline = time.monotonic() + seconds
        (length,) = LENGTH.unpack(self._read(process, LENGTH.size, deadline))
        return self._read(process, length, deadline)

    def _read(self, process: "subprocess.Popen[bytes]", count: int, deadline: float) -> bytearray:
        """Return the next `count` bytes of the child."""
        assert process.stdout
        descriptor = process.stdout.fileno()
        data, filled = bytearray(count), 0
        readable = select.poll()  # select.select refuses descriptors above 1023
        readable.register(descriptor, select.POLLIN)
        while filled < count:
            if not readable.poll(max(deadline - time.monotonic(), 0) * 1000):
                self.close()
                raise ChildEnded(None, self.started)
            received = os.readv(descriptor, [memoryview(data)[filled:]])
            if not received:
                raise self._ended(process)
            filled += received
        return data

    def _ended(self, process: "subprocess.Popen[bytes]") -> ChildEnded:
        """Clean up after a child that ended, and return the ChildEnded to raise."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)  # its pipe may close a little before it ends
        status = process.returncode
        self.close()
        return ChildEnded(status, self.started)


def limit_memory(more: int) -> bool:
    """Limit the memory of this process to `more` bytes above what it uses; switch off core dumps.

    Returns whether this limit applies: False where the parent set a lower one, or the system has no
    /proc.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    except FileNotFoundError:  # not Linux
        return False
    limit = pages * resource.getpagesize() + more
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    applies = hard == resource.RLIM_INFINITY or limit <= hard
    resource.setrlimit(resource.RLIMIT_AS, (limit if applies else hard, hard))
    return applies


def message_pipes() -> tuple[BinaryIO, int]:
    """Return the pipe with the parent's requests, and the file descriptor for the answers.

    Standard input, output and error become /dev/null, so that no text that a library prints
    reaches the parent as an answer.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null_device = os.open(os.devnull, os.O_RDWR)
    for standard_stream in (0, 1, 2):
        os.dup2(null_device, standard_stream)
    os.close(null_device)
    return requests, answers


def write_message(descriptor: int, *pieces: bytes | memoryview) -> None:
    """Write one message to a pipe; its bytes may come in several pieces."""
    for piece in (LENGTH.pack(sum(map(len, pieces))), *pieces):
        left = memoryview(piece)
        while left:
            left = left[os.write(descriptor, left) :]


def read_message(file: BinaryIO) -> bytes | None:
    """Return the next message from a pipe; None where the other side has ended."""
    head = file.read(LENGTH.size)
    return file.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None
