"""The work folder of ingest: the next ingest checks unfinished work and continues it."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ct.errors import InputError
from ct.storage.atomic_write import discard, replacing
from ct.storage.file_formats import plain_values, read_json, write_json
from ct.storage.sealed_files import drop_damaged


@contextmanager
def resumable_folder(
    path: Path | str, inputs: Any, log: Callable[[str], None] | None = None
) -> Iterator[Path]:
    """Open a work folder whose files survive an interruption.

    inputs: plain values that decide the content of the files. The files of a killed or failed
            process are kept if its inputs were the same, else removed
    log:    called with a line where unfinished work is removed

    The folder is removed when the block ends without an error.
    """
    path = Path(path)
    marker = path / "inputs.json"
    try:
        same = read_json(marker) == json.loads(json.dumps(plain_values(inputs)))
    except (InputError, IsADirectoryError, ValueError, RecursionError):  # missing or damaged
        same = False
    if not same:
        if log and marker.exists():
            log(
                f"  {path.name} was made from other inputs, or is damaged; "
                "the interrupted work starts again"
            )
        discard(path)
        # private: the files of ingest hold paths, which may be people's names
        path.mkdir(mode=0o700, parents=True)
        write_json(marker, inputs)
    yield path
    discard(path)


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
