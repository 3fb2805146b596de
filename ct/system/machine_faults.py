"""The machine's faults while data are read, as one line each: a disk that is gone, too many open
files, memory, rights.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ct.errors import MachineFault

REMEDIES = {  # the system's errors that have nothing to do with one file -> what to do
    errno.EMFILE: "raise the limit (ulimit -n 1024) or take fewer processes (--workers=1)",
    errno.ENFILE: "the system has too many open; close other programs",
    errno.ENOMEM: "take fewer processes (--workers=1) or close other programs",
    errno.ENODEV: "mount it again",
    errno.ENXIO: "mount it again",
    errno.ENOTCONN: "mount it again",
}
GOES_ON = "the same command continues, what is finished is kept"


class FileFault(MachineFault):
    """The system failed to read one file; whether others can be read is to be found out. Its text
    is the system's.
    """


def data_unreadable(why: str, remedy: str) -> MachineFault:
    """Return the fault that the data cannot be read."""
    return MachineFault(f"the data cannot be read, {why}: {remedy}; {GOES_ON}")


def out_of_memory() -> MachineFault:
    """Return the fault that memory does not suffice."""
    return data_unreadable("out of memory", REMEDIES[errno.ENOMEM])


def fault_of(error: OSError | MemoryError) -> MachineFault:
    """Return the fault that an error of the system is: a FileFault where it may concern one file
    alone.
    """
    if isinstance(error, MemoryError):
        return out_of_memory()
    why = (error.strerror or type(error).__name__).lower()
    return (
        data_unreadable(why, REMEDIES[error.errno]) if error.errno in REMEDIES else FileFault(why)
    )


def fault_of_source(error: OSError | MemoryError, remedy: str) -> MachineFault:
    """Return the fault that an error of the system is where no single file can be left out.

    remedy: for an error that has none in REMEDIES
    """
    fault = fault_of(error)
    return data_unreadable(str(fault), remedy) if isinstance(fault, FileFault) else fault


def raise_fault(error: Exception, where: str) -> None:
    """Raise MachineFault where an error while the file `where` is read is the system's, or hides
    one, as zipfile's do.

    An OSError without a number is not: gzip and safetensors call damage so. Nor is EINVAL: damaged
    places lie before a file.
    """
    cause = error if isinstance(error, OSError) else error.__context__
    if isinstance(cause, OSError) and cause.errno not in (None, errno.EINVAL):
        raise fault_of_source(
            cause, f"is the disk of {where} still there, and may you read it?"
        ) from None


@contextmanager
def listing_faults() -> Iterator[None]:
    """Turn the system's errors while folders are listed into MachineFault, without names, which may
    be people's.
    """
    try:
        yield
    except OSError as error:
        raise fault_of_source(
            error, "is its disk still there, and may you read all its folders?"
        ) from None
