"""Where the slices lie: a folder, here, or a zip archive (ct/sources/zip_archive.py). Nothing is ever
unpacked to disk.

A source names its files relative to itself, with forward slashes. What it hands out for a file,
OnDisk or InZip, is read in any process, without the source.
"""

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from ct.errors import InputError
from ct.privacy.escaped_names import escaped_name, unescaped_name
from ct.sources.source import NotARegularFile
from ct.system.machine_faults import listing_faults

LOST_LINK = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # of a link that leads to no file


class DiskFile(NamedTuple):
    """A file of a folder."""

    path: str

    def head(self, count):
        """Return (bytes, whole): the first `count` bytes, and whether that is all. Raises NoBytes,
        OSError.
        """
        _refuse_other_kinds(self.path)
        with open(self.path, "rb", buffering=0) as file:
            head = file.read(count)
        return head, len(head) < count

    def length(self):
        """Return its size in bytes. Raises OSError."""
        return os.stat(self.path).st_size

    def open(self, mode="rb"):
        """Open it for reading bytes. Raises NoBytes, OSError."""
        _refuse_other_kinds(self.path)
        return open(self.path, mode)

    def __str__(self):
        return self.path


class Folder:
    """A folder as a source; iterated, it hands out the files that `select` chose.

    root: Path; names: relative to it; spares_unreadable: whether a file that the system does not
    hand over, while it does others, counts as unreadable; probes: files of all that is read, which
    tell whether the system hands over others
    """

    quarantine_unreadable, probes = False, ()

    def __init__(self, root, names=()):
        self.root, self.names = Path(root), names

    def folders(self):
        """Return the names of the folders in it, sorted, without hidden ones and those that a Mac's
        archiver leaves behind.
        """
        with os.scandir(self.root) as entries:
            return sorted(
                e.name
                for e in entries
                if not e.name.startswith((".", "__")) and _kind(e) == "folder"
            )

    def subfolder(self, folder):
        """Return the source that one of its folders is."""
        return Folder(self.root / folder)

    def has_files(self, folder):
        """Return whether a file lies below `folder`; hidden ones do not count."""
        with listing_faults():
            return next(_walk(self.root / folder), None) is not None

    def file(self, name):
        """Return the path of a file in it, or None where it is not there."""
        path = self.root / name
        return path if path.is_file() else None

    def files(self, folder):
        """Return the names of all files below `folder`, sorted. Raises MachineFault."""
        return [f"{folder}/{name}" for name in list_files(self.root / folder)]

    def all_files(self):
        """Return the names of all files in it, sorted, without what a Mac's archiver leaves
        behind.
        """
        return [name for name in list_files(self.root) if not name.startswith("__MACOSX/")]

    def select(self, names):
        """Return the source with these files, to be iterated."""
        taken = Folder(self.root, names)
        taken.quarantine_unreadable, taken.probes = self.quarantine_unreadable, self.probes
        return taken

    def __iter__(self):
        root = str(self.root)
        return (DiskFile(os.path.join(root, unescaped_name(name))) for name in self.names)


def list_files(folder):
    """Return the paths of all files below `folder`, relative to it, with forward slashes, sorted;
    dot files are left out.

    They are names as ct/privacy/escaped_names.py keeps them. Raises MachineFault, InputError for
    folders that are nested too deep.
    """
    try:
        with listing_faults():
            return sorted(map(escaped_name, _walk(folder)))
    except RecursionError:
        raise InputError(
            f"{folder} holds folders that are nested hundreds deep; take them out"
        ) from None


def _walk(folder, prefix="", around=()):
    """Yield the paths of the files below `folder`, each after `prefix`; links that lead back
    `around` are not followed.
    """
    if (here := os.path.realpath(folder)) in around:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _kind(entry) == "file":
                yield prefix + entry.name
            else:
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*around, here))


def _kind(entry: os.DirEntry) -> str:
    """Return "folder", or "file" for all else: a pipe, too, or a link that leads nowhere, perhaps
    since its disk is gone.

    What is none of either fails when it is read, and a line says so; left out here, it would be in
    silence.
    """
    try:
        return "folder" if entry.is_dir() else "file"
    except OSError as error:
        if entry.is_symlink() and error.errno in LOST_LINK:
            return "file"
        raise


def _refuse_other_kinds(path):
    """Raise NoBytes for a pipe, whose opening would wait for a writer, a socket or a device;
    OSError for what is not there.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise NotARegularFile("no ordinary file")
