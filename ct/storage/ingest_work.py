"""The unfinished work of an interrupted ingest: checked before the next ingest continues it."""

import os
from collections.abc import Callable
from pathlib import Path

from ct.errors import InputError
from ct.storage.atomic_write import replacing
from ct.storage.sealed_files import drop_damaged


def check_key_digest(note: Path, digest: str) -> None:
    """Compare the digest of the pseudonyms' key with the one in the file `note`; write it there.

    Raises InputError where the interrupted ingest used another key.
    """
    if note.exists() and note.read_text(encoding="utf-8", errors="replace") != digest:
        raise InputError(
            "the key of the pseudonyms has changed since this ingest was interrupted; "
            "put the run's own key back from a copy, "
            f"or remove {note.parent.name}/ to start the ingest again"
        )
    with replacing(note) as part:
        part.write_text(digest, encoding="utf-8")


def prepare_ingest_work(work: Path, pixels: Path, log: Callable[[str], None]) -> None:
    """Prepare the work folder `work` of an interrupted ingest.

    Removes damaged files. If the ingest had already moved the pixel cache to `pixels`, moves it
    back. log: called with a line where files are damaged.
    """
    if damaged := drop_damaged(work):
        log(
            f"  {len(damaged)} files of the interrupted ingest are damaged and are made again, "
            f"the first {damaged[0]}"
        )
    if not (work / "shards").is_dir() or (work / "pixels").exists():
        return
    # the first of the two: from an older version that was killed
    for place in (pixels.with_name(f"{pixels.name}.part"), pixels):
        if place.is_dir() and not place.is_symlink():
            os.replace(place, work / "pixels")
            return
