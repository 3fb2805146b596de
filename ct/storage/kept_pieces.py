"""Pieces of unfinished work: sealed tables, of which some may have to be made again.

A piece during which a file was unreadable for a reason that may pass, such as a missing
permission, has a note with the time beside it. A later run tries the file again.
"""

import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from ct.storage.atomic_write import discard
from ct.storage.digests import bytes_digest, text_digest
from ct.storage.file_formats import write_table, write_text
from ct.storage.sealed_files import is_whole, seal, seal_path


def keep_piece(path: Path, table: pd.DataFrame, lasting: bool) -> None:
    """Write a piece of work.

    lasting: False where a file was unreadable for a reason that may pass
    """
    note = _transient_note(path)
    if not lasting:
        write_text(note, f"{time.time():.3f}", lasting=False)
    write_table(path, table, lasting=False)
    seal(path)
    if lasting:
        discard(note)


def is_kept(path: Path, since: float) -> bool:
    """Return whether a piece is there and whole.

    since: a time. Of earlier ones those do not count that had an unreadable file for a reason that
    may pass.
    """
    if not is_whole(path):
        return False
    try:
        return float(_transient_note(path).read_text(encoding="utf-8")) >= since
    except FileNotFoundError:
        return True
    except ValueError:  # damaged
        return False


def is_damaged(path: Path) -> bool:
    """Return whether a piece is there, and damaged."""
    return path.exists() and not is_whole(path)


def pieces_digest(paths: Iterable[Path]) -> str:
    """Return a digest of the content of pieces."""
    return text_digest("\n".join(map(_seal_text, paths)))


def _seal_text(path: Path) -> str:
    """Return the digest of a piece's bytes."""
    try:
        return seal_path(path).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return bytes_digest(path) if path.is_file() else ""


def _transient_note(path: Path) -> Path:
    """Return the path of the note that a file of a piece may become readable."""
    return path.with_name(f"{path.name}.transient")
