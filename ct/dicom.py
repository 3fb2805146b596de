"""From a folder of DICOM files to the slices' headers, and from one file to HU."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pydicom import uid
from pydicom.pixels import pixel_array

from ct.engine import run_jobs
from ct.errors import InputError
from ct.header import (
    Unreadable,
    numbers,
    open_dataset,
    positive_int,
    pseudonym,
    quiet,
    read_header,
    refuse_other_images,
    rescale,
)
from ct.slices import ORIENTATION, POSITION

STAGES = ("stage_2", "stage_1")  # of the competition; the second supersedes the first
CHUNK = 256  # headers a job
FLOATS = ("pixel_spacing_mm", "slope", "intercept", "bits_stored", "pixel_representation", "window_center", "window_width")
DTYPES = dict.fromkeys(["rows", "cols"], np.int32) | dict.fromkeys(FLOATS, np.float32)
NATIVE = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian)
FASTEST = {  # the fastest of the installed decoders of each syntax, as measured on one core
    uid.RLELossless: "pylibjpeg",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "gdcm",
    uid.JPEG2000: "gdcm",
    uid.JPEGLossless: "gdcm",
    uid.JPEGLosslessSV1: "gdcm",
}
AIR_STORED = 4096 - 1000  # what air becomes where -1000 HU wraps round in twelve bits


@dataclass(frozen=True)
class Competition:
    """Where the parts of a competition lie."""

    root: Path
    train_dir: Path
    test_dir: Path
    labels_csv: Path
    sample_csv: Path


def find_competition(data, labels=None, sample=None):
    """Find the parts of a competition laid out as Kaggle's, in `data` or below it while one folder alone leads there.

    data: folder; labels, sample: csv files that lie elsewhere, or None

    Returns a Competition. Raises InputError, one line, for whatever is missing.
    """
    root, stage = _descend(Path(data))
    found = Competition(
        root=root,
        train_dir=root / f"{stage}_train",
        test_dir=root / f"{stage}_test",
        labels_csv=Path(labels) if labels else root / f"{stage}_train.csv",
        sample_csv=Path(sample) if sample else root / f"{stage}_sample_submission.csv",
    )
    for folder in (found.train_dir, found.test_dir):
        if not folder.is_dir():
            raise InputError(f"{root} has no folder {folder.name}; the DICOM files of that part belong there")
        if next(_walk(folder), None) is None:
            raise InputError(f"{folder} holds no files; unpack the DICOM files of that part into it")
    for file, flag in ((found.labels_csv, "labels"), (found.sample_csv, "sample")):
        if not file.is_file():
            raise InputError(f"{file} does not exist or is no file; put it there or name it with --{flag}")
    return found


def _descend(data):
    """Return the folder at or below `data` that holds a stage's train folder, and the stage's name."""
    if not data.exists():
        raise InputError(f"{data} does not exist; --data names the folder that holds {STAGES[0]}_train")
    if not data.is_dir():
        raise InputError(f"{data} is a file; --data names a folder: unpack it first if it is an archive")
    folder = data
    while True:
        for stage in STAGES:
            if (folder / f"{stage}_train").is_dir():
                return folder, stage
        inner = _folders(folder)
        good = [f for f in inner if any((f / f"{stage}_train").is_dir() for stage in STAGES)]
        if len(good) > 1 or (not good and len(inner) != 1):
            break
        folder = (good or inner)[0]
    if len(good) > 1:
        raise InputError(f"{folder} holds several competitions ({good[0].name}, {good[1].name}, ...); name one with --data")
    if not any(data.iterdir()):
        raise InputError(f"{data} is empty; it should hold {STAGES[0]}_train")
    if any(data.name.startswith(stage) for stage in STAGES):
        raise InputError(f"{data} holds no {STAGES[0]}_train; name the folder around it, {data.parent}")
    raise InputError(f"{folder} holds no folder {STAGES[0]}_train; --data names the folder that holds it")


def _folders(folder):
    """Return the folders in `folder`, sorted, without hidden ones and those that archivers on a Mac leave behind."""
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith((".", "__")))


def list_files(folder):
    """Return the paths of all files below `folder`, relative to it, with forward slashes, sorted; dot files are left out."""
    files = sorted(_walk(folder))
    if bad := next((name for name in files if not name.isprintable()), None):  # bytes that are no UTF-8 come as surrogates
        raise InputError(f"{folder} holds a file whose name cannot be kept in a table, {bad!r}; rename it")
    return files


def _walk(folder, prefix="", around=()):
    """Yield the paths of the files below `folder`, each after `prefix`; links that lead back `around` are not followed."""
    if (here := os.path.realpath(folder)) in around:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_file():
                yield prefix + entry.name
            elif entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", (*around, here))


def read_headers(root, files, key, workers=None, progress=None):
    """Read the headers of many files.

    root: folder; files: paths relative to it; key: bytes, of the pseudonyms; progress: called with the number of files done

    Returns (table, quarantine), both in the order of the sorted paths. table: indexed by slice_id, HEADER_COLUMNS without
    split, and the columns POSITION (mm) and ORIENTATION. quarantine: path, slice_id (the pseudonym of the file's name without
    its suffix), kind ("header"), reason.
    """
    files = sorted(files)
    jobs = [(str(root), files[i : i + CHUNK], key) for i in range(0, len(files), CHUNK)]
    good, bad, done = [_header_table([])], [], 0
    for (_, chunk, _), (table, refused) in zip(jobs, run_jobs(_read_chunk, jobs, workers), strict=True):
        good.append(table)
        bad += refused
        done += len(chunk)
        if progress:
            progress(done)
    table = pd.concat(good)
    twice = table.index.duplicated()
    first = table["path"][~twice]
    for slice_id, path in table["path"][twice].items():
        bad.append((path, f"same SOPInstanceUID as {first[slice_id]}"))
    rows = [(path, pseudonym(Path(path).stem, key), "header", reason) for path, reason in sorted(bad)]
    return table[~twice], pd.DataFrame(rows, columns=["path", "slice_id", "kind", "reason"], dtype=str)


def _read_chunk(root, files, key):
    """Read some headers. Returns their table and a list of (path, reason) of the files that were refused."""
    good, bad = [], []
    for path in files:
        try:
            good.append({**read_header(os.path.join(root, path), key), "path": path})
        except Unreadable as error:
            bad.append((path, str(error)))
    return _header_table(good), bad


def _header_table(headers):
    """Turn a list of headers into a table indexed by slice_id."""
    names = ["slice_id", "patient_id", "study_id", "series_id", "path", *DTYPES, "transfer_syntax"]
    table = pd.DataFrame({name: [h[name] for h in headers] for name in names})
    table = table.astype({name: DTYPES.get(name, str) for name in names})
    table[list(POSITION)] = np.array([h["ipp"] for h in headers], np.float64).reshape(-1, 3)
    table[list(ORIENTATION)] = np.array([h["iop"] for h in headers], np.float64).reshape(-1, 6)
    return table.set_index("slice_id")


def read_hu(path):
    """Decode one slice.

    Returns (hu, repaired): int16 (rows, cols) in HU, rounded and clipped to int16, and whether the intercept was mended (see
    `wraps_at_12_bits`). Raises Unreadable.
    """
    with quiet():
        dataset = open_dataset(path)
        refuse_other_images(dataset)
        stored = _stored(dataset)
        slope, intercept = rescale(dataset)
        twelve = dataset.BitsStored == 12 and dataset.PixelRepresentation == 0
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
    counts = np.bincount(stored.ravel(), minlength=4096)
    air = counts[AIR_STORED - 100 : AIR_STORED + 101].sum()
    below = counts[AIR_STORED - 400 : AIR_STORED - 100].sum()
    return bool(air > 0.05 * stored.size and below < 0.05 * air)


def _stored(dataset):
    """Return the stored values (rows, cols) as pydicom's own decoding gives them (PS3.5 section 8.1)."""
    shape = positive_int(dataset, "Rows"), positive_int(dataset, "Columns")
    bits, stored_bits = positive_int(dataset, "BitsAllocated"), positive_int(dataset, "BitsStored")
    signed = numbers(dataset, "PixelRepresentation", 1)[0] == 1
    if "PixelData" not in dataset:
        raise Unreadable("pixel data missing or cut short")
    if dataset.file_meta.TransferSyntaxUID not in NATIVE or bits != 16 or not isinstance(dataset.PixelData, bytes):
        return _decode(dataset, shape)
    wanted, there = shape[0] * shape[1] * 2, len(dataset.PixelData)
    if there < wanted:
        raise Unreadable(f"truncated pixel data: {there} of {wanted} bytes")
    array = np.frombuffer(dataset.PixelData, "<i2" if signed else "<u2", count=wanted // 2).reshape(shape)
    if stored_bits < 16:  # the bits above are undefined; shifting to and fro also extends the sign
        array = array << (16 - stored_bits) >> (16 - stored_bits)
    return array


def _decode(dataset, shape):
    """Decode by pydicom's plugins: the fastest first, and where it fails, all of them."""
    syntax = dataset.file_meta.TransferSyntaxUID
    for plugin in dict.fromkeys([FASTEST.get(syntax, ""), ""]):
        try:
            array = pixel_array(dataset, decoding_plugin=plugin)
            break
        except NotImplementedError:
            reason = f"no decoder for the transfer syntax {syntax}"
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # nearly anything, pylibjpeg-rle's Rust panics included, which are no Exception
            reason = _one_line(error)
    else:
        raise Unreadable(reason)
    if array.shape != shape:
        raise Unreadable(f"the pixel data is an image of {array.shape}, not {shape}")
    return array


def _one_line(error):
    """Return the telling line of a decoder's message, without paths and shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = lines[1] if len(lines) > 1 and lines[0].endswith("plugins:") else lines[0]
    line = line.replace("'NoneType' object has no attribute 'encode'", "damaged stream")  # what gdcm's silence ends as
    return "cannot be decoded: " + re.sub(r"\S*[/\\]\S+", "(path)", line)[:120]
