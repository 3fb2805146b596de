"""Digests, receipts, and whether what lies in a run folder still follows from its inputs and its
recipe.

A receipt is a small JSON with what a job read and made (digests), its part of the recipe, and what
it cost. A job whose receipt still holds need not run again.
"""

import functools
import hashlib
import json
import os
from pathlib import Path

from ct.privacy.escaped_names import unescaped_name
from ct.privacy.redaction import mask_passwords
from ct.storage.receipts import read_receipt
from ct.storage.sealed_files import bytes_digest
from ct.system.machine_faults import listing_faults
from pipeline.older_versions import may_lack, reads_as_now, with_older_values, without_later_fields


def file_digest(path):
    """Return the blake2b digest of a file's bytes, hexadecimal; an unchanged file is read once a
    process.
    """
    stat = os.stat(path)
    return _digest_once(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _digest_once(path, size, mtime_ns):
    return bytes_digest(path)


def tree_digest(root, files):
    """Return a digest of the names, sizes and times of files below `root`, without reading them.

    files: their names, as ct/privacy/escaped_names.py keeps them. Raises MachineFault where one is
    gone or may not be looked at
    """
    digest = hashlib.blake2b(digest_size=16)
    with listing_faults():
        for name in files:
            stat = _stat(os.path.join(root, unescaped_name(name)))
            digest.update(
                f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape")
            )
    return digest.hexdigest()


def _stat(path):
    """Return a file's status; that of the link itself where it leads nowhere: whoever reads it says
    so.
    """
    try:
        return os.stat(path)
    except OSError:
        if os.path.islink(path):
            return os.lstat(path)
        raise


def inputs_digest(part, read):
    """Return a digest of a job's part of the recipe and of what it reads, for what it leaves before
    it is done.

    A field that is added to the recipe later does not change it, as long as it has its older value.
    """
    text = json.dumps([without_later_fields(part), read], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def stamp(path):
    """Return {"digest", "size", "mtime_ns"} of a file; the last two spare reading it again."""
    stat = path.stat()
    return {"digest": file_digest(path), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def stamp_files(root, paths):
    """Return {path relative to root: stamp} of files, and of all files below folders, in a fixed
    order.
    """
    files = [
        f
        for path in paths
        for f in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if f.is_file()
    ]
    return {str(f.relative_to(root)): stamp(f) for f in files}


def changed_file(root, made, verify=False):
    """Return a line about the first file of a receipt's `made` that is gone or holds something
    else, or "".

    verify: whether to read each file, whatever its size and time say
    """
    return next(
        (
            line
            for name, known in made.items()
            if (line := changed(Path(root) / name, name, known, verify))
        ),
        "",
    )


def changed(path, name, known, verify=False):
    """Return f"{name} is gone", "... was changed by hand" or "... is damaged" (its time is the old
    one), or "".

    known: the file's stamp; a time of None is that of a file which was seen to be damaged
    verify: whether to read it, even if this process did so before at the same size and time
    """
    if not path.is_file():
        return f"{name} is damaged" if path.is_dir() else f"{name} is gone"
    stat = path.stat()
    same = (stat.st_size, stat.st_mtime_ns) == (known["size"], known["mtime_ns"])
    if same and not verify:
        return ""
    digest = bytes_digest if verify else file_digest
    if stat.st_size == known["size"] and digest(path) == known["digest"]:
        return ""
    return (
        f"{name} is damaged" if same or known["mtime_ns"] is None else f"{name} was changed by hand"
    )


def first_difference(old, new, path=""):
    """Return "key: old -> new" of the first difference between two nested plain values, or ""."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [
            (f"{path}.{key}" if path else key, old.get(key), new.get(key)) for key in {**old, **new}
        ]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{path}.{i}", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return "" if old == new else f"{path}: {_short(old)} -> {_short(new)}"
    return next((line for key, a, b in pairs if (line := first_difference(a, b, key))), "")


def why_stale(root, receipt, part, read, verify=False, shared=()):
    """Return why the job behind the receipt file `receipt` must run, or "" where what it made still
    holds.

    part: its part of the recipe now; read: {name: digest} of its inputs now; verify: as of
    `changed_file`; shared: as of `reads_as_now`
    """
    known = read_receipt(receipt)
    if known is None:
        return "not made yet"
    # as a receipt holds it: a tuple is a list there
    part = json.loads(json.dumps(mask_passwords(part)))
    if line := first_difference(with_older_values(mask_passwords(known["recipe"]), part), part):
        return f"recipe changed, {line}"
    before = reads_as_now(known["read"], known["recipe"], shared)
    for name in sorted({*before, *read}):
        if before.get(name) != read.get(name) and not (name not in before and may_lack(name)):
            return f"{name} changed"
    return changed_file(root, known["made"], verify)


def _short(value):
    text = "nothing" if value is None else mask_passwords(str(value))
    return text if len(text) <= 40 else text[:37] + "..."
