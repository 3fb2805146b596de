"""The names of a zip archive's members, as those of the files that unpacking it would make.

As Python's ZipFile.extract and unzip do, a name loses its leading slash and its parts `.` and `..`.
"""

import zipfile
from collections.abc import Sequence
from typing import NamedTuple

from ct.privacy.escaped_names import escaped_name

NO_NAMES = ("", ".", "..")


class NamedMembers(NamedTuple):
    """The members of an archive that are visible files, by their escaped names."""

    files: dict[str, zipfile.ZipInfo]
    replaced: dict[str, zipfile.ZipInfo]  # a later member has the same name; called "NAME (1)"


def named_members(members: Sequence[zipfile.ZipInfo]) -> NamedMembers:
    """Return the visible files among an archive's members, without folders.

    members: in the order of the archive's directory. Of several members of one name the last
    counts. Old tools of Windows write backslashes: they separate folders where no member has a
    slash in its name.
    """
    slashes = any("/" in member.filename for member in members)
    files: dict[str, zipfile.ZipInfo] = {}
    earlier: list[tuple[str, zipfile.ZipInfo]] = []
    for member in members:
        name = _visible_name(member.filename if slashes else member.filename.replace("\\", "/"))
        if not name:
            continue
        name = escaped_name(name)
        if name in files:
            earlier.append((name, files[name]))
        files[name] = member
    return NamedMembers(files, _numbered(earlier, files))


def _visible_name(name: str) -> str:
    """Return the path of a file; "" for a folder and for what a folder's listing leaves out, too.

    These are hidden files, and files in hidden folders.
    """
    *folders, file = name.split("/")
    if file in NO_NAMES:
        return ""
    parts = [*(part for part in folders if part not in NO_NAMES), file]
    return "" if any(part.startswith(".") for part in parts) else "/".join(parts)


def _numbered(
    earlier: Sequence[tuple[str, zipfile.ZipInfo]], files: dict[str, zipfile.ZipInfo]
) -> dict[str, zipfile.ZipInfo]:
    """Return replaced members by names of their own, which no member of `files` has."""
    replaced: dict[str, zipfile.ZipInfo] = {}
    counts: dict[str, int] = {}
    for name, member in earlier:
        own = name
        while own in files or own in replaced:
            counts[name] = counts.get(name, 0) + 1
            own = f"{name} ({counts[name]})"
        replaced[own] = member
    return replaced
