"""The elements of one DICOM file's data set and their values: pydicom parses, and reads whatever is not plain."""

import io
import math
import os
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
    with _one_reason(), as_file(file).open("rb") as stream:
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


def as_file(file):
    """Return a file of a source, where it is given as a path, too."""
    return OnDisk(os.fspath(file)) if isinstance(file, str | Path) else file


def _guess_syntax(dataset):
    """Return the transfer syntax that a data set without file meta information was read as."""
    implicit, little = dataset.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


class NotPlain(Exception):
    """A header, or a value in it, that is left to pydicom's own reading."""


def plain_elements(file):
    """Return (elements, transfer syntax) of the usual file's header: pydicom's raw elements of TAGS by their tags, as ints.

    They come from the generator that dcmread itself reads with; most of dcmread's time goes into objects that nobody asks for
    here. Returns None for files that are left to dcmread: without preamble, big endian, deflated, without pixels. Raises
    Unreadable for what is no DICOM file or cannot be read at all.
    """
    for count in HEADS:
        with _one_reason():
            head, whole = file.head(count)
            _refuse_others(head)
        try:
            found = _walk_header(head)
        except NotPlain:
            return None
        except Exception:  # as in `_one_reason`: cut in the middle of an element, or damaged
            found = None
        if found or whole:
            return found
    return None


def _walk_header(head):
    """Return (elements, transfer syntax) of a file that begins with `head`; None where the pixels are not reached in it."""
    if head[128:132] != b"DICM":
        raise NotPlain
    reached = []
    stream = io.BytesIO(head)
    stream.seek(132)
    meta = data_element_generator(stream, False, True, lambda tag, vr, length: tag >> 16 != 2)
    elements = {number: element for element in meta if (number := int(element.tag)) in WANTED}
    syntax = value_of(elements, "TransferSyntaxUID")
    command_set = head[stream.tell() : stream.tell() + 2] == b"\0\0"  # encoded in its own way
    if syntax not in IMPLICIT or command_set:
        raise NotPlain
    body = data_element_generator(
        stream, IMPLICIT[syntax], True, lambda tag, vr, length: tag in PIXELS and not reached.append(tag)
    )
    elements |= {number: element for element in body if (number := int(element.tag)) in WANTED}
    return (elements, syntax) if reached else None


def value_of(dataset, keyword):
    """Return a tag's value, None where it is missing or empty. Raises Unreadable where it cannot be converted.

    dataset: pydicom's, or the raw elements of `plain_elements`; for a value of these that is not plain, raises NotPlain
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
            raise NotPlain
        if vr == "DS":
            values = [float(text) for text in bytes_.split(b"\\")]  # float takes the spaces that may stand around it
            return values if len(values) > 1 else values[0]
        if vr == "US" and len(bytes_) == 2:
            return int.from_bytes(bytes_, "little")
        if vr in ("UI", "LO") and b"\\" not in bytes_ and b"\x1b" not in bytes_:  # one value, no change of alphabet
            return bytes_.decode("ascii").rstrip(" \0") or None
    except ValueError:
        raise NotPlain from None
    raise NotPlain


def needed_text(dataset, keyword):
    """Return a needed tag's value as text."""
    value = value_of(dataset, keyword)
    if value is None or not (text := str(value).strip(" \0")):
        raise Unreadable(f"{keyword} is missing or empty")
    return text


def numbers(dataset, keyword, count):
    """Return a needed tag's `count` finite numbers, float64 (count,)."""
    return np.array(_floats(dataset, keyword, count))


def _floats(dataset, keyword, count):
    value = value_of(dataset, keyword)
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


def optional_number(dataset, keyword):
    """Return a tag's first value as a float; NaN where it is missing, empty or malformed."""
    try:
        value = value_of(dataset, keyword)
        first = value if value is None or isinstance(value, ONE) else value[0]
        return float("nan" if first is None or first == "" else first)
    except (Unreadable, TypeError, ValueError, IndexError):
        return np.nan
