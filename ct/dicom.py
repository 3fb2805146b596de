"""From DICOM files to the slices' headers, many at a time, and from one file to HU."""

import itertools
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from pydicom import uid

from ct.archive import InZip
from ct.decoding import decode
from ct.elements import NotPlain, as_file, parsed, plain_pixels, quiet
from ct.engine import run_jobs
from ct.header import SAME, header_facts, photometric_word, pseudonym, refuse_other_images, rescale, stored_facts
from ct.pieces import seal
from ct.reading import all_bytes, read_each, with_probes
from ct.rundir import read_table, write_table
from ct.slices import ORIENTATION, POSITION
from ct.source import Folder, OnDisk, Unreadable
from ct.values import pixel_bytes

CHUNK = 1024  # headers a job
COPIED = 128  # slices that lie in several files, a job
TEXT = pd.Series([""], dtype=str).dtype  # pandas' own for text: of arrow's strings since pandas 3
TEXTS = ("patient_id", "study_id", "series_id", "path", "transfer_syntax")
FLOATS = ("pixel_spacing_mm", "slope", "intercept", "bits_stored", "pixel_representation", "window_center", "window_width")
DTYPES = dict.fromkeys(["rows", "cols"], np.int32) | dict.fromkeys(FLOATS, np.float32)
NATIVE = {str(uid.ImplicitVRLittleEndian), str(uid.ExplicitVRLittleEndian), str(uid.DeflatedExplicitVRLittleEndian)}
CHUNK_COLUMNS = (*TEXTS[:4], *DTYPES, *TEXTS[4:], *POSITION, *ORIENTATION, "reason")
NOTHING = dict.fromkeys(DTYPES, 0) | dict.fromkeys((*TEXTS, "slice_id"), "") | {"ipp": [np.nan] * 3, "iop": [np.nan] * 6}
AIR_STORED = 4096 - 1000  # what air becomes where -1000 HU wraps round in twelve bits


def read_headers(source, files, key, workers=None, progress=None, parts=None, anonymous=False):
    """Read the headers of many files.

    source: a folder's path or a source; files: names in it; key: bytes, of the pseudonyms; progress: called with the number of
    files done, and `kept=True` for those that were done before; parts: folder where each chunk's headers are kept, so that a
    second call does not read them again (that source and key are the same is the caller's to see to), or None; anonymous: as
    of header.header_facts

    Returns (table, quarantine), both in the order of the sorted names. table: indexed by slice_id, HEADER_COLUMNS without
    split, and the columns POSITION (mm) and ORIENTATION. quarantine: path, slice_id (the pseudonym of the file's name without
    its suffix), kind ("header"), reason. Of several files of one SOPInstanceUID the first whose pixels decode is in the table,
    the first where none's do; the others are in the quarantine, with its name. Raises MachineFault.
    """
    files = sorted(files)
    source = with_probes(Folder(source) if isinstance(source, str | Path) else source, files)
    chunks = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    paths = [parts and Path(parts) / f"{number:05d}.parquet" for number in range(len(chunks))]
    tables = [_kept_chunk(path, names) for path, names in zip(paths, chunks, strict=True)]
    missing = [number for number, table in enumerate(tables) if table is None]
    done = len(files) - sum(len(chunks[number]) for number in missing)
    if progress and done:
        progress(done, kept=True)
    jobs = ((source.take(chunks[number]), chunks[number], key, paths[number], anonymous) for number in missing)
    for number, table in zip(missing, run_jobs(_read_chunk, jobs, workers), strict=True):
        tables[number] = table
        done += len(table)
        if progress:
            progress(done)
    table = pd.concat(tables) if tables else _header_table([], [])
    tables.clear()  # a million rows twice are a third of a gigabyte
    return _set_apart(table, _taken(table, source, workers), key)


def _taken(table, source, workers):
    """Return which rows of what the chunks hold are taken, bool (n,); files are decoded only where a slice has several.

    Which of them is whole their headers do not tell: a copy that was cut off would take the place of the slice.
    """
    taken = (table["reason"] == "").to_numpy(copy=True)
    good = np.flatnonzero(taken)
    rows = good[table.index[good].duplicated(keep=False)]
    taken[rows] = False
    copies = {}
    for slice_id, row, path in zip(table.index[rows], rows.tolist(), table["path"].iloc[rows], strict=True):
        copies.setdefault(slice_id, []).append((row, path))
    copies = list(copies.values())
    jobs = (
        ([source.take([path for _, path in files]) for files in copies[first : first + COPIED]],)
        for first in range(0, len(copies), COPIED)
    )
    places = itertools.chain.from_iterable(run_jobs(_first_that_decodes, jobs, workers))
    for files, place in zip(copies, places, strict=True):
        taken[files[place][0]] = True
    return taken


def _first_that_decodes(copies):
    """Return for each slice's files the place of the first whose pixels decode, 0 where none's do."""
    decoded = (read_each(read_hu, files) for files in copies)
    return [next((place for place, (_, reason, _) in enumerate(each) if not reason), 0) for each in decoded]


def _set_apart(table, taken, key):
    """Split what the chunks hold into the headers `taken` and the quarantine of those refused and of other copies."""
    refused = (table["reason"] != "").to_numpy()
    bad = list(zip(table["path"][refused], table["reason"][refused], strict=True))
    others = table["path"][~taken & ~refused]
    table = table.drop(columns="reason")[taken]
    path_taken = table["path"]
    for slice_id, path in others.items():
        bad.append((path, f"{SAME}{path_taken[slice_id]}"))
    rows = [(path, pseudonym(Path(path).stem, key, "slice"), "header", reason) for path, reason in sorted(bad)]
    return table, pd.DataFrame(rows, columns=["path", "slice_id", "kind", "reason"], dtype=str)


def _kept_chunk(path, names):
    """Return the table of a chunk that was read before, or None."""
    if path is None or not path.is_file():
        return None
    try:
        table = read_table(path)
    except (OSError, ValueError):  # damaged
        return None
    return table if list(table.columns) == list(CHUNK_COLUMNS) and table["path"].tolist() == names else None


def _read_chunk(files, names, key, path, anonymous):
    """Read some headers. Returns their table, in which `reason` tells the files that were refused; it is kept at `path`."""
    headers, reasons, lasting = [], [], True
    with quiet():
        facts = read_each(lambda file: header_facts(file, key, anonymous), files)
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


def read_hu(file: str | Path | OnDisk | InZip) -> tuple[np.ndarray, bool]:
    """Decode one slice, of a path or a file of a source.

    Returns (hu, repaired): int16 (rows, cols) in HU, rounded and clipped to int16, and whether the intercept was mended (see
    `wraps_at_12_bits`). Raises Unreadable for anything that is wrong with the file, MachineFault.
    """
    raw = all_bytes(as_file(file))
    with quiet():
        stored, facts, (slope, intercept) = _plain_slice(raw) or _slice(raw)
    twelve = facts["BitsStored"] == 12 and facts["PixelRepresentation"] == 0
    if twelve and slope == 1 and intercept > -100 and wraps_at_12_bits(stored):
        return (stored.astype(np.int16) + np.int16(1000)) % np.int16(4096) - np.int16(1000), True
    extremes = intercept, int(stored.min()) + intercept, int(stored.max()) + intercept
    if slope == 1 and intercept == int(intercept) and min(extremes) >= -32768 and max(extremes) <= 32767:
        return stored.astype(np.int16) + np.int16(intercept), False  # nearly every file: needs no wider type
    return np.rint(stored * slope + intercept).clip(-32768, 32767).astype(np.int16), False


def wraps_at_12_bits(stored):
    """Tell whether the stored values are HU that wrapped round at 4096.

    stored: unsigned (rows, cols), twelve bits, of a file whose intercept is near 0

    123 files of the competition's training set hold HU modulo 4096 without an intercept, so that air, -1000 HU, lies at 3096.
    There air is a narrow peak of many pixels, and below it (-1400 to -1100 HU) lies nothing. A file of another vendor may be
    right with an intercept of 0: values about 3096 are then dense metal, which neither fills a twentieth of the image nor
    ends so sharply. The mending is J. Howard's (Kaggle, "Cleaning the data for rapid prototyping").
    """
    if stored.dtype.itemsize > 2 and stored.max() > 65535:  # no twelve bits; and bincount would take memory up to the largest
        return False
    counts = np.bincount(stored.ravel().astype(np.uint16, copy=False), minlength=4096)
    air = counts[AIR_STORED - 100 : AIR_STORED + 101].sum()
    below = counts[AIR_STORED - 400 : AIR_STORED - 100].sum()
    return bool(air > 0.05 * stored.size and below < 0.05 * air)


def _plain_slice(raw):
    """Return (stored values, facts of them, rescale) of the usual file; None for one that is left to `_slice`."""
    found = plain_pixels(raw)
    if not found or found[1] not in NATIVE:
        return None
    elements, _, pixels = found
    with suppress(NotPlain, Unreadable):  # pydicom's own reading has the last word
        refuse_other_images(elements)
        facts = stored_facts(elements)
        if facts["BitsAllocated"] == 16:
            return _native(pixels, facts), facts, rescale(elements)
    return None


def _slice(raw):
    """Do the same as `_plain_slice` for any file. Raises Unreadable, MachineFault."""
    dataset = parsed(raw)
    refuse_other_images(dataset)
    facts, syntax = stored_facts(dataset), str(dataset.file_meta.TransferSyntaxUID)
    pixels, vr = pixel_bytes(dataset)
    if syntax in NATIVE and facts["BitsAllocated"] == 16:
        return _native(pixels, facts), facts, rescale(dataset)
    asked = facts | {"syntax": syntax, "vr": vr, "PhotometricInterpretation": photometric_word(dataset)}
    stored, shape = decode(asked, pixels), (facts["Rows"], facts["Columns"])
    if stored.shape != shape:
        raise Unreadable(f"the pixel data is an image of {stored.shape}, not {shape}")
    return stored, facts, rescale(dataset)


def _native(pixels, facts):
    """Return the stored values (rows, cols) of uncompressed pixels of 16 bits (PS3.5 section 8.1)."""
    shape = facts["Rows"], facts["Columns"]
    wanted = shape[0] * shape[1] * 2
    if len(pixels) < wanted:
        raise Unreadable(f"truncated pixel data: {len(pixels)} of {wanted} bytes")
    array = np.frombuffer(pixels, "<i2" if facts["PixelRepresentation"] else "<u2", count=wanted // 2).reshape(shape)
    if (unused := 16 - facts["BitsStored"]) > 0:  # the bits above are undefined; shifting to and fro also extends the sign
        array = array << unused >> unused
    return array
