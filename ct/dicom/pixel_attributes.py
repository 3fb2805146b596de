"""The attributes that describe a slice's pixels, checked: size, bits, sign, rescale, direction."""

import numpy as np
from numpy.typing import NDArray

from ct.dicom.tag_values import (
    Header,
    optional_number,
    required_numbers,
    required_positive_int,
    tag_value,
)
from ct.slices import spans_plane
from ct.sources.source import Unreadable

MAX_SIDE = 4096  # rows and columns; no head CT has more
BITS_ALLOCATED = (1, 8, 16, 32, 64)  # PS3.5 section 8.1.1
PHOTOMETRIC = {  # PS3.3 section C.7.6.3.1.2, without retired values and those of video
    "MONOCHROME1",
    "MONOCHROME2",
    "PALETTE COLOR",
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_ICT",
    "YBR_RCT",
}


def require_single_grey_frame(header: Header) -> None:
    """Raise Unreadable for a file of more than one frame, or more than one sample per pixel."""
    frames = optional_number(header, "NumberOfFrames")
    if frames > 1:
        raise Unreadable(f"multi-frame file ({frames:.0f} frames)")
    samples = optional_number(header, "SamplesPerPixel")
    if samples > 1:
        raise Unreadable(f"colour image ({samples:.0f} samples per pixel)")


def rescale_parameters(header: Header) -> tuple[float, float]:
    """Return RescaleSlope and RescaleIntercept (PS3.3 section C.11.1.1.2).

    They are 1 and 0 where the file lacks either. Raises Unreadable.
    """
    if tag_value(header, "RescaleSlope") is None or tag_value(header, "RescaleIntercept") is None:
        return 1.0, 0.0
    slope = required_numbers(header, "RescaleSlope", 1)[0]
    intercept = required_numbers(header, "RescaleIntercept", 1)[0]
    if slope == 0:
        raise Unreadable("RescaleSlope is 0")
    return slope, intercept


def pixel_format(header: Header) -> dict[str, int]:
    """Return the checked attributes for decoding the stored values. Raises Unreadable.

    Keys: Rows, Columns, BitsAllocated, BitsStored, PixelRepresentation.
    """
    rows = required_positive_int(header, "Rows", MAX_SIDE)
    columns = required_positive_int(header, "Columns", MAX_SIDE)
    allocated = required_positive_int(header, "BitsAllocated", BITS_ALLOCATED[-1])
    if allocated not in BITS_ALLOCATED:
        raise Unreadable(
            f"BitsAllocated is {allocated}, none of {', '.join(map(str, BITS_ALLOCATED))}"
        )
    stored = required_positive_int(header, "BitsStored", allocated)
    signed = required_numbers(header, "PixelRepresentation", 1)[0]
    if signed not in (0, 1):
        raise Unreadable(f"PixelRepresentation is {signed:g}, neither 0 nor 1")
    return {
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": allocated,
        "BitsStored": stored,
        "PixelRepresentation": int(signed),
    }


def photometric_interpretation(header: Header) -> str:
    """Return PhotometricInterpretation, "" where it is missing.

    Raises Unreadable for a value that the standard does not have.
    """
    text = str(tag_value(header, "PhotometricInterpretation") or "").strip(" \0")
    if text and text not in PHOTOMETRIC:
        raise Unreadable("PhotometricInterpretation is none of the standard's")
    return text


def orientation(header: Header) -> NDArray[np.float64]:
    """Return ImageOrientationPatient (6,). Raises Unreadable where it spans no plane."""
    iop = required_numbers(header, "ImageOrientationPatient", 6)
    if not spans_plane(iop.tolist()):
        raise Unreadable("ImageOrientationPatient holds no two perpendicular directions")
    return iop
