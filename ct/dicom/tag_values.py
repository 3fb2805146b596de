"""The values of one DICOM file's tags: converted, finite, within the bounds of a head CT."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from ct.sources.source import Unreadable

# the attributes that are read from a header
KEYWORDS = (
    "TransferSyntaxUID SOPInstanceUID PatientID StudyInstanceUID SeriesInstanceUID Rows Columns "
    "ImagePositionPatient ImageOrientationPatient PixelSpacing RescaleSlope RescaleIntercept "
    "BitsAllocated BitsStored PixelRepresentation WindowCenter WindowWidth NumberOfFrames "
    "SamplesPerPixel PixelPaddingValue PixelPaddingRangeLimit"
)
TAGS = {keyword: (int(Tag(keyword)), dictionary_VR(keyword)) for keyword in KEYWORDS.split()}
HEADER_TAGS = {tag for tag, _ in TAGS.values()}
SINGLE = (int, float, str)  # types of the value of a tag that has one value
MAX_VALUE_BYTES = 65536
# sums and squares of larger numbers can overflow float32; no header value is as large
MAX_NUMBER = 1e9
PIXEL_DATA = int(Tag("PixelData"))

RawElements = dict[int, RawDataElement | DataElement]  # by tag, as `fast_parser` returns them
Header = Dataset | RawElements


class NeedsPydicom(Exception):
    """A header, or a value in it, that the fast parser leaves to pydicom."""


def tag_value(header: Header, keyword: str) -> Any:
    """Return a tag's value: a number, text or a list of them; None where it is missing or empty.

    Raises Unreadable where pydicom cannot convert it. For raw elements, raises NeedsPydicom where
    only pydicom can convert it.
    """
    if isinstance(header, dict):
        tag, vr = TAGS[keyword]
        element = header.get(tag)
        return _raw_value(element, vr) if element is not None and element.value else None
    try:
        if keyword not in header:
            return None
        raw = header.get_item(keyword).value
        if isinstance(raw, bytes | memoryview) and len(raw) > MAX_VALUE_BYTES:
            raise Unreadable(f"{keyword} has {len(raw)} bytes")
        if isinstance(raw, bytes) and b"," in raw and dictionary_VR(keyword) == "DS":
            return _raw_value(header.get_item(keyword), "DS")
        value = header.get(keyword)
    except (Unreadable, MemoryError):
        raise
    except Exception:
        # text in a numeric tag, a binary number of the wrong length, a sequence inside itself
        raise Unreadable(f"{keyword} is malformed") from None
    if value is None or value == "":
        return None
    if not isinstance(value, (*SINGLE, MultiValue, list)) and not hasattr(value, "original_string"):
        raise Unreadable(f"{keyword} is malformed")  # bytes, or a sequence
    return value


def _raw_value(element: RawDataElement | DataElement, vr: str) -> Any:
    """Return the value of a raw element of its usual VR (PS3.5 section 6.2), as pydicom would.

    Raises NeedsPydicom for any other VR or form of the value.
    """
    raw: Any = element.value  # bytes, of a RawDataElement
    try:
        if element.VR not in (None, vr):
            raise NeedsPydicom
        if vr == "DS" and b"_" not in raw:
            # `float` takes the spaces that may stand around a number
            values = [float(text) for text in _with_points(raw).split(b"\\")]
            return values if len(values) > 1 else values[0]
        if vr == "US" and len(raw) == 2:
            return int.from_bytes(raw, "little")
        # one value, no change of the character set
        if vr in ("UI", "LO") and b"\\" not in raw and b"\x1b" not in raw:
            return raw.decode("ascii").rstrip(" \0") or None
    except ValueError:
        raise NeedsPydicom from None
    raise NeedsPydicom


def _with_points(raw: bytes) -> bytes:
    """Return a decimal string with points where a system of another language wrote commas.

    A number with several of them, or with both, stays as it is: there the comma may stand between
    thousands. PS3.5 section 6.2 allows no commas.
    """
    if b"," not in raw:
        return raw
    numbers = raw.split(b"\\")
    if any(number.count(b",") + number.count(b".") > 1 for number in numbers):
        return raw
    return raw.replace(b",", b".")


def required_text(header: Header, keyword: str) -> str:
    """Return the value of a required tag as text. Raises Unreadable."""
    value = tag_value(header, keyword)
    if value is None or not (text := str(value).strip(" \0")):
        raise Unreadable(f"{keyword} is missing or empty")
    return text


def required_numbers(header: Header, keyword: str, count: int) -> NDArray[np.float64]:
    """Return the `count` numbers of a required tag, (count,), MAX_NUMBER at most.

    Raises Unreadable.
    """
    return np.array(_floats(header, keyword, count))


def _floats(header: Header, keyword: str, count: int) -> list[float]:
    value = tag_value(header, keyword)
    if value is None:
        raise Unreadable(f"{keyword} is missing or empty")
    try:
        values: list[Any] = [value] if isinstance(value, SINGLE) else value
        if not isinstance(header, dict):  # raw elements are converted already
            values = [_number(element) for element in values]
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(f"{keyword} is malformed") from None
    if len(values) != count or not all(map(math.isfinite, values)):
        raise Unreadable(f"{keyword} is not {count} numbers")
    if max(map(abs, values)) > MAX_NUMBER:
        raise Unreadable(f"{keyword} holds a number beyond {MAX_NUMBER:.0e}")
    return values


def _number(value: Any) -> float:
    """Return a number, or a text that holds one, as a float. Raises TypeError, ValueError.

    PS3.5 section 6.2 allows no underscores, which Python's `float` takes.
    """
    text = getattr(value, "original_string", value)
    if isinstance(text, str) and ("_" in text or not text.isascii()):
        raise ValueError("not a number")
    return float(value)


def required_positive_int(header: Header, keyword: str, most: int) -> int:
    """Return the value of a required tag, a whole number from 1 to `most`. Raises Unreadable."""
    [number] = _floats(header, keyword, 1)
    if number < 1 or number != int(number):
        raise Unreadable(f"{keyword} is {number:g}, not a whole number above 0")
    if number > most:
        raise Unreadable(f"{keyword} is {number:.0f}, more than {most}")
    return int(number)


def optional_number(header: Header, keyword: str, place: int = 0) -> float:
    """Return a tag's first value, or the one at `place`.

    NaN where it is missing, empty, malformed or beyond MAX_NUMBER. For raw elements, may raise
    NeedsPydicom.
    """
    try:
        value = tag_value(header, keyword)
        values = [value] if value is None or isinstance(value, SINGLE) else value
        number = _number("nan" if values[place] is None or values[place] == "" else values[place])
    except (Unreadable, TypeError, ValueError, IndexError, OverflowError):
        return np.nan
    return number if abs(number) <= MAX_NUMBER else np.nan


def pixel_data(dataset: Dataset) -> tuple[bytes | memoryview, str]:
    """Return (PixelData as stored in the file, its VR; "OW" where the VR is implicit).

    Raises Unreadable where they are missing or are not bytes.
    """
    if PIXEL_DATA not in dataset:
        raise Unreadable("pixel data missing or cut short")
    try:
        element = dataset.get_item(PIXEL_DATA)
    except NotImplementedError:
        # an empty element of an unknown VR: pydicom converts empty elements at once
        raise Unreadable("the pixel data are not bytes by their VR") from None
    if element.VR not in (None, "OB", "OW", "UN"):
        raise Unreadable("the pixel data are not bytes by their VR")
    if not isinstance(element.value, bytes | memoryview | None):
        raise Unreadable("the pixel data are no bytes")
    return element.value or b"", element.VR or "OW"
