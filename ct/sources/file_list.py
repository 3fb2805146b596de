"""Lists of a source's files as tables: with its part of a list, a process reads files in place.

It needs neither the source's other files nor the directory of a zip archive, which for Kaggle's
takes 9 s and 1 GB to read.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ct.sources.folder import Folder
from ct.sources.source import Source
from ct.sources.zip_archive import ENTRY, ZipArchive, ZipMember

NAME = "name"  # column of the names in the source; of a zip, those of ENTRY follow
PROBE = -1  # in place of the number of a chunk or shard: a file that checks if others can be read
SourceNote = dict[str, str]  # a folder's path, or an archive's and the folder inside it


def source_note(source: Folder | ZipArchive) -> SourceNote:
    """Return what `listed_source` must know of a source beside a list of files."""
    if isinstance(source, Folder):
        return {"folder": os.path.abspath(source.root)}
    return {"archive": os.path.abspath(source.path), "inside": source.inside}


def file_table(source: Folder | ZipArchive, names: Sequence[str]) -> pd.DataFrame:
    """Return the list of some files of a source: their names, and where they lie in an archive."""
    table = pd.DataFrame({NAME: pd.Series(names, dtype=str)})
    if isinstance(source, Folder):
        return table
    entries = source.select(names).entries
    return table.assign(**{column: entries[column] for column in ENTRY.names or ()})


def needs_list(note: SourceNote) -> bool:
    """Return whether a list must say where the files lie: in an archive; a folder's names do."""
    return "archive" in note


def listed_source(note: SourceNote, files: pd.DataFrame) -> Folder | ZipArchive:
    """Return the source of the files of a list.

    note: as returned by `source_note`; files: as returned by `file_table`, in any order, also twice
    """
    files = files.drop_duplicates(NAME).sort_values(NAME)
    names = files[NAME].tolist()
    if not needs_list(note):
        return Folder(note["folder"], names)
    entries = np.empty(len(files), ENTRY)
    for column in ENTRY.names or ():
        entries[column] = files[column]
    return ZipArchive(note["archive"], note["inside"], names, entries)


def chosen_files(source: Source, names: Sequence[str], probes: Sequence[str]) -> Source:
    """Return the source of the files `names` alone, with the files `probes` as its probes."""
    files = source.select(names)
    files.probes = tuple(source.select(probes))
    return files


def file_note(file: Path | ZipMember) -> Any:
    """Return plain values from which `noted_file` makes a file."""
    return list(file) if isinstance(file, ZipMember) else str(file)


def noted_file(note: Any) -> Path | ZipMember:
    """Return the file of a note."""
    return Path(note) if isinstance(note, str) else ZipMember(*note)
