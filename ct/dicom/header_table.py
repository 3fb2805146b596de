"""Read the headers of many DICOM files into one table, and decide between copies of one slice."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.header import SliceHeader, file_identifiers, read_slice_headers
from ct.dicom.hounsfield import read_hu
from ct.privacy.pseudonyms import pseudonym
from ct.privacy.quarantine_reasons import SAME_SLICE
from ct.slices import ORIENTATION, POSITION
from ct.sources.file_reader import read_each, with_probes
from ct.sources.folder import Folder
from ct.sources.frames import file_of_frame, frame_name
from ct.sources.source import Source
from ct.storage.file_formats import read_table
from ct.system.parallel_jobs import run_jobs

CHUNK_FILES = 1024  # headers of one job
COPIED_SLICES = 128  # slices with several files, of one job
TEXT = pd.Series([""], dtype=str).dtype  # pandas' dtype of text; since pandas 3 of arrow strings
TEXT_COLUMNS = ("patient_id", "study_id", "series_id", "path", "transfer_syntax")
FLOAT_COLUMNS = (
    "pixel_spacing_mm",
    "slope",
    "intercept",
    "bits_stored",
    "pixel_representation",
    "window_center",
    "window_width",
)
DTYPES = {"rows": np.int32, "cols": np.int32} | dict.fromkeys(FLOAT_COLUMNS, np.float32)
CHUNK_COLUMNS = (
    *TEXT_COLUMNS[:4],
    *DTYPES,
    *TEXT_COLUMNS[4:],
    *POSITION,
    *ORIENTATION,
    "reason",
)
UNREADABLE_HEADER = (  # in place of the header of a refused file
    dict.fromkeys(DTYPES, 0)
    | dict.fromkeys((*TEXT_COLUMNS, "slice_id"), "")
    | {"ipp": [np.nan] * 3, "iop": [np.nan] * 6}
)


def read_headers(
    source: str | Path | Source,
    files: Iterable[str],
    key: bytes,
    workers: int | None = None,
    progress: Callable[..., None] | None = None,
    patient_id_optional: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the headers of many files.

    source: a source or a folder's path; files: names in it; key: of the pseudonyms; progress:
    called with the number of files done; patient_id_optional: see `read_header`

    Returns (table, quarantine), as `join_header_chunks` does, in the order of the sorted names.
    Raises MachineFault.
    """
    files = sorted(files)
    source = with_probes(Folder(source) if isinstance(source, str | Path) else source, files)
    chunks = [files[i : i + CHUNK_FILES] for i in range(0, len(files), CHUNK_FILES)]
    jobs = ((source.select(names), names, key, patient_id_optional) for names in chunks)
    tables, done = [], 0
    for chunk in run_jobs(read_header_chunk, jobs, workers):
        tables.append(chunk.table)
        done += len(chunks[len(tables) - 1])
        if progress:
            progress(done)
    return join_header_chunks(tables, source, key, workers)


def join_header_chunks(
    tables: list[pd.DataFrame], source: Source, key: bytes, workers: int | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Join the headers of chunks, and decide between the files of one SOPInstanceUID.

    tables: of chunks, in their order; the list is emptied: a million rows twice take a third of a
    gigabyte. source: of the files; key: of the pseudonyms

    Returns (table, quarantine), in the order of the rows and of the paths.
    table: indexed by slice_id, HEADER_COLUMNS without split, and POSITION (mm) and ORIENTATION.
    quarantine: path, slice_id (the pseudonym of the file's name without suffix), kind ("header"),
    reason.

    Of several files of one SOPInstanceUID the table holds the first whose pixels decode, or the
    first where none decode. The others are in the quarantine, with the name of that file as the
    reason.

    Raises MachineFault.
    """
    table = pd.concat(tables) if tables else build_header_table([], [])
    tables.clear()
    return _split_quarantine(table, _used_rows(table, source, workers), key)


def _used_rows(table: pd.DataFrame, source: Source, workers: int | None) -> NDArray[np.bool_]:
    """Return which rows of the chunks enter the table, (n,).

    Only slices with several files are decoded. Their headers do not show which file is whole: a
    truncated copy would replace the slice.
    """
    used = (table["reason"] == "").to_numpy(copy=True)
    readable = np.flatnonzero(used)
    rows = readable[table.index[readable].duplicated(keep=False)]
    used[rows] = False
    copies: dict[str, list[tuple[int, str]]] = {}  # slice_id: (row, path) of each file
    for slice_id, row, path in zip(
        table.index[rows], rows.tolist(), table["path"].iloc[rows], strict=True
    ):
        copies.setdefault(slice_id, []).append((row, path))
    copy_lists = list(copies.values())
    parts = [
        copy_lists[first : first + COPIED_SLICES]
        for first in range(0, len(copy_lists), COPIED_SLICES)
    ]
    jobs = (([source.select([path for _, path in files]) for files in part],) for part in parts)
    places = itertools.chain.from_iterable(run_jobs(_first_that_decodes, jobs, workers))
    for files, place in zip(copy_lists, places, strict=True):
        used[files[place][0]] = True
    return used


def _first_that_decodes(copies: list[Source]) -> list[int]:
    """Return the place of the first file that decodes among each slice's files, 0 for none."""
    first = []
    for files in copies:
        decoded = enumerate(read_each(read_hu, files))
        first.append(next((place for place, (_, reason, _) in decoded if not reason), 0))
    return first


def _split_quarantine(
    table: pd.DataFrame, used: NDArray[np.bool_], key: bytes
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (rows that are used, quarantine of the refused files and of unused copies)."""
    refused = (table["reason"] != "").to_numpy()
    reasons = list(zip(table["path"][refused], table["reason"][refused], strict=True))
    unused_copies = table["path"][~used & ~refused]
    table = table.drop(columns="reason")[used]
    used_paths = table["path"]
    for slice_id, path in unused_copies.items():
        reasons.append((path, f"{SAME_SLICE}{used_paths[slice_id]}"))
    rows = []
    for path, reason in sorted(reasons):
        rows.append((path, pseudonym(Path(path).stem, key, "slice"), "header", reason))
    return table, pd.DataFrame(rows, columns=["path", "slice_id", "kind", "reason"], dtype=str)


class HeaderChunk(NamedTuple):
    """The headers of some files."""

    table: pd.DataFrame  # as returned by `build_header_table`
    lasting: bool  # no file was unreadable for a transient reason


def read_header_chunk(
    files: Source, names: Sequence[str], key: bytes, patient_id_optional: bool = False
) -> HeaderChunk:
    """Read the headers of some files.

    names: of the selected `files`; key, patient_id_optional: as in `read_headers`

    Raises MachineFault.
    """
    headers, reasons, lasting = [], [], True
    with quiet_pydicom():
        read = read_each(lambda file: read_slice_headers(file, key, patient_id_optional), files)
        for name, (of_file, reason, transient) in zip(names, read, strict=True):
            for header in of_file or [SliceHeader(0, None, reason)]:
                headers.append(_row(name, header, key))
                reasons.append(header.reason)
            lasting &= not transient
    return HeaderChunk(build_header_table(headers, reasons), lasting)


def _row(name: str, header: SliceHeader, key: bytes) -> dict[str, Any]:
    """Return the values of one slice for `build_header_table`. name: of its file"""
    path = frame_name(name, header.frame) if header.frame else name
    if header.values is None:
        return UNREADABLE_HEADER | {"path": path}
    if "slice_id" in header.values:
        return header.values | {"path": path}
    return header.values | file_identifiers(name, header.frame, key) | {"path": path}


def is_header_chunk(path: Path, names: list[str]) -> bool:
    """Return whether a table of headers is of these files, and has the columns of this version."""
    try:
        table = read_table(path)
    except (OSError, ValueError):  # damaged
        return False
    files = dict.fromkeys(map(file_of_frame, table["path"]))
    return list(table.columns) == list(CHUNK_COLUMNS) and list(files) == names


def build_header_table(headers: list[dict[str, Any]], reasons: list[str]) -> pd.DataFrame:
    """Return headers as a table of CHUNK_COLUMNS, indexed by slice_id.

    headers: as returned by `read_header`, with `path`; reasons: why a file is refused, or ""
    """
    columns = {}
    for name in TEXT_COLUMNS:
        columns[name] = pd.array([header[name] for header in headers], dtype=TEXT)
    for name, dtype in DTYPES.items():
        columns[name] = np.array([header[name] for header in headers], dtype)
    for names, vector in ((POSITION, "ipp"), (ORIENTATION, "iop")):
        vectors = [header[vector] for header in headers]
        array = np.array(vectors, np.float64).reshape(-1, len(names))
        columns |= dict(zip(names, array.T, strict=True))
    columns["reason"] = pd.array(reasons, dtype=TEXT)
    slice_ids = pd.array([header["slice_id"] for header in headers], dtype=TEXT)
    index = pd.Index(slice_ids, name="slice_id")
    return pd.DataFrame(columns, index=index, columns=list(CHUNK_COLUMNS))
