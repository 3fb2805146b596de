"""The attributes that describe pixels: size, bits, sign, rescale. Checked."""

from ct.dicom.tag_values import numbers, optional_number, positive_int, value_of
from ct.sources.source import Unreadable

MOST_PIXELS = 4096  # a side: no head CT has more


BITS = (1, 8, 16, 32, 64)  # BitsAllocated (PS3.5 section 8.1.1)


PHOTOMETRIC = {
    "MONOCHROME1",
    "MONOCHROME2",
    "PALETTE COLOR",
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_ICT",
    "YBR_RCT",
}


def require_single_grey_frame(dataset):
    """Raise Unreadable for a file that holds more than one frame or more than one sample a
    pixel.
    """
    frames = optional_number(dataset, "NumberOfFrames")
    if frames > 1:
        raise Unreadable(f"multi-frame file ({frames:.0f} frames)")
    samples = optional_number(dataset, "SamplesPerPixel")
    if samples > 1:
        raise Unreadable(f"colour image ({samples:.0f} samples per pixel)")


def rescale_parameters(dataset):
    """Return RescaleSlope and RescaleIntercept (PS3.3 section C.11.1.1.2); 1 and 0 where the file
    has not both.
    """
    if value_of(dataset, "RescaleSlope") is None or value_of(dataset, "RescaleIntercept") is None:
        return 1.0, 0.0
    slope, intercept = (
        numbers(dataset, "RescaleSlope", 1)[0],
        numbers(dataset, "RescaleIntercept", 1)[0],
    )
    if slope == 0:
        raise Unreadable("RescaleSlope is 0")
    return slope, intercept


def pixel_format(dataset) -> dict:
    """Return what decodes the stored values, checked: Rows, Columns, BitsAllocated, BitsStored,
    PixelRepresentation (int).

    Raises Unreadable.
    """
    facts = {
        keyword: positive_int(dataset, keyword, MOST_PIXELS) for keyword in ("Rows", "Columns")
    }
    facts["BitsAllocated"] = positive_int(dataset, "BitsAllocated", BITS[-1])
    if facts["BitsAllocated"] not in BITS:
        raise Unreadable(
            f"BitsAllocated is {facts['BitsAllocated']}, none of {', '.join(map(str, BITS))}"
        )
    facts["BitsStored"] = positive_int(dataset, "BitsStored", facts["BitsAllocated"])
    signed = numbers(dataset, "PixelRepresentation", 1)[0]
    if signed not in (0, 1):
        raise Unreadable(f"PixelRepresentation is {signed:g}, neither 0 nor 1")
    return facts | {"PixelRepresentation": int(signed)}


def photometric_word(dataset) -> str:
    """Return PhotometricInterpretation, "" where it is missing. Raises Unreadable for what the
    standard has not.
    """
    text = str(value_of(dataset, "PhotometricInterpretation") or "").strip(" \0")
    if text and text not in PHOTOMETRIC:
        raise Unreadable("PhotometricInterpretation is none of the standard's")
    return text
