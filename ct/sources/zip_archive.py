"""A zip archive as a source of slices, read in place (APPNOTE.TXT of PKWARE, section 4.3): stored
and deflated, zip64 too.

The archive's directory is read once, by `open_zip`; what a source hands out for a member, InZip, is
read without it.
"""

import io
import os
import struct
import zipfile
import zlib
from bisect import bisect_left
from pathlib import Path
from typing import NamedTuple

import numpy as np
from isal import isal_zlib

from ct.errors import InputError, printable
from ct.privacy.escaped_names import escaped_name
from ct.sources.source import Unreadable
from ct.system.machine_faults import raise_fault

# of a zip's members: where its local header begins, bytes in the archive and unpacked, ...
WHERE = np.dtype(
    [
        ("offset", "i8"),
        ("packed", "i8"),
        ("size", "i8"),
        ("crc", "u4"),
        ("method", "u2"),
        ("flags", "u2"),
    ]
)
ENCRYPTED = 1  # bit of the flags
LOCAL_HEADER = 30  # bytes, before the name and the extra field
# bytes of a file in a zip: a slice of 4,096 x 4,096 has 32 MB, Kaggle's label csv 119
LARGEST = 512 << 20
# of zipfile
DAMAGE = (
    zipfile.BadZipFile,
    NotImplementedError,
    ValueError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
)
# beyond so many bytes a file is at most so many times as large as it lies packed
PLENTY, RATIO = 64 << 20, 100


class ZipMember(NamedTuple):
    """A member of a zip archive; the fields after its name are those of WHERE."""

    archive: str
    name: str
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    flags: int

    def head(self, count):
        """Return (bytes, whole): about the first `count` bytes, and whether that is all, which then
        is checked.

        Raises Unreadable, OSError.
        """
        # deflated, `count` bytes hold at least about as many; where not, `whole` is false
        packed = self._packed(count)
        head = self._inflate(packed, count) if self.method == zipfile.ZIP_DEFLATED else packed
        if len(head) < self.size:
            return head, False
        return self._checked(head), True

    def length(self):
        """Return its unpacked size in bytes, as the archive has it."""
        return self.size

    def open(self, mode="rb"):
        """Read all of it, check it, and return it as a file of bytes. Raises Unreadable,
        OSError.
        """
        if self.size > LARGEST or self.size > max(PLENTY, RATIO * self.packed):
            raise Unreadable(
                f"packed in the zip archive so that {self.packed} bytes make {self.size}, which no slice does"
            )
        packed = self._packed(self.packed)
        whole = (
            self._inflate(packed, self.size + 1) if self.method == zipfile.ZIP_DEFLATED else packed
        )
        return io.BytesIO(self._checked(whole))

    def _packed(self, count):
        """Return the first `count` bytes as they lie in the archive."""
        if self.flags & ENCRYPTED:
            raise Unreadable("encrypted in the zip archive")
        if self.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unreadable(
                f"compressed in the zip archive by method {self.method}; only stored and deflated files are read"
            )
        file = os.open(self.archive, os.O_RDONLY)
        try:
            # below 0 where the archive has lost its beginning
            local = os.pread(file, LOCAL_HEADER, max(self.offset, 0))
            if self.offset < 0 or len(local) < LOCAL_HEADER or local[:4] != b"PK\x03\x04":
                raise Unreadable("damaged in the zip archive: no header where it should begin")
            name, extra = (
                int.from_bytes(local[26:28], "little"),
                int.from_bytes(local[28:30], "little"),
            )
            return os.pread(
                file, min(count, self.packed), self.offset + LOCAL_HEADER + name + extra
            )
        finally:
            os.close(file)

    def _inflate(self, packed, count):
        try:
            return isal_zlib.decompressobj(wbits=-15).decompress(packed, count) if packed else b""
        except isal_zlib.error:
            raise Unreadable("damaged in the zip archive: cannot be inflated") from None

    def _checked(self, whole):
        if len(whole) != self.size:
            raise Unreadable(
                f"damaged in the zip archive: {min(len(whole), self.size + 1)} of {self.size} bytes"
            )
        if isal_zlib.crc32(whole) != self.crc:
            raise Unreadable("damaged in the zip archive: its checksum is another")
        return whole

    def __str__(self):
        return f"{self.archive}/{self.name}"


class ZipArchive:
    """A zip archive, or a folder inside one, as a source; the same methods as Folder's.

    path: of the archive; names: of its files below `inside` and relative to that, as
    ct/privacy/escaped_names.py keeps them, sorted; where: (n,) of the dtype WHERE;
    spares_unreadable, probes: as of Folder
    """

    quarantine_unreadable, probes = False, ()

    def __init__(self, path, inside, names, where):
        self.path, self.inside, self.names, self.where = str(path), inside, names, where
        self.root = Path(path) / inside

    def folders(self):
        """Return the names of the folders in it, sorted, without hidden ones and those that a Mac's
        archiver leaves behind.
        """
        first = {name.partition("/")[0] for name in self.names if "/" in name}
        return sorted(name for name in first if not name.startswith("__"))

    def subfolder(self, folder):
        """Return the source that one of its folders is."""
        begin, end = self._range(folder)
        names = [name[len(folder) + 1 :] for name in self.names[begin:end]]
        return ZipArchive(self.path, f"{self.inside}{folder}/", names, self.where[begin:end])

    def has_files(self, folder):
        """Return whether a file lies below `folder`."""
        begin, end = self._range(folder)
        return begin < end

    def file(self, name):
        """Return a file in it, or None where it is not there."""
        return next(iter(self.select([name])), None) if self._row(name) is not None else None

    def files(self, folder):
        """Return the names of all files below `folder`, sorted."""
        begin, end = self._range(folder)
        return self.names[begin:end]

    def all_files(self):
        """Return the names of all files in it, sorted, without what a Mac's archiver leaves
        behind.
        """
        return [name for name in self.names if not name.startswith("__MACOSX/")]

    def select(self, names):
        """Return the source with these files, to be iterated."""
        taken = ZipArchive(
            self.path, self.inside, names, self.where[[self._row(name) for name in names]]
        )
        taken.quarantine_unreadable, taken.probes = self.quarantine_unreadable, self.probes
        return taken

    def __iter__(self):
        return (
            ZipMember(self.path, self.inside + name, *row)
            for name, row in zip(self.names, self.where.tolist(), strict=True)
        )

    def _row(self, name):
        row = bisect_left(self.names, name)
        return row if row < len(self.names) and self.names[row] == name else None

    def _range(self, folder):
        """Return the first and last but one row of the files below `folder`, which follow one
        another.
        """
        # "0" is what follows "/"
        return bisect_left(self.names, folder + "/"), bisect_left(self.names, folder + "0")


def open_zip(path):
    """Read the directory of a zip archive: once, and at the size of Kaggle's it takes seconds.
    Returns a Zip.

    Left out are folders, hidden files, and names that are absolute or lead upwards. Raises
    InputError, MachineFault.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            plain = (info for info in archive.infolist() if _is_plain(info.filename))
            found = {escaped_name(info.filename): info for info in plain}  # of two, the last
    except DAMAGE as error:
        raise_fault(error, f"{path}")
        raise _no_zip(path, str(error) or type(error).__name__) from None
    names = sorted(found)
    infos = map(found.pop, names)  # a million ZipInfo are a gigabyte: none is kept
    end = os.path.getsize(path)
    return ZipArchive(
        path, "", names, np.fromiter((_place(info, end) for info in infos), WHERE, len(names))
    )


def _place(info, end):
    """Return a row of WHERE of a member of an archive of `end` bytes; zip64 has room for numbers
    that int64 has not.
    """
    offset = info.header_offset if 0 <= info.header_offset < end else -1  # -1: there is no header
    size = min(info.file_size, 2 * LARGEST)
    return offset, min(info.compress_size, end), size, info.CRC, info.compress_type, info.flag_bits


def _no_zip(path, why):
    return InputError(
        f"{path} is a file, but no whole zip archive ({printable(why)}); --data names a folder or Kaggle's zip: "
        "if this should be the zip, download it again"
    )


def _is_plain(name):
    # a folder's name ends in "/"
    return not any(part == "" or part.startswith(".") for part in name.split("/"))
