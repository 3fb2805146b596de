"""Files and folders that are whole or not there: written under a `.part` name, flushed to the disk,
then renamed.

A folder that is there already is renamed to `.old` while the new one takes its place, and removed
afterwards: a process that is killed in between leaves one of the two, and `restore` puts the old
one back. Links are replaced, never followed.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ct.errors import InputError

# in the name of what this program writes beside a user's own folders, before `.part`
MARK = ".ich-stack"
NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # of file systems that do not flush folders
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# folders of a run that are replaced as a whole, never written into
WHOLE = ("pixels", "stage2/boosters", "imports/*")


@contextmanager
def replacing(path: Path | str, lasting: bool = True, among_users: bool = False) -> Iterator[Path]:
    """Give a `.part` path to write a file or folder to; it becomes `path` when the block ends, or
    goes on an error.

    lasting: flush what was written, and the rename, to the disk; False for notes of progress and
    for what is verified by its digest before it is used. among_users: `path` lies among a user's
    own files: the `.part` name then bears MARK, since what has that name already is removed.
    """
    path = Path(path)
    part = _unfinished(path, among_users)
    path.parent.mkdir(parents=True, exist_ok=True)
    restore(path)
    discard(part)
    try:
        yield part
        if lasting:
            flush(part)
    except BaseException as error:
        # a worker may still write into it; the error that brought us here matters more
        with suppress(OSError):
            discard(part)
        if full := as_full_disk(error, path):
            raise full from error
        raise
    put(part, path, lasting)


def put(made: Path, path: Path, lasting: bool = True) -> None:
    """Rename a flushed file or folder to `path`; a folder that is there goes aside, since no rename
    replaces a full one.

    Interrupted at any moment, `made` is whole, under one of the two names. lasting: as in
    `replacing`
    """
    restore(path)
    if made.is_dir() and os.path.lexists(path):
        os.rename(path, _aside(path))
    os.replace(made, path)
    if lasting:
        _flush(path.parent)
    discard(_aside(path))


def as_full_disk(error: BaseException, path: Path | str) -> OSError | None:
    """Return the error of a full disk, or of a limit of size, as one that names the file `path`;
    None for any other error.

    Libraries put it into words of their own: safetensors raises "... (os error 28)", numpy "4896
    requested and 4032 written".
    """
    number, text = getattr(error, "errno", None), str(error)
    if rust := re.search(r"\(os error (\d+)\)", text):
        number = int(rust[1])
    elif isinstance(error, OSError) and re.fullmatch(r"\d+ requested and \d+ written", text):
        number = errno.ENOSPC
    if number not in FULL or getattr(error, "filename", None):
        return None
    return OSError(number, os.strerror(number), str(path))


def asides(path: Path) -> tuple[Path, Path]:
    """Return the names beside a user's `path` under which it is written, and kept while it is
    replaced.
    """
    return _unfinished(path, among_users=True), _aside(path)


def _unfinished(path: Path, among_users: bool) -> Path:
    return path.with_name(f"{path.name}{MARK if among_users else ''}.part")


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}{MARK}.old")


def restore(path: Path) -> None:
    """Undo a replacement of the folder `path` that a killed process left half done: the old folder
    is put back.
    """
    old = _aside(path)
    if not os.path.lexists(old):
        return
    if os.path.lexists(path):  # only the removal was left to do
        discard(old)
    else:
        os.rename(old, path)


def restore_all(root: Path) -> None:
    """Undo all replacements in the run folder `root` that a killed process left half done."""
    for folder in WHOLE:
        for old in root.glob(f"{folder}{MARK}.old"):
            restore(old.with_name(old.name.removesuffix(f"{MARK}.old")))


def refuse_links(root: Path) -> None:
    """Raise InputError where a folder below the run folder `root` that is written into is a link to
    another place.

    What is replaced as a whole may be one, such as pixels/ on a larger disk: it is read there, and
    never written.
    """
    whole = {path for folder in WHOLE for path in root.glob(folder)}
    for folder, names, _ in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() and path not in whole:
                raise InputError(
                    f"{path.relative_to(root)} in the run folder {root} is a link; nothing is written or removed beyond "
                    "it: put the folder itself in its place"
                )


def flush(path: Path) -> None:
    """Have a file, or a folder with all that is below it, written to the disk by the system; links
    are left alone.
    """
    if path.is_dir() and not path.is_symlink():
        for folder, _, names in os.walk(path):
            for name in names:
                _flush(os.path.join(folder, name))
            _flush(folder)
    else:
        _flush(path)


def _flush(path: Path | str) -> None:
    if os.path.islink(path):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (os.path.isdir(path) and error.errno in NO_FLUSH):
            raise
    finally:
        os.close(handle)


def discard(path: Path) -> None:
    """Remove the file, link or folder `path` if it is there; what a link points to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
