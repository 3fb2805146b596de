"""The values of one DICOM file's tags: converted, finite, and of a size that a head CT can have."""

import math

import numpy as np
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from ct.sources.source import Unreadable

KEYWORDS = (
    "TransferSyntaxUID SOPInstanceUID PatientID StudyInstanceUID SeriesInstanceUID Rows Columns ImagePositionPatient "
    "ImageOrientationPatient PixelSpacing RescaleSlope RescaleIntercept BitsAllocated BitsStored PixelRepresentation "
    "WindowCenter WindowWidth NumberOfFrames SamplesPerPixel"
)
# all that is read of a header
TAGS = {keyword: (int(Tag(keyword)), dictionary_VR(keyword)) for keyword in KEYWORDS.split()}
WANTED = {tag for tag, _ in TAGS.values()}
ONE = (int, float, str)  # types of a tag's value that is but one
LONGEST = 65536  # bytes of a value
# of any number in a header: beyond it sums and squares of float32 overflow, and nothing is measured
# in it
LARGEST = 1e9
PIXEL_DATA = int(Tag("PixelData"))


class NeedsPydicom(Exception):
    """A header, or a value in it, that is left to pydicom's own reading."""


def value_of(dataset, keyword):
    """Return a tag's value: numbers, text or a list of them; None where it is missing or empty.

    dataset: pydicom's, or the raw elements of `plain_elements`; for a value of these that is not
    plain, raises NotPlain

    Raises Unreadable where it cannot be converted.
    """
    if isinstance(dataset, dict):
        tag, vr = TAGS[keyword]
        raw = dataset.get(tag)
        return _plain_value(raw, vr) if raw is not None and raw.value else None
    try:
        if keyword not in dataset:
            return None
        raw = dataset.get_item(keyword).value
        if isinstance(raw, bytes | memoryview) and len(raw) > LONGEST:
            raise Unreadable(f"{keyword} has {len(raw)} bytes")
        value = dataset.get(keyword)
    except (Unreadable, MemoryError):
        raise
    except (
        Exception
    ):  # text in a numeric tag, a binary number of the wrong length, a sequence in itself
        raise Unreadable(f"{keyword} is malformed") from None
    if value is None or value == "":
        return None
    if not isinstance(value, (*ONE, MultiValue, list)) and not hasattr(value, "original_string"):
        raise Unreadable(f"{keyword} is malformed")  # bytes, or a sequence
    return value


def _plain_value(raw, vr):
    """Return the value of a raw element that is plainly of its usual VR (PS3.5 section 6.2), as
    pydicom would, only faster.
    """
    bytes_ = raw.value
    try:
        if raw.VR not in (None, vr):
            raise NeedsPydicom
        if vr == "DS" and b"_" not in bytes_:
            # float takes the spaces that may stand around it
            values = [float(text) for text in bytes_.split(b"\\")]
            return values if len(values) > 1 else values[0]
        if vr == "US" and len(bytes_) == 2:
            return int.from_bytes(bytes_, "little")
        # one value, no change of alphabet
        if vr in ("UI", "LO") and b"\\" not in bytes_ and b"\x1b" not in bytes_:
            return bytes_.decode("ascii").rstrip(" \0") or None
    except ValueError:
        raise NeedsPydicom from None
    raise NeedsPydicom


def needed_text(dataset, keyword: str) -> str:
    """Return a needed tag's value as text. Raises Unreadable."""
    value = value_of(dataset, keyword)
    if value is None or not (text := str(value).strip(" \0")):
        raise Unreadable(f"{keyword} is missing or empty")
    return text


def numbers(dataset, keyword: str, count: int) -> np.ndarray:
    """Return a needed tag's `count` numbers, float64 (count,), of LARGEST at most. Raises
    Unreadable.
    """
    return np.array(_floats(dataset, keyword, count))


def _floats(dataset, keyword, count):
    value = value_of(dataset, keyword)
    if value is None:
        raise Unreadable(f"{keyword} is missing or empty")
    try:
        values = [value] if isinstance(value, ONE) else value
        if not isinstance(dataset, dict):  # there they are numbers, and need not be looked at
            values = [_number(one) for one in values]
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(f"{keyword} is malformed") from None
    if len(values) != count or not all(map(math.isfinite, values)):
        raise Unreadable(f"{keyword} is not {count} numbers")
    if max(map(abs, values)) > LARGEST:
        raise Unreadable(f"{keyword} holds a number beyond {LARGEST:.0e}")
    return values


def _number(value):
    """Return a number, or text that is one (PS3.5 section 6.2: no underscores, which Python takes),
    as a float.
    """
    text = getattr(value, "original_string", value)
    if isinstance(text, str) and ("_" in text or not text.isascii()):
        raise ValueError("not a number")
    return float(value)


def positive_int(dataset, keyword: str, most: int) -> int:
    """Return a needed tag's value, a whole number from 1 to `most`. Raises Unreadable."""
    [number] = _floats(dataset, keyword, 1)
    if number < 1 or number != int(number):
        raise Unreadable(f"{keyword} is {number:g}, not a whole number above 0")
    if number > most:
        raise Unreadable(f"{keyword} is {number:.0f}, more than {most}")
    return int(number)


def optional_number(dataset, keyword: str) -> float:
    """Return a tag's first value; NaN where it is missing, empty, malformed or beyond LARGEST."""
    try:
        value = value_of(dataset, keyword)
        first = value if value is None or isinstance(value, ONE) else value[0]
        number = _number("nan" if first is None or first == "" else first)
    except (Unreadable, TypeError, ValueError, IndexError, OverflowError):
        return np.nan
    return number if abs(number) <= LARGEST else np.nan


def pixel_bytes(dataset) -> tuple[bytes | memoryview, str]:
    """Return (PixelData as it lies in the file, its VR, "OW" where that is implicit). Raises
    Unreadable without any.
    """
    if PIXEL_DATA not in dataset:
        raise Unreadable("pixel data missing or cut short")
    try:
        element = dataset.get_item(PIXEL_DATA)
    except (
        NotImplementedError
    ):  # one without a value, which pydicom converts at once, by a VR that there is not
        raise Unreadable("the pixel data are not bytes by their VR") from None
    if element.VR not in (None, "OB", "OW", "UN"):
        raise Unreadable("the pixel data are not bytes by their VR")
    if not isinstance(element.value, bytes | memoryview | None):
        raise Unreadable("the pixel data are no bytes")
    return element.value or b"", element.VR or "OW"
