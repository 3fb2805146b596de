"""The interface of a source of files: a folder (folder.py) or a zip archive (zip_archive.py).

Nothing is ever unpacked to disk. The names of the files are relative to the source, with forward
slashes, escaped as in ct/privacy/escaped_names.py; `NAME#3` is a frame of a file (frames.py). A
SourceFile can be read in any process, without its source.
"""

import io
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol


class Unreadable(Exception):
    """A file that cannot be used.

    Its text is the reason: one short line without paths and without values of identifying tags.
    """


class NotARegularFile(Unreadable):
    """A pipe, a socket, a device or a link to itself: an entry of a folder without bytes."""


class SourceFile(Protocol):
    """One file of a source."""

    def head(self, count: int) -> tuple[bytes, bool]:
        """Return (about the first `count` bytes, whether that is the whole file).

        Raises Unreadable, OSError.
        """

    def length(self) -> int:
        """Return the size in bytes. Raises OSError."""

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedIOBase:
        """Open the file for reading bytes. Raises Unreadable, OSError."""

    def __hash__(self) -> int: ...

    def version(self) -> Hashable:
        """Return what changes with the file's bytes. Raises OSError."""


class Source(Protocol):
    """A set of named files. Iterated, it yields the files that `select` chose.

    root: path of the folder, which may continue inside a zip archive; quarantine_unreadable: a file
    that the system cannot read counts as unreadable where other files can be read; probes: the
    files that are then read, to check whether other files can be read
    """

    root: Path
    quarantine_unreadable: bool
    probes: tuple[SourceFile, ...]

    def folders(self) -> list[str]:
        """Return the names of the folders in it, sorted.

        Hidden folders are left out, and those whose name begins with "__", such as __MACOSX.
        """

    def subfolder(self, folder: str) -> "Source":
        """Return one of its folders as a source."""

    def has_files(self, folder: str) -> bool:
        """Return whether there is a file below `folder`; hidden files do not count."""

    def file(self, name: str) -> Path | SourceFile | None:
        """Return the file of this name, or None where there is none."""

    def files(self, folder: str) -> list[str]:
        """Return the names of all files below `folder`, sorted. Raises MachineFault."""

    def all_files(self) -> list[str]:
        """Return the names of all files in it, sorted, without those of __MACOSX."""

    def select(self, names: Sequence[str]) -> "Source":
        """Return the source of these files alone, to be iterated."""

    def __iter__(self) -> Iterator[SourceFile]: ...
