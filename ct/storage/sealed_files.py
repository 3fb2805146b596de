"""Sealed files: the seal of a file holds the digest of its bytes, so that damage is noticed.

The seal of `a.parquet` is `a.parquet.seal`. It is checked before a later process uses the file. A
file without a seal, left by an older version or by a process that was killed before it wrote the
seal, counts as whole.
"""

from pathlib import Path

from ct.storage.atomic_write import replacing
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
