"""Files that hold several slices: each slice is a Frame, with a name of its own.

The frame 3 of `scans/head.dcm` is called `scans/head.dcm#3`. A file whose own name ends so is
escaped (ct/privacy/escaped_names.py), so that a name is either a file's or a frame's.
"""

import io
import re
from collections.abc import Hashable
from typing import Literal, NamedTuple

from ct.sources.source import SourceFile

FRAME_NAME = re.compile(r"(.+)#([1-9][0-9]*)", re.DOTALL)


class Frame(NamedTuple):
    """One slice of a file of several; a SourceFile with the bytes of the whole file."""

    file: SourceFile
    number: int  # from 1

    def head(self, count: int) -> tuple[bytes, bool]:
        """Return (about the first `count` bytes of the file, whether that is all of it)."""
        return self.file.head(count)

    def length(self) -> int:
        """Return the size of the file in bytes. Raises OSError."""
        return self.file.length()

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedIOBase:
        """Open the file for reading bytes. Raises Unreadable, OSError."""
        return self.file.open(mode)

    def version(self) -> Hashable:
        """Return what changes with the file. Raises OSError."""
        return self.file.version()

    def __str__(self) -> str:
        return frame_name(str(self.file), self.number)


def frame_name(name: str, number: int) -> str:
    """Return the name of a frame of a file."""
    return f"{name}#{number}"


def file_of_frame(name: str) -> str:
    """Return the name of the file of a frame; the name itself where it is a file's."""
    match = FRAME_NAME.fullmatch(name)
    return match[1] if match else name


def as_frame(name: str, file: SourceFile) -> SourceFile:
    """Return the Frame of the file that has this name; the file itself where it is a file's."""
    match = FRAME_NAME.fullmatch(name)
    return Frame(file, int(match[2])) if match else file
