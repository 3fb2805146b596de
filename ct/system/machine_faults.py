"""Faults of the machine while data are read, one line each: a missing disk, memory, permissions."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ct.errors import MachineFault

REMEDIES = {  # system errors that no single file causes -> what to do
    errno.EMFILE: "raise the limit (ulimit -n 1024) or take fewer processes (--workers=1)",
    errno.ENFILE: "the system has too many open; close other programs",
    errno.ENOMEM: "take fewer processes (--workers=1) or close other programs",
    errno.ENODEV: "mount it again",
    errno.ENXIO: "mount it again",
    errno.ENOTCONN: "mount it again",
}
GOES_ON = "the same command continues, what is finished is kept"


class FileFault(MachineFault):
    """The system failed to read one file; other files may be readable.

    Its text is the system's error text.
    """


def data_unreadable(why: str, remedy: str) -> MachineFault:
    """Return the MachineFault for data that cannot be read. remedy: what the user can do."""
    return MachineFault(f"the data cannot be read, {why}: {remedy}; {GOES_ON}")


def out_of_memory() -> MachineFault:
    """Return the MachineFault for a lack of memory."""
    return data_unreadable("out of memory", REMEDIES[errno.ENOMEM])


def fault_of(error: OSError | MemoryError) -> MachineFault:
    """Return the MachineFault for an error of the system.

    It is a FileFault where the error may concern only one file.
    """
    if isinstance(error, MemoryError):
        return out_of_memory()
    why = (error.strerror or type(error).__name__).lower()
    remedy = REMEDIES.get(error.errno) if error.errno is not None else None
    return data_unreadable(why, remedy) if remedy else FileFault(why)


def fault_of_source(error: OSError | MemoryError, remedy: str) -> MachineFault:
    """Return the MachineFault for an error of the system where no single file can be left out.

    remedy: what to do about an error that is not in REMEDIES
    """
    fault = fault_of(error)
    return data_unreadable(str(fault), remedy) if isinstance(fault, FileFault) else fault


def raise_fault(error: Exception, where: str) -> None:
    """Raise MachineFault where the system caused an error while the file `where` was read.

    zipfile raises its own errors with the system's as context. Two kinds of OSError come from
    damaged files instead: one without a number (gzip, safetensors), and EINVAL (an offset before
    the start of the file).
    """
    cause = error if isinstance(error, OSError) else error.__context__
    if isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL):
        raise fault_of_source(
            cause, f"is the disk of {where} still there, and may you read it?"
        ) from None


@contextmanager
def listing_faults() -> Iterator[None]:
    """Turn system errors while folders are listed into MachineFault, without folder names.

    The names may be people's names.
    """
    try:
        yield
    except OSError as error:
        raise fault_of_source(
            error, "is its disk still there, and may you read all its folders?"
        ) from None
