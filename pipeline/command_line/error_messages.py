"""Which files an error line may name: those that the user typed, and the program's own. Others may
be named after people.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ct.privacy.redaction import without_quoted_values
from ct.storage.atomic_write import asides

RECIPES = str(Path(__file__).resolve().parents[2] / "recipes")
DEMO = "runs/demo"  # where `demo` works without --run
WRITTEN = ("--run", "--to", "--out")  # flags of folders that the program writes
UNKNOWN = "a file"


def shown_error(error: OSError, words: Sequence[str]) -> str:
    """Return what an error of the system is, with its file as `shown_file` calls it; libraries' own
    words may hold paths.
    """
    where = f"{shown_file(error.filename, words)}: " if error.filename else ""
    what = os.strerror(error.errno) if error.errno else without_quoted_values(str(error))
    return f"{where}{what.lower()}"


def shown_file(name: str | bytes | int, words: Sequence[str]) -> str:
    """Return how an error line calls the file of an OSError: as the user typed it, or by its place
    in a folder of the program.

    name: the error's; words: of the command line. Any other is "a file", or "a file below" what a
    flag names.
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
    own = {flag: flags[flag] for flag in WRITTEN if flag in flags}
    for value in own.values():  # it is written under another name beside its own
        if any(part in (path, *path.parents) for part in asides(_absolute(value))):
            return value
    own_folders = [*own.values(), *([] if "--run" in own else [DEMO]), RECIPES, sys.prefix]
    data = [value for flag, value in flags.items() if flag not in own]
    holding = [folder for folder in [*data, *own_folders] if path.is_relative_to(_absolute(folder))]
    # of two alike, the data's
    nearest = max(holding, key=lambda folder: len(_absolute(folder).parts), default=None)
    if nearest in data:
        return f"{UNKNOWN} below {nearest}"
    return UNKNOWN if nearest is None else name


def _absolute(folder):
    return Path(os.path.abspath(os.path.expanduser(folder)))


def _flags(words):
    """Return {"--flag": value} of a command line, in either spelling."""
    flags = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            flags[flag.replace("_", "-")] = value if equals else following
    return {flag: value for flag, value in flags.items() if value and not value.startswith("--")}
