"""Whether a job of a run is fresh: its inputs, its part of the recipe and its files are unchanged.

Everything is compared by digest with the job's receipt (pipeline/receipt.py).
"""

import functools
import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ct.privacy.escaped_names import unescaped_name
from ct.privacy.redaction import mask_passwords
from ct.storage.digests import bytes_digest, new_digest, text_digest
from ct.storage.receipt_reader import read_receipt
from ct.system.machine_faults import listing_faults
from pipeline.older_versions import (
    by_single_fields,
    may_lack,
    under_current_names,
    with_older_values,
    without_later_fields,
)

Stamp = dict[str, Any]  # {"digest": hexadecimal, "size": bytes, "mtime_ns": int or None}


def file_digest(path: str | Path) -> str:
    """Return the blake2b digest of a file, hexadecimal; a process reads an unchanged file once."""
    stat = os.stat(path)
    return _cached_digest(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _cached_digest(path: str, size: int, mtime_ns: int) -> str:
    return bytes_digest(Path(path))


def tree_digest(root: str | Path, files: Iterable[str]) -> str:
    """Return a digest of the names, sizes and times of files below `root`; none is read.

    files: names as in ct/privacy/escaped_names.py. Raises MachineFault where one cannot be read.
    """
    digest = new_digest()
    with listing_faults():
        for name in files:
            stat = _stat(os.path.join(root, unescaped_name(name)))
            line = f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _stat(path: str) -> os.stat_result:
    """Return a file's status; of a link that leads nowhere, that of the link itself."""
    try:
        return os.stat(path)
    except OSError:
        if os.path.islink(path):
            return os.lstat(path)  # the reader of the file reports it
        raise


def inputs_digest(part: dict[str, Any], read: Mapping[str, str]) -> str:
    """Return a digest of a job's inputs, for files that it leaves before it is finished.

    part: its part of the recipe; read: {name: digest} of its inputs. A field that a later version
    adds to the recipe does not change it, as long as the field has its older value.
    """
    text = json.dumps([without_later_fields(part), read], sort_keys=True)
    return text_digest(text)


def stamp(path: Path) -> Stamp:
    """Return a file's digest, size and time; while the last two stay, it is not read again."""
    stat = path.stat()
    return {"digest": file_digest(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def stamp_files(root: Path, paths: Iterable[Path]) -> dict[str, Stamp]:
    """Return {path relative to root: stamp} of files, and of all files below folders, in order."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file.relative_to(root)): stamp(file) for file in files if file.is_file()}


def changed_file(root: str | Path, made: Mapping[str, Stamp], verify: bool = False) -> str:
    """Return how the first changed or missing file of a job differs from its stamp, or "".

    made: {path relative to root: stamp} of its receipt; verify: read every file, also if its
    size and time are the same
    """
    for name, known in made.items():
        if why := why_changed(Path(root) / name, name, known, verify):
            return why
    return ""


def why_changed(path: Path, name: str, known: Stamp, verify: bool = False) -> str:
    """Return "<name> is gone", "... was changed by hand" or "... is damaged", or "".

    A file is damaged if its content changed but not its size and time, or if its stamp has no time,
    as after `mark_damaged`. verify: read it, even if this process read it before at the same
    size and time.
    """
    if not path.is_file():
        return f"{name} is damaged" if path.is_dir() else f"{name} is gone"
    stat = path.stat()
    same_status = (stat.st_size, stat.st_mtime_ns) == (known["size"], known["mtime_ns"])
    if same_status and not verify:
        return ""
    digest = bytes_digest if verify else file_digest
    if stat.st_size == known["size"] and digest(path) == known["digest"]:
        return ""
    damaged = same_status or known["mtime_ns"] is None
    return f"{name} is damaged" if damaged else f"{name} was changed by hand"


def first_difference(old: object, new: object, path: str = "") -> str:
    """Return "key: old -> new" of the first difference between two nested plain values, or ""."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [
            (f"{path}.{key}" if path else key, old.get(key), new.get(key)) for key in {**old, **new}
        ]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{path}.{i}", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return "" if old == new else f"{path}: {_short(old)} -> {_short(new)}"
    for key, a, b in pairs:
        if difference := first_difference(a, b, key):
            return difference
    return ""


def _short(value: object) -> str:
    text = "nothing" if value is None else mask_passwords(str(value))
    return text if len(text) <= 40 else text[:37] + "..."


def why_stale(
    root: str | Path,
    receipt: Path,
    part: dict[str, Any],
    read: Mapping[str, str],
    verify: bool = False,
    shared: Collection[str] = (),
) -> str:
    """Return why a job must run, or "" where it is fresh.

    root: run folder; receipt: its receipt's path; part: its part of the recipe; read: {name:
    digest} of its inputs; verify: as in `changed_file`; shared: as in `under_current_names`
    """
    known = read_receipt(receipt)
    if known is None:
        return "not made yet"
    # plain values as in a receipt: a tuple becomes a list
    part = json.loads(json.dumps(mask_passwords(part)))
    older = with_older_values(by_single_fields(mask_passwords(known["recipe"]), part), part)
    if difference := first_difference(older, part):
        return f"recipe changed, {difference}"
    before = under_current_names(known["read"], known["recipe"], shared)
    for name in sorted({*before, *read}):
        unknown = name not in before and may_lack(name)
        if before.get(name) != read.get(name) and not unknown:
            return f"{name} changed"
    return changed_file(root, known["made"], verify)
