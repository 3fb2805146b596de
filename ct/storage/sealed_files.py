"""Sealed files: the seal of a file holds the digest of its bytes, so that damage is noticed.

The seal of `a.parquet` is `a.parquet.seal`. It is checked before a later process uses the file. A
file without a seal, left by an older version or by a process that was killed before it wrote the
seal, counts as whole.
"""

from pathlib import Path

from ct.storage.atomic_write import discard, replacing
from ct.storage.digests import bytes_digest

SEAL = ".seal"


def seal_path(path: Path) -> Path:
    """Return the path of a file's seal."""
    return path.with_name(path.name + SEAL)


def seal(path: Path) -> None:
    """Write the seal of the complete file `path`."""
    with replacing(seal_path(path), lasting=False) as part:
        part.write_text(f"{bytes_digest(path)}\n", encoding="utf-8")


def is_whole(path: Path) -> bool:
    """Return whether a file holds the bytes that were sealed, or exists and has no seal."""
    try:
        return seal_path(path).read_text(encoding="utf-8").strip() == bytes_digest(path)
    except FileNotFoundError:
        return path.is_file()
    except (UnicodeDecodeError, IsADirectoryError):
        return False


def drop_damaged(folder: Path) -> list[str]:
    """Remove the sealed files below `folder` that are damaged, with their seals.

    Returns their names, relative to the folder.
    """
    damaged = []
    for sealed in sorted(folder.rglob(f"*{SEAL}")):
        file = sealed.with_name(sealed.name.removesuffix(SEAL))
        if not is_whole(file):
            discard(file)
            discard(sealed)
            damaged.append(file.relative_to(folder).as_posix())
    return damaged
