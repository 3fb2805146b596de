"""Reads the files of a source and keeps two kinds of failure apart: the file's own, and the
machine's.

What is wrong with a file's bytes is Unreadable and goes to quarantine. Where the system fails to
hand the bytes over (no such disk, too many open files, no right to read), a quarantine would make a
part of the data look like all of it: that stops the stage. A file without the right to read it
counts as the machine's fault, too: its owner can mend it.
"""

import copy
import errno
from collections.abc import Callable, Iterator

from ct.errors import MachineFault
from ct.sources.folder import DiskFile, Folder
from ct.sources.source import NotARegularFile, Unreadable
from ct.sources.zip_archive import ZipArchive, ZipMember
from ct.system.machine_faults import GOES_ON, FileFault, data_unreadable, fault_of, out_of_memory

MOST_BYTES = 160 << 20  # of a file: the pixels of 4096 x 4096 with 64 bits, and a header
NEIGHBOURS = 4  # files on each side that are tried where one fails


def first_bytes(file: DiskFile | ZipMember, count: int) -> tuple[bytes, bool]:
    """Return (about the first `count` bytes of a file, whether that is all). Raises Unreadable,
    MachineFault.
    """
    try:
        return file.head(count)
    except (OSError, MemoryError) as error:
        raise _failure(error) from None


def all_bytes(file: DiskFile | ZipMember) -> bytes:
    """Return a file's bytes, MOST_BYTES at most. Raises Unreadable, MachineFault."""
    try:
        if (size := file.length()) > MOST_BYTES:
            raise Unreadable(
                f"{size >> 20} MB, more than a slice of 4096 x 4096 can have ({MOST_BYTES >> 20} MB)"
            )
        with file.open("rb") as stream:
            return stream.read(size)
    except (OSError, MemoryError) as error:
        raise _failure(error) from None


def _failure(error):
    """Return NoBytes for a link that leads to itself, which no machine can mend, else the machine's
    fault.
    """
    loop = isinstance(error, OSError) and error.errno == errno.ELOOP
    return NotARegularFile("a link that leads to itself") if loop else fault_of(error)


def with_probes(source: Folder | ZipArchive, names: list[str]) -> Folder | ZipArchive:
    """Return the source with the first, middle and last of `names`, all that is read of it, as its
    probes.
    """
    probed = copy.copy(source)
    probed.probes = tuple(
        source.select(sorted({names[0], names[len(names) // 2], names[-1]}) if names else [])
    )
    return probed


def read_each(
    read: Callable[[DiskFile | ZipMember], object], files: Folder | ZipArchive
) -> Iterator[tuple[object, str, bool]]:
    """Yield for each file what `read` returns, or None; why it is unreadable, or ""; whether that
    may pass.

    A file that the system does not hand over is tried again after its neighbours and the source's
    probes. If it fails again while one of them reads, or where there is no other, the source's
    `spares_unreadable` decides whether it counts as unreadable, which may pass, or all stops.

    Raises MachineFault.
    """
    spares, probes, files = files.quarantine_unreadable, files.probes, list(files)
    for place, file in enumerate(files):
        value, reason, may_pass = None, "", False
        try:
            value = read(file)
        except Unreadable as error:
            reason = str(error)
        except FileFault:
            value, reason, may_pass = _again(read, file, _others(files, place, probes), spares)
        except MemoryError:
            raise out_of_memory() from None
        yield value, reason, may_pass


def _others(files, place, probes):
    """Return the files that tell whether the system hands over any but the one at `place`."""
    near = files[max(place - NEIGHBOURS, 0) : place + 1 + NEIGHBOURS]
    return [file for file in dict.fromkeys([*near, *probes]) if file != files[place]]


def _again(read, file, others, spares):
    """Try a file again after others. Returns as `read_each` yields."""
    others_read = any(map(_reads, others))
    try:
        return read(file), "", False
    except Unreadable as error:
        return None, str(error), False
    except FileFault as error:
        fault = error
    if not (others_read or spares and not others):
        raise data_unreadable(str(fault), "is its disk still there, and may you read it?")
    if not spares:
        raise MachineFault(
            f"a file of the data cannot be read, {fault}, while others can: mend that, or put such files into quarantine with "
            f"--quarantine-unreadable; {GOES_ON}"
        )
    return None, f"cannot be read: {fault}", True


def _reads(file):
    """Return whether the system hands out a file's first byte."""
    try:
        first_bytes(file, 1)
    except (FileFault, NotARegularFile):
        return False
    except Unreadable:  # its bytes came, whatever they are
        return True
    return True
