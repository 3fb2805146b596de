"""Progress of units in other processes: each writes a file, a bar shows the newest one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ct.storage.atomic_write import discard
from ct.storage.file_formats import write_text
from pipeline.progress import Bar, LogLines
from pipeline.units.unit import MakeBar

PAUSE = 2.0  # seconds between two writings of a file, and between two readings of all
SUFFIX = ".now"  # of the files


class FileBar(LogLines):
    """A progress bar that is a line in a file."""

    path: Path

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the line."""
        write_text(self.path, self.line().strip(), lasting=False)


@contextmanager
def file_bars(path: Path) -> Iterator[MakeBar]:
    """Yield a function that makes FileBars of this file; at the end, remove the file."""

    def make_bar(total: int | None, text: str, unit: str) -> FileBar:
        bar = FileBar(desc=text, total=total, unit=unit, mininterval=PAUSE, gui=True, leave=False)
        bar.path = path
        return bar

    try:
        yield make_bar
    finally:
        discard(path)


@contextmanager
def shown_progress(folder: Path, bar: Bar) -> Iterator[None]:
    """Show beside a bar the line that a unit wrote last, of the files in `folder`."""
    over = threading.Event()

    def show() -> None:
        while not over.wait(PAUSE):
            with suppress(OSError):  # a unit that ends removes its file
                files = folder.glob(f"*{SUFFIX}")
                newest = max(files, key=lambda path: path.stat().st_mtime, default=None)
                if newest:
                    bar.show_text(newest.read_text(encoding="utf-8"))

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        bar.set_postfix_str("", refresh=False)  # the last line counts all units
