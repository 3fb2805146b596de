"""Read the headers of many DICOM files into one table."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.header import read_header
from ct.dicom.hounsfield import read_hu
from ct.privacy.pseudonyms import pseudonym
from ct.privacy.quarantine_reasons import SAME
from ct.slices import ORIENTATION, POSITION
from ct.sources.file_reader import read_each, with_probes
from ct.sources.folder import Folder
from ct.storage.file_formats import read_table, write_table
from ct.storage.sealed_files import seal
from ct.system.engine import run_jobs

CHUNK_FILES = 1024  # headers a job


COPIED = 128  # slices that lie in several files, a job


TEXT = pd.Series([""], dtype=str).dtype  # pandas' own for text: of arrow's strings since pandas 3


TEXTS = ("patient_id", "study_id", "series_id", "path", "transfer_syntax")


FLOATS = (
    "pixel_spacing_mm",
    "slope",
    "intercept",
    "bits_stored",
    "pixel_representation",
    "window_center",
    "window_width",
)


DTYPES = dict.fromkeys(["rows", "cols"], np.int32) | dict.fromkeys(FLOATS, np.float32)


CHUNK_COLUMNS = (*TEXTS[:4], *DTYPES, *TEXTS[4:], *POSITION, *ORIENTATION, "reason")


NOTHING = (
    dict.fromkeys(DTYPES, 0)
    | dict.fromkeys((*TEXTS, "slice_id"), "")
    | {"ipp": [np.nan] * 3, "iop": [np.nan] * 6}
)


def read_headers(
    source, files, key, workers=None, progress=None, chunk_folder=None, patient_id_optional=False
):
    """Read the headers of many files.

    source: a folder's path or a source; files: names in it; key: bytes, of the pseudonyms;
    progress: called with the number of files done, and `kept=True` for those that were done before;
    parts: folder where each chunk's headers are kept, so that a second call does not read them
    again (that source and key are the same is the caller's to see to), or None; anonymous: as of
    header.header_facts

    Returns (table, quarantine), both in the order of the sorted names. table: indexed by slice_id,
    HEADER_COLUMNS without split, and the columns POSITION (mm) and ORIENTATION. quarantine: path,
    slice_id (the pseudonym of the file's name without its suffix), kind ("header"), reason. Of
    several files of one SOPInstanceUID the first whose pixels decode is in the table, the first
    where none's do; the others are in the quarantine, with its name. Raises MachineFault.
    """
    files = sorted(files)
    source = with_probes(Folder(source) if isinstance(source, str | Path) else source, files)
    chunks = [files[i : i + CHUNK_FILES] for i in range(0, len(files), CHUNK_FILES)]
    paths = [
        chunk_folder and Path(chunk_folder) / f"{number:05d}.parquet"
        for number in range(len(chunks))
    ]
    tables = [_kept_chunk(path, names) for path, names in zip(paths, chunks, strict=True)]
    missing = [number for number, table in enumerate(tables) if table is None]
    done = len(files) - sum(len(chunks[number]) for number in missing)
    if progress and done:
        progress(done, kept=True)
    jobs = (
        (source.select(chunks[number]), chunks[number], key, paths[number], patient_id_optional)
        for number in missing
    )
    for number, table in zip(missing, run_jobs(_read_chunk, jobs, workers), strict=True):
        tables[number] = table
        done += len(table)
        if progress:
            progress(done)
    table = pd.concat(tables) if tables else _header_table([], [])
    tables.clear()  # a million rows twice are a third of a gigabyte
    return _set_apart(table, _taken(table, source, workers), key)


def _taken(table, source, workers):
    """Return which rows of what the chunks hold are taken, bool (n,); files are decoded only where
    a slice has several.

    Which of them is whole their headers do not tell: a copy that was cut off would take the place
    of the slice.
    """
    taken = (table["reason"] == "").to_numpy(copy=True)
    good = np.flatnonzero(taken)
    rows = good[table.index[good].duplicated(keep=False)]
    taken[rows] = False
    copies = {}
    for slice_id, row, path in zip(
        table.index[rows], rows.tolist(), table["path"].iloc[rows], strict=True
    ):
        copies.setdefault(slice_id, []).append((row, path))
    copies = list(copies.values())
    jobs = (
        ([source.select([path for _, path in files]) for files in copies[first : first + COPIED]],)
        for first in range(0, len(copies), COPIED)
    )
    places = itertools.chain.from_iterable(run_jobs(_first_that_decodes, jobs, workers))
    for files, place in zip(copies, places, strict=True):
        taken[files[place][0]] = True
    return taken


def _first_that_decodes(copies):
    """Return for each slice's files the place of the first whose pixels decode, 0 where none's
    do.
    """
    decoded = (read_each(read_hu, files) for files in copies)
    return [
        next((place for place, (_, reason, _) in enumerate(each) if not reason), 0)
        for each in decoded
    ]


def _set_apart(table, taken, key):
    """Split what the chunks hold into the headers `taken` and the quarantine of those refused and
    of other copies.
    """
    refused = (table["reason"] != "").to_numpy()
    bad = list(zip(table["path"][refused], table["reason"][refused], strict=True))
    others = table["path"][~taken & ~refused]
    table = table.drop(columns="reason")[taken]
    path_taken = table["path"]
    for slice_id, path in others.items():
        bad.append((path, f"{SAME}{path_taken[slice_id]}"))
    rows = [
        (path, pseudonym(Path(path).stem, key, "slice"), "header", reason)
        for path, reason in sorted(bad)
    ]
    return table, pd.DataFrame(rows, columns=["path", "slice_id", "kind", "reason"], dtype=str)


def _kept_chunk(path, names):
    """Return the table of a chunk that was read before, or None."""
    if path is None or not path.is_file():
        return None
    try:
        table = read_table(path)
    except (OSError, ValueError):  # damaged
        return None
    return (
        table
        if list(table.columns) == list(CHUNK_COLUMNS) and table["path"].tolist() == names
        else None
    )


def _read_chunk(files, names, key, path, patient_id_optional):
    """Read some headers. Returns their table, in which `reason` tells the files that were refused;
    it is kept at `path`.
    """
    headers, reasons, lasting = [], [], True
    with quiet_pydicom():
        facts = read_each(lambda file: read_header(file, key, patient_id_optional), files)
        for name, (header, reason, may_pass) in zip(names, facts, strict=True):
            headers.append(header or dict(NOTHING))
            headers[-1]["path"] = name
            reasons.append(reason)
            lasting &= not may_pass
    table = _header_table(headers, reasons)
    if path and lasting:
        write_table(path, table, lasting=False)
        seal(path)
    return table


def _header_table(headers, reasons):
    """Turn a list of headers into a table indexed by slice_id."""
    columns = {name: pd.array([h[name] for h in headers], dtype=TEXT) for name in TEXTS}
    columns |= {name: np.array([h[name] for h in headers], dtype) for name, dtype in DTYPES.items()}
    for names, vectors in ((POSITION, "ipp"), (ORIENTATION, "iop")):
        array = np.array([h[vectors] for h in headers], np.float64).reshape(-1, len(names))
        columns |= dict(zip(names, array.T, strict=True))
    columns["reason"] = pd.array(reasons, dtype=TEXT)
    index = pd.Index(pd.array([h["slice_id"] for h in headers], dtype=TEXT), name="slice_id")
    return pd.DataFrame(columns, index=index, columns=list(CHUNK_COLUMNS))
