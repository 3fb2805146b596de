"""Ctrl-C ends the program within seconds and with one line, at any moment.

Python raises KeyboardInterrupt in the main thread, at its next Python instruction. That is not
enough in three cases: C code of a library runs for minutes, a library turns the interrupt into
another error, or Python drops the errors of the code that runs (`__del__`, a callback from C). So a
thread receives the signal at once, and ends the process if the main thread has not ended within
PATIENCE. The run folder is then in the same state as after a kill: the same command continues it.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

PATIENCE = 8.0  # seconds between Ctrl-C and the end, at most
RETRY_SECONDS = 0.1  # until a dropped interrupt is raised again
LINE = "interrupted; the same command continues, what is finished is kept"
INTERRUPTED = 130  # exit status of the process


class InterruptWatch:
    """Watch for Ctrl-C while a `with` block runs. `interrupted`: whether it was pressed.

    Does nothing where Ctrl-C is ignored (nohup) or has another handler, and outside the main
    thread.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.dropped = False  # whether Python dropped the interrupt (sys.unraisablehook)
        self._active = False

    def __enter__(self) -> "InterruptWatch":
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._active, self._over = True, threading.Event()
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._hooks: tuple[Callable[[Any], Any], Callable[[Any], Any], int] = (
                sys.unraisablehook,
                threading.excepthook,
                signal.set_wakeup_fd(self._write, warn_on_full_buffer=False),
            )
            sys.unraisablehook, threading.excepthook = self._unraisable, self._thread_error
            signal.signal(signal.SIGINT, self._interrupt)
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            self._over.set()
            sys.unraisablehook, threading.excepthook, wakeup = self._hooks
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.write(self._write, b"\0")
            self._thread.join()
            os.close(self._read)
            os.close(self._write)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        raise KeyboardInterrupt

    def _watch(self) -> None:
        """Wait for the signal, in a thread; then make sure that the process ends."""
        while signal.SIGINT not in (received := os.read(self._read, 100)):
            if 0 in received:  # written by __exit__
                return
        self.interrupted, patience = True, PATIENCE
        while not self._over.wait(min(RETRY_SECONDS, patience)):
            patience -= RETRY_SECONDS
            if patience <= 0:
                os.write(2, f"error: {LINE}\n".encode())
                os._exit(INTERRUPTED)
            if self.dropped:
                self.dropped = False
                main = threading.main_thread().ident
                assert main is not None
                signal.pthread_kill(main, signal.SIGINT)

    def _unraisable(self, error: "sys.UnraisableHookArgs") -> None:
        """Record an interrupt that Python dropped; print other errors until Ctrl-C."""
        if issubclass(error.exc_type, KeyboardInterrupt):
            self.dropped = True
        elif not self.interrupted:
            self._hooks[0](error)

    def _thread_error(self, error: threading.ExceptHookArgs) -> None:
        """Print the errors of other threads until Ctrl-C."""
        if not self.interrupted:
            self._hooks[1](error)


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Hold Ctrl-C back while a child process starts.

    The child inherits the block: one that is still importing would print a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
