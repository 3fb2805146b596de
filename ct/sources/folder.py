"""A folder as a source of files."""

import errno
import io
import os
import stat
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ct.errors import InputError
from ct.privacy.escaped_names import escaped_name, unescaped_name
from ct.sources.frames import as_frame, file_of_frame
from ct.sources.source import NotARegularFile, SourceFile
from ct.system.machine_faults import listing_faults

BROKEN_LINK = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ELOOP,
)  # no target, or a loop


class DiskFile(NamedTuple):
    """A file of a folder; a SourceFile."""

    path: str

    def head(self, count: int) -> tuple[bytes, bool]:
        """Return (the first `count` bytes, whether that is the whole file).

        Raises NotARegularFile, OSError.
        """
        _require_regular_file(self.path)
        with open(self.path, "rb", buffering=0) as file:
            head = file.read(count)
        return head, len(head) < count

    def length(self) -> int:
        """Return the size in bytes. Raises OSError."""
        return os.stat(self.path).st_size

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedIOBase:
        """Open the file for reading bytes. Raises NotARegularFile, OSError."""
        _require_regular_file(self.path)
        return open(self.path, mode)

    def version(self) -> Hashable:
        """Return size and time of the last change. Raises OSError."""
        status = os.stat(self.path)
        return status.st_size, status.st_mtime_ns, status.st_ino

    def __str__(self) -> str:
        return self.path


class Folder:
    """A folder as a Source; `Source` describes the methods and attributes.

    names: of the selected files, relative to `root`
    """

    quarantine_unreadable = False
    probes: tuple[SourceFile, ...] = ()

    def __init__(self, root: str | Path, names: Sequence[str] = ()) -> None:
        self.root, self.names = Path(root), names

    def folders(self) -> list[str]:
        """Return the names of the folders in it, sorted, but hidden ones and __MACOSX."""
        names = []
        with os.scandir(self.root) as entries:
            for entry in entries:
                if not entry.name.startswith((".", "__")) and _is_folder(entry):
                    names.append(entry.name)
        return sorted(names)

    def subfolder(self, folder: str) -> "Folder":
        """Return one of its folders as a source."""
        return Folder(self.root / folder)

    def has_files(self, folder: str) -> bool:
        """Return whether there is a file below `folder`; hidden files do not count."""
        with listing_faults():
            return next(_walk(self.root / folder), None) is not None

    def file(self, name: str) -> Path | None:
        """Return the path of a file in it, or None where there is none."""
        path = self.root / name
        return path if path.is_file() else None

    def files(self, folder: str) -> list[str]:
        """Return the names of all files below `folder`, sorted. Raises MachineFault."""
        return [f"{folder}/{name}" for name in list_files(self.root / folder)]

    def all_files(self) -> list[str]:
        """Return the names of all files in it, sorted, without those of __MACOSX."""
        return [name for name in list_files(self.root) if not name.startswith("__MACOSX/")]

    def select(self, names: Sequence[str]) -> "Folder":
        """Return the source of these files alone, to be iterated."""
        selected = Folder(self.root, names)
        selected.quarantine_unreadable, selected.probes = self.quarantine_unreadable, self.probes
        return selected

    def __iter__(self) -> Iterator[SourceFile]:
        root = str(self.root)
        for name in self.names:
            file = unescaped_name(file_of_frame(name))
            yield as_frame(name, DiskFile(os.path.join(root, file)))


def list_files(folder: str | Path) -> list[str]:
    """Return the escaped relative paths of all files below `folder`, sorted, without hidden files.

    The parts of a path are joined by forward slashes and escaped as in
    ct/privacy/escaped_names.py. Raises MachineFault where a folder cannot be listed, InputError
    where folders are nested too deep.
    """
    try:
        with listing_faults():
            return sorted(map(escaped_name, _walk(folder)))
    except RecursionError:
        raise InputError(
            f"{folder} holds folders that are nested hundreds deep; take them out"
        ) from None


def _walk(folder: str | Path, prefix: str = "", parents: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the relative paths of the files below `folder`, each after `prefix`.

    A link that leads back to one of `parents` is not followed.
    """
    here = os.path.realpath(folder)
    if here in parents:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*parents, here))
            else:
                yield prefix + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether this is a folder; everything else counts as a file, also a broken link.

    A broken link may lead to a disk that is missing. As a file it fails with a message when it is
    read; left out here, it would be missing without a message.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        if entry.is_symlink() and error.errno in BROKEN_LINK:
            return False
        raise


def _require_regular_file(path: str) -> None:
    """Raise NotARegularFile for a socket, a device or a pipe; opening a pipe waits for a writer.

    Raises OSError where nothing exists at `path`.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise NotARegularFile("no ordinary file")
