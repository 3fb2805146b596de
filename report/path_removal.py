"""Remove the folders of absolute paths from what the page shows: they may name people."""

import re
from pathlib import PureWindowsPath
from typing import Any

from ct.privacy.redaction import DATABASE

PATH_KEYS = {"source", "labels", "sample", "slices"}  # of the recipe's `data`
PART = r"[^\s/\\'\"](?:[^/\\'\"]|(?<=\w)'(?=\w))*"  # a folder's name: blanks, O'Neill
ABSOLUTE = re.compile(rf"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:{PART}[/\\])+")


def recipe_without_paths(value: Any, key: str | None = None) -> Any:
    """Return a recipe in which only the last part of each path is left.

    The paths are those of its `data` and all absolute ones. A database's URL may hold a password:
    only its scheme is left.

    value: the recipe, or a part of it under `key`
    """
    if isinstance(value, dict):
        return {k: recipe_without_paths(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [recipe_without_paths(v, key) for v in value]
    if not isinstance(value, str):
        return value
    if "://" in value:
        return f"{value.partition('://')[0]}://…"
    if key == DATABASE and value:  # a mistyped URL, or a list of names and values
        return "…"
    absolute = value.startswith(("/", "~", "\\")) or value[1:3] in (":\\", ":/")
    if key in PATH_KEYS or absolute:
        return PureWindowsPath(value).name or value  # splits at / and \
    return value


def without_folders(text: object) -> str:
    """Return a line of text without the folders of absolute paths, which may hold blanks.

    Words between such a path and a later slash are taken for a folder's name, and removed, too.
    """
    return ABSOLUTE.sub("…/", str(text))
