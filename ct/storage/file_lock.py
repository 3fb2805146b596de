"""Locks between processes, also of several machines: flock(2) on a file.

The operating system releases a lock when its process ends, however it ends: an old lock file means
nothing. On a network disk that holds only where the disk carries flock from machine to machine
(docs/scaling.md). A lock by a database or by the mere existence of a file would not be released
after a kill.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ct.errors import InputError

HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)  # another process holds it
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def file_lock(path: Path, shared: bool = False, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a file; yield False, at once, where others hold it and `wait` is False.

    shared: together with others that hold it shared; else alone

    The file is made, and stays when the lock is released. Raises InputError where it is a link, or
    where the disk has no such locks.
    """
    handle = _locked_file(path, shared, wait)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            # before the file is closed: a forked process may have a copy of the handle
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)


def discard_unused(folder: Path) -> None:
    """Remove a folder of lock files and other files, but for the locks that others hold."""
    for path in folder.glob("*"):
        if path.suffix != ".lock":
            path.unlink(missing_ok=True)
            continue
        with file_lock(path) as held:
            if held:  # whoever waits for it finds that the file is gone, and makes a new one
                path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()  # fails where a lock is held, or the folder is not there


def _locked_file(path: Path, shared: bool, wait: bool) -> int | None:
    """Return a handle of the locked file, or None where others hold it."""
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        handle = _open(path)
        try:
            fcntl.flock(handle, operation | (0 if wait else fcntl.LOCK_NB))
            if _is_at(path, handle):
                return handle
        except OSError as error:
            os.close(handle)
            if error.errno in HELD:
                return None
            if error.errno in NO_LOCKS:
                raise InputError(
                    f"{path.parent}: this disk has no file locks ({error.strerror}); put the run "
                    "folder on one that has them (docs/scaling.md)"
                ) from None
            raise
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # `discard_unused` has removed the file in between


def _open(path: Path) -> int:
    try:
        # for writing: NFS refuses an exclusive lock on a file that is open for reading
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(
                f"{path} is a link; nothing is written or removed beyond it: remove the link"
            ) from None
        raise


def _is_at(path: Path, handle: int) -> bool:
    """Return whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return False
