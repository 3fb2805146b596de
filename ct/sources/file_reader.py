"""Read the files of a source, and separate a file's own faults from the machine's.

Damaged bytes are the file's fault: it is Unreadable and goes to quarantine. Where the system cannot
read the bytes (a missing disk, too many open files, no permission), the stage stops with
MachineFault: a quarantine would silently leave out part of the data. A missing permission counts as
the machine's fault, since the user can grant it.
"""

import copy
import errno
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ct.errors import MachineFault
from ct.sources.source import NotARegularFile, Source, SourceFile, Unreadable
from ct.system.machine_faults import GOES_ON, FileFault, data_unreadable, fault_of, out_of_memory

MAX_FILE_BYTES = 160 << 20  # the pixels of 4096 x 4096 with 64 bits, and a header
MAX_VOLUME_BYTES = 1 << 30  # of a file of many slices: 2,000 of 512 x 512
NEIGHBOURS = 4  # files on each side that are read where one fails

S = TypeVar("S", bound=Source)
T = TypeVar("T")


def first_bytes(file: SourceFile, count: int) -> tuple[bytes, bool]:
    """Return (about the first `count` bytes of a file, whether that is the whole file).

    Raises Unreadable, MachineFault.
    """
    try:
        return file.head(count)
    except (OSError, MemoryError) as error:
        raise _failure(error) from None


def all_bytes(file: SourceFile, most: int = MAX_FILE_BYTES) -> bytes:
    """Return a file's bytes, `most` at most. Raises Unreadable, MachineFault."""
    try:
        size = file.length()
        if size > most:
            what = "a slice of 4096 x 4096" if most == MAX_FILE_BYTES else "a volume"
            raise Unreadable(f"{size >> 20} MB, more than {what} can have ({most >> 20} MB)")
        with file.open("rb") as stream:
            return stream.read(size)
    except (OSError, MemoryError) as error:
        raise _failure(error) from None


def _failure(error: OSError | MemoryError) -> Exception:
    """Return NotARegularFile for a link to itself, a fault of the file; else a MachineFault."""
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return NotARegularFile("a link that leads to itself")
    return fault_of(error)


def with_probes(source: S, names: Sequence[str]) -> S:
    """Return the source with the first, the middle and the last of `names` as its probes.

    names: all files that are read of the source, sorted
    """
    probed = copy.copy(source)
    probed.probes = tuple(source.select(probe_names(names)))
    return probed


def probe_names(names: Sequence[str]) -> list[str]:
    """Return the first, the middle and the last name, sorted; [] for no names."""
    return sorted({names[0], names[len(names) // 2], names[-1]}) if names else []


def read_each(
    read: Callable[[SourceFile], T], files: Source
) -> Iterator[tuple[T | None, str, bool]]:
    """Yield for each file (what `read` returns, reason why it is unreadable, is that transient).

    The value is None where the file is unreadable; the reason is "" where it is readable.

    Where the system cannot read a file, the neighbouring files and the source's probes are read,
    then the file once more. If `files.quarantine_unreadable` is set, and one of the other files can
    be read or there are none, the file is unreadable for a transient reason. In all other cases
    the machine is at fault.

    Raises MachineFault.
    """
    quarantine, probes, listed = files.quarantine_unreadable, files.probes, list(files)
    for place, file in enumerate(listed):
        value, reason, transient = None, "", False
        try:
            value = read(file)
        except Unreadable as error:
            reason = str(error)
        except FileFault:
            others = _other_files(listed, place, probes)
            value, reason, transient = _retry(read, file, others, quarantine)
        except MemoryError:
            raise out_of_memory() from None
        yield value, reason, transient


def _other_files(
    files: list[SourceFile], place: int, probes: tuple[SourceFile, ...]
) -> list[SourceFile]:
    """Return the neighbours of the file at `place`, and the probes."""
    near = files[max(place - NEIGHBOURS, 0) : place + 1 + NEIGHBOURS]
    return [file for file in dict.fromkeys([*near, *probes]) if file != files[place]]


def _retry(
    read: Callable[[SourceFile], T], file: SourceFile, others: list[SourceFile], quarantine: bool
) -> tuple[T | None, str, bool]:
    """Read a file once more, after others. Returns what `read_each` yields."""
    others_read = any(map(_can_be_read, others))
    try:
        return read(file), "", False
    except Unreadable as error:
        return None, str(error), False
    except FileFault as error:
        fault = error
    if not (others_read or (quarantine and not others)):
        raise data_unreadable(str(fault), "is its disk still there, and may you read it?")
    if not quarantine:
        raise MachineFault(
            f"a file of the data cannot be read, {fault}, while others can: mend that, or put such "
            f"files into quarantine with --quarantine-unreadable; {GOES_ON}"
        )
    return None, f"cannot be read: {fault}", True


def _can_be_read(file: SourceFile) -> bool:
    """Return whether the system can read a file's first byte."""
    try:
        first_bytes(file, 1)
    except (FileFault, NotARegularFile):
        return False
    except Unreadable:  # its bytes are damaged, but they are there
        return True
    return True
