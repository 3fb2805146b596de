"""Errors of the system in one line: what failed, the file if it may be named, and the remedy.

Only files that the user typed and files of the program are named: others may carry people's names.
"""

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ct.privacy.redaction import without_quoted_values
from ct.storage.atomic_write import temporary_paths

RECIPES = str(Path(__file__).resolve().parents[2] / "recipes")
DEMO = "runs/demo"  # where `demo` works without --run
WRITTEN = ("--run", "--to", "--out")  # flags of folders that the program writes
UNKNOWN = "a file"

_PERMISSION = "permission is missing; change the permissions, or give another path"
_CONTINUES = "the same command continues, finished work is kept"
_FEWER = "or use fewer processes (--workers=1)"
REMEDIES = {  # errno -> what to do about it
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "give another path",
    errno.EEXIST: "that is a file, but a folder is needed; give another path",
    errno.ENOTDIR: "part of the path is a file, but a folder is needed; give another path",
    errno.EISDIR: "that is a folder, but a file is needed; move it, or give the path of a file",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "its links form a circle; give another path",
    errno.ENOENT: "it was moved or cannot be made there; check the path",
    errno.ENOSPC: f"free disk space; {_CONTINUES}",
    errno.EDQUOT: f"free disk space; {_CONTINUES}",
    errno.EFBIG: f"raise the limit (ulimit -f); {_CONTINUES}",
    errno.EIO: f"check the disk; {_CONTINUES}",
    errno.ESTALE: f"mount it again; {_CONTINUES}",
    errno.ENOMEM: f"close other programs, {_FEWER}; {_CONTINUES}",
    errno.EMFILE: f"raise the limit (ulimit -n 1024), {_FEWER}; {_CONTINUES}",
    errno.ENFILE: f"close other programs; {_CONTINUES}",
}


def system_error(error: OSError | MemoryError, words: Sequence[str]) -> str:
    """Return the line for an error of the system, with its remedy.

    words: the command line. Python's and libraries' own messages may hold paths: none is repeated.
    """
    if isinstance(error, MemoryError):
        return f"out of memory; {REMEDIES[errno.ENOMEM]}"
    file = f"{shown_file(error.filename, words)}: " if error.filename else ""
    what = os.strerror(error.errno) if error.errno else without_quoted_values(str(error))
    remedy = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
    return f"{file}{what.lower()}{remedy}"


def shown_file(name: str | bytes | int, words: Sequence[str]) -> str:
    """Return how an error line names the file of an OSError.

    name: the error's file; words: the command line

    A path that the user typed is repeated as typed, a file of the program is named. Any other is
    "a file", or "a file below" what a flag names.
    """
    if not isinstance(name, str):
        return UNKNOWN
    path, flags = _absolute(name), _flags(words)
    for value in flags.values():
        typed = _absolute(value)
        if path == typed:
            return value
        if path in typed.parents:
            return str(path)
    written = {flag: flags[flag] for flag in WRITTEN if flag in flags}
    for value in written.values():
        # a folder is written under a temporary name next to its own
        if any(part in (path, *path.parents) for part in temporary_paths(_absolute(value))):
            return value
    return _name_below(name, path, flags, written)


def _name_below(name: str, path: Path, flags: Mapping[str, str], written: Mapping[str, str]) -> str:
    """Name a file by the innermost folder that holds it: the user's data, or the program's own."""
    program = [*written.values(), *([] if "--run" in written else [DEMO]), RECIPES, sys.prefix]
    data = [value for flag, value in flags.items() if flag not in written]
    folders = [folder for folder in [*data, *program] if path.is_relative_to(_absolute(folder))]
    # of two equal ones the first: the data's
    innermost = max(folders, key=lambda folder: len(_absolute(folder).parts), default=None)
    if innermost in data:
        return f"{UNKNOWN} below {innermost}"
    return UNKNOWN if innermost is None else name


def _absolute(folder: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(folder)))


def _flags(words: Sequence[str]) -> dict[str, str]:
    """Return {"--flag": value} of a command line, in either spelling."""
    flags = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            flags[flag.replace("_", "-")] = value if equals else following
    return {flag: value for flag, value in flags.items() if value and not value.startswith("--")}
