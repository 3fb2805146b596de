"""A zip archive as a source of files, read in place: stored and deflated members, also zip64.

`open_zip` reads the archive's directory once (PKWARE's APPNOTE.TXT, section 4.3). A ZipMember is
read without the directory.
"""

import io
import os
import struct
import zipfile
import zlib
from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from ct.errors import InputError, printable
from ct.sources.decompression_limit import max_unpacked_bytes
from ct.sources.file_kinds import HEAD_BYTES, lone_file_remedy
from ct.sources.frames import as_frame, file_of_frame
from ct.sources.source import SourceFile, Unreadable
from ct.sources.zip_names import named_members
from ct.system.machine_faults import raise_fault

# a row of the archive's directory: where the member's local header begins, its size in the archive
# and unpacked (bytes), its checksum, how it is compressed, the flags
ENTRY = np.dtype(
    [
        ("offset", "i8"),
        ("packed", "i8"),
        ("size", "i8"),
        ("crc", "u4"),
        ("method", "u2"),
        ("flags", "u2"),
    ]
)
REPLACED = -2  # as the offset of a member: a later one has the same name
ENCRYPTED = 1  # bit of the flags
LOCAL_HEADER = 30  # bytes, before the name and the extra field
MAX_MEMBER_BYTES = 512 << 20  # unpacked; a slice of 4,096 x 4,096 has 32 MB, Kaggle's label csv 119
DAMAGE = (  # what zipfile raises for a damaged archive
    zipfile.BadZipFile,
    NotImplementedError,
    ValueError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
)


class ZipMember(NamedTuple):
    """A member of a zip archive; a SourceFile. The fields after its name are those of ENTRY."""

    archive: str
    name: str
    offset: int
    packed: int
    size: int
    crc: int
    method: int
    flags: int

    def head(self, count: int) -> tuple[bytes, bool]:
        """Return (about the first `count` bytes, whether that is all, which then is checked).

        Raises Unreadable, OSError.
        """
        # `count` packed bytes inflate to about as many at least; if to fewer, `whole` is False
        packed = self._packed_bytes(count)
        head = self._inflate(packed, count) if self.method == zipfile.ZIP_DEFLATED else packed
        if len(head) < self.size:
            return head, False
        return self._checked(head), True

    def length(self) -> int:
        """Return the unpacked size in bytes, as in the archive's directory."""
        return self.size

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedIOBase:
        """Read and check all of it; return it as a stream of bytes. Raises Unreadable, OSError."""
        if self.size > min(MAX_MEMBER_BYTES, max_unpacked_bytes(self.packed)):
            raise Unreadable(
                f"packed in the zip archive so that {self.packed} bytes make {self.size}, "
                "which no slice does"
            )
        packed = self._packed_bytes(self.packed)
        if self.method == zipfile.ZIP_DEFLATED:
            return io.BytesIO(self._checked(self._inflate(packed, self.size + 1)))
        return io.BytesIO(self._checked(packed))

    def version(self) -> Hashable:
        """Return the checksum, as in the archive's directory."""
        return self.crc

    def _packed_bytes(self, count: int) -> bytes:
        """Return the first `count` bytes as they are stored in the archive."""
        if self.offset == REPLACED:
            raise Unreadable("another member of the zip archive has the same name, and is read")
        if self.flags & ENCRYPTED:
            raise Unreadable("encrypted in the zip archive")
        if self.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unreadable(
                f"compressed in the zip archive by method {self.method}; "
                "only stored and deflated files are read"
            )
        file = os.open(self.archive, os.O_RDONLY)
        try:
            # the offset is below 0 where the archive has lost its beginning
            header = os.pread(file, LOCAL_HEADER, max(self.offset, 0))
            if self.offset < 0 or len(header) < LOCAL_HEADER or header[:4] != b"PK\x03\x04":
                raise Unreadable("damaged in the zip archive: no header where it should begin")
            name_length = int.from_bytes(header[26:28], "little")
            extra_length = int.from_bytes(header[28:30], "little")
            begin = self.offset + LOCAL_HEADER + name_length + extra_length
            return os.pread(file, min(count, self.packed), begin)
        finally:
            os.close(file)

    def _inflate(self, packed: bytes, count: int) -> bytes:
        try:
            return isal_zlib.decompressobj(wbits=-15).decompress(packed, count) if packed else b""
        except isal_zlib.error:  # type: ignore[misc]  # its stub declares an instance
            raise Unreadable("damaged in the zip archive: cannot be inflated") from None

    def _checked(self, whole: bytes) -> bytes:
        """Return all bytes of the member. Raises Unreadable where size or checksum are wrong."""
        if len(whole) != self.size:
            length = min(len(whole), self.size + 1)
            raise Unreadable(f"damaged in the zip archive: {length} of {self.size} bytes")
        if isal_zlib.crc32(whole) != self.crc:
            raise Unreadable("damaged in the zip archive: its checksum is another")
        return whole

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"


class ZipArchive:
    """A zip archive, or a folder inside it, as a Source; see there for its methods and attributes.

    path: of the archive; inside: "" or a folder in the archive, ending in "/"; names: of its files,
    escaped, relative to `inside`, sorted; entries: (n,) of dtype ENTRY
    """

    quarantine_unreadable = False
    probes: tuple[SourceFile, ...] = ()

    def __init__(
        self, path: str | Path, inside: str, names: Sequence[str], entries: NDArray[np.void]
    ) -> None:
        self.path, self.inside, self.names, self.entries = str(path), inside, names, entries
        self.root = Path(path) / inside

    def folders(self) -> list[str]:
        """Return the names of the folders in it, sorted, but hidden ones and __MACOSX."""
        first = {name.partition("/")[0] for name in self.names if "/" in name}
        return sorted(name for name in first if not name.startswith("__"))

    def subfolder(self, folder: str) -> "ZipArchive":
        """Return one of its folders as a source."""
        begin, end = self._rows_below(folder)
        names = [name[len(folder) + 1 :] for name in self.names[begin:end]]
        return ZipArchive(self.path, f"{self.inside}{folder}/", names, self.entries[begin:end])

    def has_files(self, folder: str) -> bool:
        """Return whether there is a file below `folder`."""
        begin, end = self._rows_below(folder)
        return begin < end

    def file(self, name: str) -> ZipMember | None:
        """Return a file in it, or None where there is none."""
        try:
            [entry] = self.select([name]).entries.tolist()
        except KeyError:
            return None
        return ZipMember(self.path, self.inside + name, *entry)

    def files(self, folder: str) -> list[str]:
        """Return the names of all files below `folder`, sorted."""
        begin, end = self._rows_below(folder)
        return list(self.names[begin:end])

    def all_files(self) -> list[str]:
        """Return the names of all files in it, sorted, without those of __MACOSX."""
        return [name for name in self.names if not name.startswith("__MACOSX/")]

    def select(self, names: Sequence[str]) -> "ZipArchive":
        """Return the source of these files alone, to be iterated."""
        entries = self.entries[[self._row(name) for name in names]]
        selected = ZipArchive(self.path, self.inside, names, entries)
        selected.quarantine_unreadable, selected.probes = self.quarantine_unreadable, self.probes
        return selected

    def __iter__(self) -> Iterator[SourceFile]:
        for name, entry in zip(self.names, self.entries.tolist(), strict=True):
            yield as_frame(name, ZipMember(self.path, self.inside + file_of_frame(name), *entry))

    def _row(self, name: str) -> int:
        """Return the row of a file, or of a frame's file, in `entries`.

        Raises KeyError where there is none.
        """
        for listed in (name, file_of_frame(name)):
            row = bisect_left(self.names, listed)
            if row < len(self.names) and self.names[row] == listed:
                return row
        raise KeyError(name)

    def _rows_below(self, folder: str) -> tuple[int, int]:
        """Return the range (begin, end) of the files below `folder`, which follow one another."""
        # "0" is the character after "/"
        return bisect_left(self.names, folder + "/"), bisect_left(self.names, folder + "0")


def open_zip(path: str | Path) -> ZipArchive:
    """Read the directory of a zip archive, once: for one of Kaggle's size it takes seconds.

    Hidden files are left out, as in a folder. A member that a later one of the same name replaces
    is listed under another name, and unreadable. Raises InputError, MachineFault.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            files, replaced = named_members(archive.infolist())
    except DAMAGE as error:
        raise_fault(error, f"{path}")
        with open(path, "rb") as file:
            remedy = lone_file_remedy(str(path), file.read(HEAD_BYTES))
        if remedy:
            raise InputError(f"{path} is {remedy} with --data, or a zip archive") from None
        why = printable(str(error) or type(error).__name__)
        raise InputError(
            f"{path} is a file, but no whole zip archive ({why}); "
            "--data names a folder or Kaggle's zip: if this should be the zip, download it again"
        ) from None
    names = sorted([*files, *replaced])
    end = os.path.getsize(path)
    # `pop`: a million ZipInfo take a gigabyte
    rows = (
        _entry(files.pop(name), end) if name in files else _replaced_entry(replaced[name])
        for name in names
    )
    return ZipArchive(path, "", names, np.fromiter(rows, ENTRY, len(names)))


def _entry(info: zipfile.ZipInfo, end: int) -> tuple[int, ...]:
    """Return the row of ENTRY of a member of an archive of `end` bytes.

    The fields of zip64 can hold numbers that int64 cannot.
    """
    offset = info.header_offset if 0 <= info.header_offset < end else -1  # -1: there is no header
    size = min(info.file_size, 2 * MAX_MEMBER_BYTES)
    return offset, min(info.compress_size, end), size, info.CRC, info.compress_type, info.flag_bits


def _replaced_entry(info: zipfile.ZipInfo) -> tuple[int, ...]:
    """Return the row of ENTRY of a member that is listed but not read."""
    return REPLACED, 0, 0, info.CRC, info.compress_type, info.flag_bits
