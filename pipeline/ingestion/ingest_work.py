"""The work folder of ingest: what its units leave there, until the stage joins it.

A later ingest of the same inputs continues the work. The folder is private: names of files may be
people's names. A unit holds it together with other units, so that no process removes it meanwhile.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from ct.errors import InputError
from ct.pixel_cache.shards import shard_path
from ct.run_dir import RunDir
from ct.sources.file_list import file_table, listed_source, needs_list
from ct.sources.folder import Folder
from ct.sources.zip_archive import ZipArchive
from ct.storage.atomic_write import discard, replacing
from ct.storage.digests import text_digest
from ct.storage.file_formats import plain_values, read_json, read_table, write_json
from ct.storage.file_lock import file_lock
from pipeline.units.unit_lock import LOCKS

FEW_UNITS, MOST_UNITS = 16, 2000


class IngestWork:
    """The work folder of a run: its paths, its inputs, its lock."""

    def __init__(self, root: str | Path) -> None:
        self.run = RunDir(root)
        folder = self.folder = self.run.ingest_work
        self.inputs = folder / "inputs.json"  # what decides the content of the files
        self.key_note = folder / "key.txt"  # digest of the key of the pseudonyms
        self.listing = folder / "files.json"  # receipt of the next three
        self.source = folder / "source.json"
        self.labels = folder / "labels.parquet"
        self.header_lists = folder / "files"
        self.selection = folder / "selection.json"  # receipt of the next four
        self.series = folder / "series.parquet"  # only where series were chosen
        self.slices = folder / "slices.parquet"  # with the paths as they are in the source
        self.header_quarantine = folder / "header-quarantine.parquet"
        self.counts = folder / "counts.json"
        self.pixel_lists = folder / "pixel-files"
        self.unclear = folder / "quarantine.csv"  # files of studies whose patient is unclear
        self.shards = folder / "shards"  # the records of the shards
        self.pixels = folder / "pixels"  # the pixel cache

    def header_list(self, number: int) -> Path:
        """Return the path of the list of files whose headers one unit reads."""
        return self.header_lists / f"{number:05d}.parquet"

    def header_chunk(self, split: str, number: int) -> Path:
        """Return the path of a chunk of headers."""
        return self.folder / f"{split}-headers" / f"{number:05d}.parquet"

    def pixel_list(self, number: int) -> Path:
        """Return the path of the list of files whose pixels one unit reads."""
        return self.pixel_lists / f"{number:05d}.parquet"

    def shard_record(self, number: int) -> Path:
        """Return the path of the record of a shard."""
        return self.shards / f"{shard_path(self.pixels, number).stem}.parquet"

    @contextmanager
    def held(self, inputs: str) -> Iterator[None]:
        """Hold the folder together with other units.

        inputs: digest of the inputs of the unit's ingest. Raises InputError where the folder is not
        of these any more.
        """
        with file_lock(self._lock(), shared=True, wait=True):
            if self.inputs_digest() != inputs:
                raise InputError(
                    "the files of the ingest have changed, or another process has finished it; "
                    "run the same command again"
                )
            yield

    @contextmanager
    def held_alone(self, wait: bool) -> Iterator[bool]:
        """Hold the folder alone; yield False where units hold it and `wait` is False."""
        with file_lock(self._lock(), wait=wait) as alone:
            yield alone

    def _lock(self) -> Path:
        """Return the path of the lock, which is not in the folder: that is removed."""
        path = self.run.root / LOCKS / "ingest-work.lock"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return path

    def inputs_digest(self) -> str:
        """Return the digest of the inputs that the folder is of, "" where it is damaged or gone."""
        try:
            return inputs_digest(read_json(self.inputs))
        except (InputError, IsADirectoryError, ValueError, RecursionError):
            return ""

    def begin(self, inputs: Any) -> None:
        """Make the folder for an ingest of these inputs, plain values; remove other work."""
        discard(self.folder)
        self.folder.mkdir(mode=0o700, parents=True)
        write_json(self.inputs, inputs)

    def check_key_digest(self, digest: str) -> None:
        """Compare the digest of the pseudonyms' key with the noted one; note it.

        Raises InputError where the interrupted ingest used another key.
        """
        note = self.key_note
        if note.exists() and note.read_text(encoding="utf-8", errors="replace") != digest:
            raise InputError(
                "the key of the pseudonyms has changed since this ingest was interrupted; "
                "put the run's own key back from a copy, "
                f"or remove {self.folder.name}/ to start the ingest again"
            )
        with replacing(note) as part:
            part.write_text(digest, encoding="utf-8")

    def whole_source(self) -> Folder | ZipArchive:
        """Return the source of all files that the units list."""
        note, files = read_json(self.source)["source"], file_table(Folder(""), [])
        if needs_list(note):
            files = pd.concat(map(read_table, sorted(self.header_lists.glob("*.parquet"))))
        return listed_source(note, files)

    def take_back_pixels(self) -> None:
        """Move the pixel cache back here where an interrupted ingest had already moved it.

        Several processes may do this at the same time.
        """
        pixels = self.run.pixels
        if not self.shards.is_dir() or self.pixels.exists():
            return
        # the first of the two: from an older version that was killed
        for place in (pixels.with_name(f"{pixels.name}.part"), pixels):
            if place.is_dir() and not place.is_symlink():
                with suppress(FileNotFoundError):  # another process has moved it
                    os.replace(place, self.pixels)
                return


def pieces_of_units(count: int, several: int) -> list[range]:
    """Return the numbers of the chunks or shards that each unit makes.

    several: pieces of one unit; fewer where there are few, so that all cores have some, and more
    where there would be more than MOST_UNITS
    """
    size = max(min(several, 1 + count // FEW_UNITS), -(-count // MOST_UNITS))
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def inputs_digest(inputs: Any) -> str:
    """Return the digest of inputs of an ingest, plain values."""
    return text_digest(json.dumps(plain_values(inputs), sort_keys=True))
