"""Reads the files of a source and keeps two kinds of failure apart: the file's own, and the machine's.

What is wrong with a file's bytes is Unreadable and goes to quarantine. Where the system fails to hand the bytes over (no such
disk, too many open files, no right to read), a quarantine would make a part of the data look like all of it: that stops
the stage. A file without the right to read it counts as the machine's fault, too: its owner can mend it.
"""

from collections.abc import Callable, Iterator

from ct.archive import InZip, Zip
from ct.errors import MachineFault
from ct.faults import GOES_ON, FileFault, fault_of, out_of_memory, unread
from ct.source import Folder, OnDisk, Unreadable

MOST_BYTES = 160 << 20  # of a file: the pixels of 4096 x 4096 with 64 bits, and a header
NEIGHBOURS = 4  # files on each side that are tried where one fails


def first_bytes(file: OnDisk | InZip, count: int) -> tuple[bytes, bool]:
    """Return (about the first `count` bytes of a file, whether that is all). Raises Unreadable, MachineFault."""
    try:
        return file.head(count)
    except (OSError, MemoryError) as error:
        raise fault_of(error) from None


def all_bytes(file: OnDisk | InZip) -> bytes:
    """Return a file's bytes, MOST_BYTES at most. Raises Unreadable, MachineFault."""
    try:
        if (size := file.length()) > MOST_BYTES:
            raise Unreadable(f"{size >> 20} MB, more than a slice of 4096 x 4096 can have ({MOST_BYTES >> 20} MB)")
        with file.open("rb") as stream:
            return stream.read(size)
    except (OSError, MemoryError) as error:
        raise fault_of(error) from None


def read_each(read: Callable[[OnDisk | InZip], object], files: Folder | Zip) -> Iterator[tuple[object, str, bool]]:
    """Yield for each file what `read` returns, or None; why it is unreadable, or ""; whether that may pass.

    A file that the system does not hand over is tried again after its neighbours. If it fails again while one of them reads,
    the source's `spares_unreadable` decides whether it counts as unreadable, which may pass, or all stops.

    Raises MachineFault.
    """
    spares, files = files.spares_unreadable, list(files)
    for place, file in enumerate(files):
        value, reason, may_pass = None, "", False
        try:
            value = read(file)
        except Unreadable as error:
            reason = str(error)
        except FileFault:
            value, reason, may_pass = _again(read, files, place, spares)
        except MemoryError:
            raise out_of_memory() from None
        yield value, reason, may_pass


def _again(read, files, place, spares):
    """Try a file again after others. Returns as `read_each` yields."""
    others = [*files[max(place - NEIGHBOURS, 0) : place], *files[place + 1 : place + 1 + NEIGHBOURS]]
    others_read = any(_reads(file) for file in others)
    try:
        return read(files[place]), "", False
    except Unreadable as error:
        return None, str(error), False
    except FileFault as error:
        fault = error
    if not others_read:
        raise unread(str(fault), "is its disk still there, and may you read it?")
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
    except FileFault:
        return False
    except Unreadable:  # its bytes came, whatever they are
        return True
    return True
