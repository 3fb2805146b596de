"""Ctrl-C ends the program with one line and within seconds, wherever it strikes.

Python raises KeyboardInterrupt in the main thread, at its next step of Python. That leaves three
gaps: C code of a library that runs on for minutes, a library that turns the interrupt into an error
of its own, and code whose errors nobody receives (a `__del__`, a callback from C). A thread closes
them: it learns of the signal at once, and ends the process where the main thread has not done so
within PATIENCE. What is cut off then is as after a kill: the same command continues.
"""

import os
import signal
import sys
import threading
from types import TracebackType

PATIENCE = 8.0  # seconds between Ctrl-C and the end, at most
AGAIN = 0.1  # seconds after which an interrupt that nobody received is raised once more
LINE = "interrupted; the same command continues, what is finished is kept"
INTERRUPTED = 130  # of the process


class Interrupts:
    """Watches for Ctrl-C while the block runs; `seen` afterwards tells whether it came.

    Does nothing where Ctrl-C is ignored (nohup), has another handler, or outside the main thread.
    """

    def __init__(self):
        self.seen, self.lost = False, False
        self._begun = False

    def __enter__(self) -> "Interrupts":
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._begun, self._over = True, threading.Event()
            self._read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._hooks = (
                sys.unraisablehook,
                threading.excepthook,
                signal.set_wakeup_fd(self._write, warn_on_full_buffer=False),
            )
            sys.unraisablehook, threading.excepthook = self._unraisable, self._in_thread
            signal.signal(signal.SIGINT, self._interrupt)
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begun:
            self._over.set()
            sys.unraisablehook, threading.excepthook, before = self._hooks
            signal.set_wakeup_fd(before)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.write(self._write, b"\0")
            self._thread.join()
            os.close(self._read)
            os.close(self._write)

    def _interrupt(self, number, frame):
        self.seen = True
        raise KeyboardInterrupt

    def _watch(self):
        """Wait for the signal, in a thread; then see to it that the process ends."""
        while signal.SIGINT not in (came := os.read(self._read, 100)):
            if 0 in came:
                return
        self.seen, patience = True, PATIENCE
        while not self._over.wait(min(AGAIN, patience)):
            patience -= AGAIN
            if patience <= 0:
                os.write(2, f"error: {LINE}\n".encode())
                os._exit(INTERRUPTED)
            if self.lost:
                self.lost = False
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def _unraisable(self, unraisable):
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self.lost = True
        elif not self.seen:
            self._hooks[0](unraisable)

    def _in_thread(self, failed):
        if not self.seen:
            self._hooks[1](failed)
