"""Progress bars: on a terminal tqdm's; in a log file rare, whole lines."""

import sys

from tqdm import tqdm

DELAY = 2  # seconds before a bar shows itself
PAUSE = 0.5  # seconds between two looks of a bar on a terminal
PAUSE_IN_FILE = 30  # at the least between two lines of a log file


class Bar(tqdm):
    """A progress bar that can be told how far it is."""

    def reach(self, done, *_, kept=False):
        """Show `done` of the total as done; kept: by an earlier run, so that it says nothing about
        the pace of this one.
        """
        if kept and not self.disable:
            self.initial = self.last_print_n = self.n = done
            self.start_t = self.last_print_t = self._time()
        self.update(done - self.n)

    def tell(self, text):
        """Show `text` beside the bar, also where nothing gets done for long; as often as the bar is
        shown at all.
        """
        if not self.disable:
            self.set_postfix_str(text, refresh=False)
            if self._time() >= max(self.last_print_t + self.mininterval, self.start_t + self.delay):
                self.last_print_t = self._time()
                self.refresh()


class Lines(Bar):
    """A progress bar for a file: lines without control characters, the last of which tells what was
    done in all.
    """

    told, ended = None, False

    def display(self, msg=None, pos=None):
        """Write a line where there is news."""
        if self.told != (self.n, self.postfix):
            self.told = (self.n, self.postfix)
            self.fp.write(f"{self.line()}\n")
            self.fp.flush()

    def close(self):
        """Write the last line, where the bar has lasted long enough to be seen."""
        if not self.disable and self._time() >= self.start_t + self.delay:
            self.ended = True
            self.display()
        super().close()

    def line(self):
        """Return "  pixels: 1,200/52,000 slices, 12 min left", or at the end "  pixels: 52,000
        slices in 3 min".
        """
        passed, done = self._time() - self.start_t, self.n - self.initial
        units = f"{self.unit.removesuffix('y')}ies" if self.unit.endswith("y") else f"{self.unit}s"
        more = self.total is not None and self.n < self.total
        text = f"{self.desc}: {self.n:,}{f'/{self.total:,}' if more else ''} {units}"
        if not more or self.ended:
            text += f" in {duration(passed)}"
        elif done:
            text += f", {duration((self.total - self.n) * passed / done)} left"
        return f"{text}, {self.postfix}" if self.postfix else text


def duration(seconds):
    """Return seconds as people say them: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def progress_bar(total, text, unit):
    """Return a progress bar that shows itself after DELAY seconds."""
    about = {"total": total, "unit": unit, "delay": DELAY, "leave": False}
    if sys.stderr.isatty():
        return Bar(desc=f"  {text}", mininterval=PAUSE, dynamic_ncols=True, **about)
    # gui: tqdm writes nothing of its own
    return Lines(desc=f"  {text}", mininterval=PAUSE_IN_FILE, gui=True, **about)


def log(text):
    """Print a line, above the bar that a terminal shows just now."""
    if sys.stderr.isatty():
        tqdm.write(text)
    else:
        print(text)


def no_bar(total, text, unit):
    """Return a progress bar that never shows itself."""
    return Bar(total=total, disable=True)
