"""Pieces of unfinished work: each has a seal, the digest of its bytes, which is checked before a
later process uses it.

The seal of `a.parquet` is `a.parquet.seal`. A piece without one, of an older version or of a
process that was killed before it sealed it, counts as whole if it can be read.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from ct.errors import InputError
from ct.storage.atomic_write import discard, replacing

SEAL = ".seal"


def bytes_digest(path: Path) -> str:
    """Return the blake2b digest of a file's bytes, 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def seal(path: Path) -> None:
    """Write the seal of the piece `path`, which is complete."""
    with replacing(_seal_path(path), lasting=False) as part:
        part.write_text(f"{bytes_digest(path)}\n", encoding="utf-8")


def is_whole(path: Path) -> bool:
    """Return whether the piece `path` holds the bytes that were sealed, or was never sealed."""
    try:
        return _seal_path(path).read_text(encoding="utf-8").strip() == bytes_digest(path)
    except FileNotFoundError:
        return path.is_file()
    except (UnicodeDecodeError, IsADirectoryError):
        return False


def drop_damaged(folder: Path) -> list[str]:
    """Remove the pieces below `folder` that do not hold what was sealed. Returns their names,
    relative to it.
    """
    damaged = []
    for sealed in sorted(folder.rglob(f"*{SEAL}")):
        piece = sealed.with_name(sealed.name.removesuffix(SEAL))
        if not is_whole(piece):
            discard(piece)
            discard(sealed)
            damaged.append(piece.relative_to(folder).as_posix())
    return damaged


def keep_key(note: Path, digest: str) -> None:
    """Note the digest of the key of an ingest's pseudonyms. Raises InputError where the interrupted
    one noted another.
    """
    if note.exists() and note.read_text(encoding="utf-8", errors="replace") != digest:
        raise InputError(
            "the key of the pseudonyms is another than when this ingest was interrupted; put the run's own key back from a "
            f"copy, or remove {note.parent.name}/ to begin the ingest anew"
        )
    with replacing(note) as part:
        part.write_text(digest, encoding="utf-8")


def take_up(work: Path, pixels: Path, log: Callable[[str], None]) -> None:
    """Prepare the work folder of an interrupted ingest: drop what is damaged, fetch `pixels` that
    had their place already.
    """
    if damaged := drop_damaged(work):
        log(
            f"  {len(damaged)} pieces of the interrupted ingest are damaged and are read anew, the first {damaged[0]}"
        )
    if not (work / "shards").is_dir() or (work / "pixels").exists():
        return
    # the first: of an older version that was killed
    for place in (pixels.with_name(f"{pixels.name}.part"), pixels):
        if place.is_dir() and not place.is_symlink():
            os.replace(place, work / "pixels")
            return


def _seal_path(path: Path) -> Path:
    return path.with_name(path.name + SEAL)
