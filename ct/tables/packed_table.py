"""Unpack a table: the content of a gzip file, or the only file of a zip archive."""

import gzip
import io
import struct
import zipfile
import zlib
from typing import IO

from ct.errors import InputError, reason_of
from ct.sources.decompression_limit import max_unpacked_bytes
from ct.system.machine_faults import raise_fault
from ct.tables.table_kinds import EMPTY_ZIP, GZIP, SPREADSHEET, ZIP, is_spreadsheet

# what the libraries raise for a damaged file
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    OverflowError,
    EOFError,
    RuntimeError,
    NotImplementedError,
)
UNPACKING = (*DAMAGE, zlib.error, struct.error, zipfile.BadZipFile)
Binary = IO[bytes] | io.BufferedIOBase  # a file that is open for reading bytes


def unpacked(file: Binary, where: str) -> Binary:
    """Return the file, or the content of a gzip or zip file, at its start.

    Raises InputError where it is damaged or unpacks to too many bytes; MachineFault where the disk
    fails.
    """
    magic = file.read(4)
    packed = file.seek(0, io.SEEK_END)
    file.seek(0)
    most = max_unpacked_bytes(packed)
    try:
        if magic[:2] == GZIP:
            with gzip.GzipFile(fileobj=file) as stream:
                data = stream.read(most + 1)
        elif magic in (ZIP, EMPTY_ZIP):
            with zipfile.ZipFile(file) as archive:
                data = _only_member(archive, where).read(most + 1)
        else:
            return file
    except UNPACKING as error:
        raise_fault(error, where)
        raise InputError(
            f"{where} is damaged, it cannot be unpacked ({reason_of(error)}); download it again"
        ) from None
    if len(data) > most:
        raise InputError(
            f"{where} unpacks to more than {most >> 20} MB from {packed} bytes, too many for a csv"
        )
    return io.BytesIO(data)


def _only_member(archive: zipfile.ZipFile, where: str) -> IO[bytes]:
    """Open the only file of a zip archive, except for the extra files of a Mac.

    Raises InputError where there is not exactly one, or the archive is a spreadsheet.
    """
    if is_spreadsheet(archive.namelist()):
        raise InputError(f"{where} is {SPREADSHEET}")
    members = [
        info
        for info in archive.infolist()
        if not info.is_dir() and not info.filename.startswith(("__MACOSX", "."))
    ]
    if len(members) != 1:
        raise InputError(
            f"{where} is a zip archive of {len(members)} files; unpack it, and name the csv in it"
        )
    return archive.open(members[0])
