"""Pixel padding: values outside the scanner's circle that stand for no measurement.

PixelPaddingValue, or the range from it to PixelPaddingRangeLimit (PS3.3 section C.7.5.1.1.2), fills
what reconstruction left of a rectangle. Usually that is far below air. Where it is not, say 4095 or
0 HU, it would be read as bone or water. Float pixels have tags of their own (C.7.6.24, C.7.6.25).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ct.dicom.tag_values import TAGS, Header, optional_number

AIR_HU = -1000


def padding_range(header: Header, pixel_format: Mapping[str, int]) -> tuple[int, int] | None:
    """Return the (lowest, highest) stored value that is padding; None without PixelPaddingValue.

    pixel_format: as returned by ct.dicom.pixel_attributes.pixel_format

    Scanners write a signed -2000 as the unsigned 63536, and the reverse: the tag's bits are read
    as those of a pixel.
    """
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        number = _whole_number(header, keyword)
        if number is not None:
            ends.append(_as_pixel(number, pixel_format))
    if not ends or _whole_number(header, "PixelPaddingValue") is None:
        return None
    return min(ends), max(ends)


def float_padding_range(dataset: Dataset, prefix: str) -> tuple[float, float] | None:
    """Return the (lowest, highest) value of float pixels that is padding; None where none is given.

    prefix: of the tags, "Float" or "DoubleFloat"
    """
    value, limit = (
        optional_number(dataset, f"{prefix}PixelPadding{name}") for name in ("Value", "RangeLimit")
    )
    if not np.isfinite(value):
        return None
    ends = (value, limit if np.isfinite(limit) else value)
    return min(ends), max(ends)


def _whole_number(header: Header, keyword: str) -> int | None:
    """Return the value of a tag of VR "US or SS"; None where it is missing or malformed."""
    if isinstance(header, dict):
        element = header.get(TAGS[keyword][0])
    else:
        element = header.get_item(keyword) if keyword in header else None
    value = None if element is None else element.value
    if isinstance(value, bytes) and len(value) in (2, 4):
        little = getattr(element, "is_little_endian", True)
        return int.from_bytes(value, "little" if little else "big")
    return value if isinstance(value, int) else None


def _as_pixel(number: int, pixel_format: Mapping[str, int]) -> int:
    """Return the stored value of a pixel that has the lowest bits of a number."""
    bits = pixel_format["BitsStored"]
    number %= 1 << bits
    signed = pixel_format["PixelRepresentation"] == 1
    return number - (1 << bits) if signed and number >> (bits - 1) else number


def padded_pixels(
    stored: NDArray[Any], padding: tuple[float, float], rescale: tuple[float, float]
) -> NDArray[np.bool_] | None:
    """Return which pixels, (rows, cols), are padding that is read as more than air; None for none.

    stored: (rows, cols); padding: as returned by `padding_range` or `float_padding_range`;
    rescale: slope and intercept

    Only what touches the margin counts, as padding does: inside a head, brain may have the same
    number.
    """
    slope, intercept = rescale
    if max(end * slope + intercept for end in padding) <= AIR_HU:
        return None
    from scipy import ndimage

    regions, _ = ndimage.label((stored >= padding[0]) & (stored <= padding[1]))
    margin = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    at_margin = np.zeros(regions.max() + 1, bool)
    at_margin[margin] = True
    at_margin[0] = False  # not padding
    return at_margin[regions] if at_margin.any() else None
