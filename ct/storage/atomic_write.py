"""Atomic writes: a file or folder is complete or absent, also after a kill.

It is written under a `.part` name, flushed to the disk, then renamed. A folder that exists is first
renamed to `.old`, and removed when the new one is in its place. Where a kill left only the old one,
`restore` renames it back. Links are replaced, never followed.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ct.errors import InputError

# part of the temporary names that this program writes among a user's own files
MARK = ".ich-stack"
# error numbers of file systems that cannot flush folders
CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# folders of a run that are replaced as a whole, never written into
REPLACED_FOLDERS = ("pixels", "stage2/boosters", "imports/*")


@contextmanager
def replacing(path: Path | str, lasting: bool = True, among_users: bool = False) -> Iterator[Path]:
    """Yield a `.part` path to write a file or folder to; it replaces `path` when the block ends.

    lasting:     flush the content and the rename to the disk. False for progress notes, and for
                 files whose digest is checked before they are used
    among_users: `path` lies among a user's own files. The `.part` name then contains MARK, since an
                 older file of that name is removed

    On an error the `.part` file is removed and `path` stays as it was.
    """
    path = Path(path)
    part = _part_path(path, among_users)
    path.parent.mkdir(parents=True, exist_ok=True)
    restore(path)
    discard(part)
    try:
        yield part
        if lasting:
            flush(part)
    except BaseException as error:
        # a worker may still write into it; the first error matters more
        with suppress(OSError):
            discard(part)
        if full := as_full_disk(error, path):
            raise full from error
        raise
    move_into_place(part, path, lasting)


def move_into_place(source: Path, path: Path, lasting: bool = True) -> None:
    """Rename a flushed file or folder to `path`, and remove the old one.

    After a kill at any moment, `source` is complete under one of the two names. lasting: as in
    `replacing`.
    """
    restore(path)
    if source.is_dir() and os.path.lexists(path):
        os.rename(path, _old_path(path))  # no rename replaces a folder that is not empty
    os.replace(source, path)
    if lasting:
        _flush(path.parent)
    discard(_old_path(path))


def as_full_disk(error: BaseException, path: Path | str) -> OSError | None:
    """Return the error of a full disk or size limit as an OSError that names `path`, else None.

    Some libraries raise such errors as text: safetensors "... (os error 28)", numpy "4896 requested
    and 4032 written".
    """
    number, text = getattr(error, "errno", None), str(error)
    if rust := re.search(r"\(os error (\d+)\)", text):
        number = int(rust[1])
    elif isinstance(error, OSError) and re.fullmatch(r"\d+ requested and \d+ written", text):
        number = errno.ENOSPC
    if number not in DISK_FULL or getattr(error, "filename", None):
        return None
    return OSError(number, os.strerror(number), str(path))


def temporary_paths(path: Path) -> tuple[Path, Path]:
    """Return the temporary `.part` and `.old` paths beside a user's `path`."""
    return _part_path(path, among_users=True), _old_path(path)


def _part_path(path: Path, among_users: bool) -> Path:
    return path.with_name(f"{path.name}{MARK if among_users else ''}.part")


def _old_path(path: Path) -> Path:
    return path.with_name(f"{path.name}{MARK}.old")


def restore(path: Path) -> None:
    """Undo a replacement of the folder `path` that a killed process left unfinished."""
    old = _old_path(path)
    if not os.path.lexists(old):
        return
    if os.path.lexists(path):  # only the removal of the old folder was missing
        discard(old)
    else:
        os.rename(old, path)


def restore_all(root: Path) -> None:
    """Undo all unfinished replacements in the run folder `root`."""
    for folder in REPLACED_FOLDERS:
        for old in root.glob(f"{folder}{MARK}.old"):
            restore(old.with_name(old.name.removesuffix(f"{MARK}.old")))


def refuse_links(root: Path) -> None:
    """Raise InputError where a folder in the run folder `root` is a link.

    Folders that are replaced as a whole may be links, such as pixels/ on a larger disk: they are
    read and never written into.
    """
    replaced = {path for folder in REPLACED_FOLDERS for path in root.glob(folder)}
    for folder, names, _ in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_symlink() and path not in replaced:
                raise InputError(
                    f"{path.relative_to(root)} in the run folder {root} is a link; "
                    "nothing is written or removed beyond it: put the folder itself in its place"
                )


def flush(path: Path) -> None:
    """Write a file, or a folder with all files below it, from the system's cache to the disk.

    Links are skipped.
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
        if not (os.path.isdir(path) and error.errno in CANNOT_FLUSH):
            raise
    finally:
        os.close(handle)


def discard(path: Path) -> None:
    """Remove the file, link or folder `path` if it exists; the target of a link stays."""
    while path.is_dir() and not path.is_symlink():
        with suppress(FileNotFoundError):  # another process removes it, too
            shutil.rmtree(path)
    path.unlink(missing_ok=True)
