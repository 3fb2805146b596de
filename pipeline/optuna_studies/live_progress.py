"""Progress of studies in several processes: each writes a file, a bar shows the newest one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ct.storage.file_formats import write_text
from pipeline.progress import Bar

PAUSE = 2.0  # seconds between two readings of the files


def progress_file(path: Path) -> Path:
    """Return the file of a study's progress. path: of the study's files, without a suffix"""
    return path.with_suffix(".now")


def progress_writer(path: Path, trials: int) -> Callable[[int, float], None]:
    """Return a function that writes the number of a trial, and the smallest loss so far.

    path: as in `progress_file`
    """
    return lambda number, best: write_text(
        progress_file(path),
        f"{path.name}: trial {number} of {trials}, {best:.4f}",
        lasting=False,
    )


@contextmanager
def shown_progress(folder: Path, bar: Bar) -> Iterator[None]:
    """Show beside a bar the smallest loss so far of the study that ran a trial last."""
    over = threading.Event()

    def show() -> None:
        while not over.wait(PAUSE):
            with suppress(OSError):  # a study that ends removes its file
                newest = max(
                    folder.glob("*.now"), key=lambda path: path.stat().st_mtime, default=None
                )
                if newest:
                    bar.show_text(f"{newest.read_text(encoding='utf-8')} at best")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
