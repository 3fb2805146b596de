"""Progress bars: tqdm's on a terminal; in a log file a few whole lines."""

import sys
from collections.abc import Callable

from tqdm import tqdm

from ct.errors import number_of

DELAY = 2.0  # seconds before a bar is shown
PAUSE = 0.5  # seconds between two updates of a bar on a terminal
PAUSE_IN_FILE = 30.0  # seconds between two lines of a log file, at least


class Bar(tqdm):
    """A progress bar that takes the number of units that are done, or a text."""

    _time: Callable[[], float]  # tqdm's clock
    start_t: float
    last_print_t: float
    delay: float

    def reach(self, done: int, *_: object, kept: bool = False) -> None:
        """Show `done` of the total as done.

        kept: done by an earlier process; it does not count for the pace of this one
        """
        if kept and not self.disable:
            self.initial = self.last_print_n = self.n = done
            self.start_t = self.last_print_t = self._time()
        self.update(done - self.n)

    def show_text(self, text: str) -> None:
        """Show `text` beside the bar, also while nothing is finished; as often as the bar."""
        if not self.disable:
            self.set_postfix_str(text, refresh=False)
            if self._time() >= max(self.last_print_t + self.mininterval, self.start_t + self.delay):
                self.last_print_t = self._time()
                self.refresh()


class LogLines(Bar):
    """Progress in a log file: lines without control characters; the last one gives the total."""

    _shown: tuple[object, object] | None = None
    _ended = False

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line if anything changed since the last one."""
        if self._shown != (self.n, self.postfix):
            self._shown = (self.n, self.postfix)
            self.fp.write(f"{self.line()}\n")
            self.fp.flush()

    def close(self) -> None:
        """Write the last line, unless the bar ended before DELAY."""
        if not self.disable and self._time() >= self.start_t + self.delay:
            self._ended = True
            self.display()
        super().close()

    def line(self) -> str:
        """Return "  pixels: 1,200/52,000 slices, 12 min left", or "...: 52,000 slices in 3 min"."""
        seconds, done = self._time() - self.start_t, self.n - self.initial
        if self.total is not None and self.n < self.total:
            text = f"{self.desc}: {self.n:,}/{number_of(int(self.total), self.unit)}"
            if self._ended:
                text += f" in {duration(seconds)}"
            elif done:
                text += f", {duration((self.total - self.n) * seconds / done)} left"
        else:
            text = f"{self.desc}: {number_of(int(self.n), self.unit)} in {duration(seconds)}"
        return f"{text}, {self.postfix}" if self.postfix else text


def duration(seconds: float) -> str:
    """Return a duration in words: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def progress_bar(total: int | None, text: str, unit: str) -> Bar:
    """Return a progress bar that is shown after DELAY seconds.

    total: number of units, None if not known; text: the task; unit: its singular, such as "slice"
    """
    if sys.stderr.isatty():
        return Bar(
            desc=f"  {text}",
            total=total,
            unit=unit,
            delay=DELAY,
            mininterval=PAUSE,
            dynamic_ncols=True,
            leave=False,
        )
    return LogLines(
        desc=f"  {text}",
        total=total,
        unit=unit,
        delay=DELAY,
        mininterval=PAUSE_IN_FILE,
        gui=True,  # tqdm itself writes nothing
        leave=False,
    )


def log(text: str) -> None:
    """Print a line, above the bar if a terminal shows one."""
    if sys.stderr.isatty():
        tqdm.write(text)
    else:
        print(text)


def no_bar(total: int | None, text: str, unit: str) -> Bar:
    """Return a progress bar that is never shown."""
    return Bar(total=total, disable=True)
