"""One DICOM file's header: the facts a slice table needs, and nothing that names a person."""

import hashlib
import hmac
import math
import re
import warnings
from contextlib import contextmanager

import numpy as np
import pydicom
from pydicom import uid
from pydicom.config import disable_value_validation

COMPETITION_ID = re.compile(r"ID_[0-9a-f]+")
OWN_PATH = r"stage_[12]_(?:train|test)/ID_[0-9a-f]+(?:\.\w+)?"
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")  # that a data set without a preamble may begin with


class Unreadable(Exception):
    """A file that cannot be used: one short line with the reason, without paths and without values of identifying tags."""


def pseudonym(identifier, key):
    """Return the name under which an identifier may enter a table.

    The competition's own (`ID_` and hexadecimal digits) are kept; of others the first twelve hexadecimal digits of the
    HMAC-SHA256 under `key` (bytes).
    """
    if COMPETITION_ID.fullmatch(identifier):
        return identifier
    return hmac.new(key, identifier.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[:12]


def public_paths(paths, slice_ids):
    """Return paths as tables and reports may hold them: as they are, if made of the competition's own names, else with the
    slice's pseudonym for all that lies below train or test: folders and files of one's own may be named after people.

    paths: Series of relative paths; slice_ids: (n,). Returns an object array (n,).
    """
    own = paths.str.fullmatch(OWN_PATH).to_numpy(bool)
    hidden = paths.str.split("/", n=1).str[0].to_numpy(object) + "/" + np.asarray(slice_ids, object)
    return np.where(own, paths.to_numpy(object), hidden)


@contextmanager
def quiet():
    """Let pydicom read without checking values (three times as fast) and without warnings, which quote paths and values."""
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def open_dataset(path, pixels=True):
    """Read a DICOM file, with or without its preamble (PS3.10 section 7.1), as a pydicom data set.

    Its file meta information always names a transfer syntax. Call it inside `quiet()`. Raises Unreadable.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(132)
            if not head:
                raise Unreadable("empty file")
            if head[128:] != b"DICM" and head[:2] not in FIRST_GROUPS:
                raise Unreadable("not a DICOM file")
            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=not pixels, force=True)
    except Unreadable:
        raise
    except Exception as error:  # a damaged file makes the parser raise nearly anything: struct.error, zlib.error, OSError, ...
        why = getattr(error, "strerror", None)  # only the system's own errors have one
        raise Unreadable(f"cannot be opened: {why}" if why else "damaged or truncated header") from None
    if not dataset.file_meta.get("TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = _guess_syntax(dataset)
    return dataset


def _guess_syntax(dataset):
    """Return the transfer syntax that a data set without file meta information was read as."""
    implicit, little = dataset.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def read_header(path, key):
    """Read one slice's header.

    path: the file; key: bytes, of the pseudonyms

    Returns a dict: HEADER_COLUMNS without split and path, `slice_id`, `ipp` (3,) mm, the centre of the first pixel in patient
    coordinates, and `iop` (6,), the directions along a row and down a column (PS3.3 section C.7.6.2.1.1).
    Raises Unreadable where the file is no single grey slice or lacks a tag that places it.
    """
    with quiet():
        dataset = open_dataset(path, pixels=False)
        refuse_other_images(dataset)
        spacing = optional_number(dataset, "PixelSpacing")
        return {
            "slice_id": pseudonym(_text(dataset, "SOPInstanceUID"), key),
            "patient_id": pseudonym(_text(dataset, "PatientID"), key),
            "study_id": pseudonym(_text(dataset, "StudyInstanceUID"), key),
            "series_id": pseudonym(_text(dataset, "SeriesInstanceUID"), key),
            "rows": positive_int(dataset, "Rows"),
            "cols": positive_int(dataset, "Columns"),
            "ipp": numbers(dataset, "ImagePositionPatient", 3),
            "iop": _orientation(dataset),
            "pixel_spacing_mm": spacing if spacing > 0 else np.nan,
            "slope": optional_number(dataset, "RescaleSlope"),
            "intercept": optional_number(dataset, "RescaleIntercept"),
            "bits_stored": optional_number(dataset, "BitsStored"),
            "pixel_representation": optional_number(dataset, "PixelRepresentation"),
            "window_center": optional_number(dataset, "WindowCenter"),
            "window_width": optional_number(dataset, "WindowWidth"),
            "transfer_syntax": str(dataset.file_meta.TransferSyntaxUID),
        }


def refuse_other_images(dataset):
    """Raise Unreadable for a file that holds more than one frame or more than one sample a pixel."""
    frames = optional_number(dataset, "NumberOfFrames")
    if frames > 1:
        raise Unreadable(f"multi-frame file ({frames:.0f} frames)")
    samples = optional_number(dataset, "SamplesPerPixel")
    if samples > 1:
        raise Unreadable(f"colour image ({samples:.0f} samples per pixel)")


def rescale(dataset):
    """Return RescaleSlope and RescaleIntercept (PS3.3 section C.11.1.1.2); 1 and 0 where the file has not both."""
    if _value(dataset, "RescaleSlope") is None or _value(dataset, "RescaleIntercept") is None:
        return 1.0, 0.0
    slope, intercept = numbers(dataset, "RescaleSlope", 1)[0], numbers(dataset, "RescaleIntercept", 1)[0]
    if slope == 0:
        raise Unreadable("RescaleSlope is 0")
    return slope, intercept


def _value(dataset, keyword):
    """Return a tag's value, None where it is missing or empty. Raises Unreadable where it cannot be converted."""
    try:
        value = dataset.get(keyword)
    except Exception:  # text in a numeric tag, a binary number of the wrong length
        raise Unreadable(f"{keyword} is malformed") from None
    return None if value is None or value == "" else value


def _text(dataset, keyword):
    """Return a needed tag's value as text."""
    value = _value(dataset, keyword)
    if value is None or not (text := str(value).strip(" \0")):
        raise Unreadable(f"{keyword} is missing or empty")
    return text


def numbers(dataset, keyword, count):
    """Return a needed tag's `count` finite numbers, float64 (count,)."""
    value = _value(dataset, keyword)
    if value is None:
        raise Unreadable(f"{keyword} is missing or empty")
    try:
        array = np.atleast_1d(np.asarray(value, np.float64))
    except (TypeError, ValueError):
        raise Unreadable(f"{keyword} is malformed") from None
    if array.shape != (count,) or not np.isfinite(array).all():
        raise Unreadable(f"{keyword} is not {count} numbers")
    return array


def positive_int(dataset, keyword):
    """Return a needed tag's value, a whole number above 0."""
    number = numbers(dataset, keyword, 1)[0]
    if number < 1 or number != int(number):
        raise Unreadable(f"{keyword} is {number:g}, not a whole number above 0")
    return int(number)


def _orientation(dataset):
    """Return ImageOrientationPatient (6,); raises Unreadable unless it holds two directions that span a plane."""
    iop = numbers(dataset, "ImageOrientationPatient", 6)
    row, col = iop[:3], iop[3:]
    along = abs(row @ col) / (math.sqrt((row @ row) * (col @ col)) or 1e-9)  # the cosine between them
    if not (row.any() and col.any()) or along > 0.5:
        raise Unreadable("ImageOrientationPatient holds no two perpendicular directions")
    return iop


def optional_number(dataset, keyword):
    """Return a tag's first value as a float; NaN where it is missing, empty or malformed."""
    try:
        value = _value(dataset, keyword)
        first = value if isinstance(value, int | float | str) or value is None else value[0]
        return float("nan" if first is None or first == "" else first)
    except (Unreadable, TypeError, ValueError, IndexError):
        return np.nan
