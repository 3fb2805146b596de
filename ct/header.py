"""One DICOM file's header: the facts a slice table needs, and nothing that names a person."""

import hashlib
import hmac
import io
import math
import operator
import os
import re
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR
from pydicom.filereader import data_element_generator
from pydicom.tag import Tag

from ct.source import OnDisk, Unreadable

COMPETITION_ID = re.compile(r"ID_[0-9a-f]+")
OWN_PATH = r"stage_[12]_(?:train|test)/ID_[0-9a-f]+(?:\.\w+)?"
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")  # that a data set without a preamble may begin with
HEADS = (4096, 65536)  # bytes in which a header is looked for before the file is read as a whole; RSNA's have 700
IMPLICIT = {  # the usual transfer syntaxes: whether their VRs are implicit
    str(syntax): syntax.is_implicit_VR
    for syntax in uid.AllTransferSyntaxes
    if syntax.is_little_endian and not syntax.is_deflated
}
KEYWORDS = (
    "TransferSyntaxUID SOPInstanceUID PatientID StudyInstanceUID SeriesInstanceUID Rows Columns ImagePositionPatient "
    "ImageOrientationPatient PixelSpacing RescaleSlope RescaleIntercept BitsAllocated BitsStored PixelRepresentation "
    "WindowCenter WindowWidth NumberOfFrames SamplesPerPixel"
)
TAGS = {keyword: (int(Tag(keyword)), dictionary_VR(keyword)) for keyword in KEYWORDS.split()}  # all that is read of a header
WANTED = {tag for tag, _ in TAGS.values()}
ONE = (int, float, str)  # types of a tag's value that is but one
PIXELS = {int(Tag(keyword)) for keyword in ("FloatPixelData", "DoubleFloatPixelData", "PixelData")}


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


def open_dataset(file, pixels=True):
    """Read a DICOM file, with or without its preamble (PS3.10 section 7.1), as a pydicom data set.

    file: a path or a file of a source. Its file meta information always names a transfer syntax. Call it inside `quiet()`.
    Raises Unreadable.
    """
    with _one_reason(), _as_file(file).open("rb") as stream:
        _refuse_others(stream.read(132))
        stream.seek(0)
        dataset = pydicom.dcmread(stream, stop_before_pixels=not pixels, force=True)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = _guess_syntax(dataset)
    return dataset


@contextmanager
def _one_reason():
    """Turn whatever goes wrong while a file is opened into Unreadable."""
    try:
        yield
    except Unreadable:
        raise
    except Exception as error:  # a damaged file makes the parser raise nearly anything: struct.error, zlib.error, OSError, ...
        why = getattr(error, "strerror", None)  # only the system's own errors have one
        raise Unreadable(f"cannot be opened: {why}" if why else "damaged or truncated header") from None


def _refuse_others(head):
    """Raise Unreadable where these first bytes, at least 132 of them, are no DICOM file's."""
    if not head:
        raise Unreadable("empty file")
    if head[128:132] != b"DICM" and head[:2] not in FIRST_GROUPS:
        raise Unreadable("not a DICOM file")


def _as_file(file):
    return OnDisk(os.fspath(file)) if isinstance(file, str | Path) else file


def _guess_syntax(dataset):
    """Return the transfer syntax that a data set without file meta information was read as."""
    implicit, little = dataset.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


class _NotPlain(Exception):
    """A header, or a value in it, that is left to pydicom's own reading."""


def _plain_elements(file):
    """Return (elements, transfer syntax) of the usual file's header: pydicom's raw elements of TAGS by their tags, as ints.

    They come from the generator that dcmread itself reads with; most of dcmread's time goes into objects that nobody asks for
    here. Raises _NotPlain for other files: without preamble, big endian, deflated, without pixels; Unreadable.
    """
    for count in HEADS:
        with _one_reason():
            head, whole = file.head(count)
            _refuse_others(head)
        if head[128:132] != b"DICM":
            raise _NotPlain
        try:
            if found := _walk_header(head):
                return found
        except Exception:  # as in `_one_reason`: dcmread is to say what it is
            raise _NotPlain from None
        if whole:
            raise _NotPlain
    raise _NotPlain


def _walk_header(head):
    """Return (elements, transfer syntax) of a file that begins with `head`; None where the pixels are not reached in it."""
    reached = []
    stream = io.BytesIO(head)
    stream.seek(132)
    meta = data_element_generator(stream, False, True, lambda tag, vr, length: tag >> 16 != 2)
    elements = {number: element for element in meta if (number := int(element.tag)) in WANTED}
    syntax = _value(elements, "TransferSyntaxUID")
    if head[stream.tell() : stream.tell() + 2] == b"\0\0":  # a command set, encoded in its own way
        raise _NotPlain
    body = data_element_generator(
        stream, IMPLICIT[syntax], True, lambda tag, vr, length: tag in PIXELS and not reached.append(tag)
    )
    elements |= {number: element for element in body if (number := int(element.tag)) in WANTED}
    return (elements, syntax) if reached else None


def read_header(file, key):
    """Read one slice's header.

    file: a path or a file of a source; key: bytes, of the pseudonyms

    Returns a dict: HEADER_COLUMNS without split and path, `slice_id`, `ipp` (3,) mm, the centre of the first pixel in patient
    coordinates, and `iop` (6,), the directions along a row and down a column (PS3.3 section C.7.6.2.1.1).
    Raises Unreadable where the file is no single grey slice or lacks a tag that places it.
    """
    with quiet():
        return header_facts(_as_file(file), key)


def header_facts(file, key):
    """Do the same as `read_header`, for a file of a source and inside `quiet()`, which is slow to enter."""
    try:
        return _facts(*_plain_elements(file), key)
    except (_NotPlain, Unreadable):  # pydicom's own reading has the last word
        dataset = open_dataset(file, pixels=False)
        return _facts(dataset, str(dataset.file_meta.TransferSyntaxUID), key)


def _facts(dataset, syntax, key):
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
        "transfer_syntax": syntax,
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
    """Return a tag's value, None where it is missing or empty. Raises Unreadable where it cannot be converted.

    dataset: pydicom's, or the raw elements of `_plain_elements`; for a value of these that is not plain, raises _NotPlain
    """
    if isinstance(dataset, dict):
        tag, vr = TAGS[keyword]
        raw = dataset.get(tag)
        return _plain_value(raw, vr) if raw is not None and raw.value else None
    try:
        value = dataset.get(keyword)
    except Exception:  # text in a numeric tag, a binary number of the wrong length
        raise Unreadable(f"{keyword} is malformed") from None
    return None if value is None or value == "" else value


def _plain_value(raw, vr):
    """Return the value of a raw element that is plainly of its usual VR (PS3.5 section 6.2), as pydicom would, only faster."""
    bytes_ = raw.value
    try:
        if raw.VR not in (None, vr):
            raise _NotPlain
        if vr == "DS":
            values = [float(text) for text in bytes_.split(b"\\")]  # float takes the spaces that may stand around it
            return values if len(values) > 1 else values[0]
        if vr == "US" and len(bytes_) == 2:
            return int.from_bytes(bytes_, "little")
        if vr in ("UI", "LO") and b"\\" not in bytes_ and b"\x1b" not in bytes_:  # one value, no change of alphabet
            return bytes_.decode("ascii").rstrip(" \0") or None
    except ValueError:
        raise _NotPlain from None
    raise _NotPlain


def _text(dataset, keyword):
    """Return a needed tag's value as text."""
    value = _value(dataset, keyword)
    if value is None or not (text := str(value).strip(" \0")):
        raise Unreadable(f"{keyword} is missing or empty")
    return text


def numbers(dataset, keyword, count):
    """Return a needed tag's `count` finite numbers, float64 (count,)."""
    return np.array(_floats(dataset, keyword, count))


def _floats(dataset, keyword, count):
    value = _value(dataset, keyword)
    if value is None:
        raise Unreadable(f"{keyword} is missing or empty")
    try:
        if type(value) in (int, float):
            value = [value]
        values = value if type(value) is list else np.atleast_1d(np.asarray(value, np.float64)).tolist()
    except (TypeError, ValueError):
        raise Unreadable(f"{keyword} is malformed") from None
    if len(values) != count or not all(map(math.isfinite, values)):
        raise Unreadable(f"{keyword} is not {count} numbers")
    return values


def positive_int(dataset, keyword):
    """Return a needed tag's value, a whole number above 0."""
    [number] = _floats(dataset, keyword, 1)
    if number < 1 or number != int(number):
        raise Unreadable(f"{keyword} is {number:g}, not a whole number above 0")
    return int(number)


def _orientation(dataset):
    """Return ImageOrientationPatient (6,); raises Unreadable unless it holds two directions that span a plane."""
    iop = _floats(dataset, "ImageOrientationPatient", 6)
    row, col = iop[:3], iop[3:]
    rows, cols, both = (sum(map(operator.mul, a, b)) for a, b in ((row, row), (col, col), (row, col)))
    if rows * cols == 0 or abs(both) > 0.5 * math.sqrt(rows * cols):  # the cosine between them
        raise Unreadable("ImageOrientationPatient holds no two perpendicular directions")
    return np.array(iop)


def optional_number(dataset, keyword):
    """Return a tag's first value as a float; NaN where it is missing, empty or malformed."""
    try:
        value = _value(dataset, keyword)
        first = value if value is None or isinstance(value, ONE) else value[0]
        return float("nan" if first is None or first == "" else first)
    except (Unreadable, TypeError, ValueError, IndexError):
        return np.nan
