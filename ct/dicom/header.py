"""One DICOM file's header: the facts a slice table needs, and nothing that names a person."""

import math
import operator
from contextlib import suppress

import numpy as np

from ct.dicom.elements import NotPlain, as_file, open_dataset, plain_elements, quiet
from ct.dicom.source import Unreadable
from ct.dicom.tag_values import needed_text, numbers, optional_number, positive_int, value_of
from ct.privacy.code_words import known_syntax
from ct.privacy.pseudonyms import pseudonym

MOST_PIXELS = 4096  # a side: no head CT has more
SPACINGS = 1e-3, 1e3  # mm: beyond them it is no pixel's
BITS = (1, 8, 16, 32, 64)  # BitsAllocated (PS3.5 section 8.1.1)
LENGTHS = 1e-6, 1e6  # of a direction, squared: it is 1 but for rounding
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


def read_header(file, key):
    """Read one slice's header.

    file: a path or a file of a source; key: bytes, of the pseudonyms

    Returns a dict: HEADER_COLUMNS without split and path, `slice_id`, `ipp` (3,) mm, the centre of
    the first pixel in patient coordinates, and `iop` (6,), the directions along a row and down a
    column (PS3.3 section C.7.6.2.1.1). Raises Unreadable where the file is no single grey slice or
    lacks a tag that places it.
    """
    with quiet():
        return header_facts(as_file(file), key)


def header_facts(file, key, anonymous=False):
    """Do the same as `read_header`, for a file of a source and inside `quiet()`, which is slow to
    enter.

    anonymous: a file without PatientID, which may be empty (PS3.3 section C.7.1.1), is taken: its
    study counts as the patient
    """
    if plain := plain_elements(file):
        with suppress(NotPlain, Unreadable):  # pydicom's own reading has the last word
            return _facts(*plain, key, anonymous)
    dataset = open_dataset(file, pixels=False)
    return _facts(dataset, str(dataset.file_meta.TransferSyntaxUID), key, anonymous)


def _facts(dataset, syntax, key, anonymous=False):
    refuse_other_images(dataset)
    spacing = optional_number(dataset, "PixelSpacing")
    patient = (
        "StudyInstanceUID" if anonymous and not value_of(dataset, "PatientID") else "PatientID"
    )
    return {
        "slice_id": pseudonym(needed_text(dataset, "SOPInstanceUID"), key, "slice"),
        "patient_id": pseudonym(needed_text(dataset, patient), key, "patient"),
        "study_id": pseudonym(needed_text(dataset, "StudyInstanceUID"), key, "study"),
        "series_id": pseudonym(needed_text(dataset, "SeriesInstanceUID"), key, "series"),
        "rows": positive_int(dataset, "Rows", MOST_PIXELS),
        "cols": positive_int(dataset, "Columns", MOST_PIXELS),
        "ipp": numbers(dataset, "ImagePositionPatient", 3),
        "iop": _orientation(dataset),
        "pixel_spacing_mm": spacing if SPACINGS[0] <= spacing <= SPACINGS[1] else np.nan,
        "slope": optional_number(dataset, "RescaleSlope"),
        "intercept": optional_number(dataset, "RescaleIntercept"),
        "bits_stored": optional_number(dataset, "BitsStored"),
        "pixel_representation": optional_number(dataset, "PixelRepresentation"),
        "window_center": optional_number(dataset, "WindowCenter"),
        "window_width": optional_number(dataset, "WindowWidth"),
        "transfer_syntax": known_syntax(syntax),
    }


def refuse_other_images(dataset):
    """Raise Unreadable for a file that holds more than one frame or more than one sample a
    pixel.
    """
    frames = optional_number(dataset, "NumberOfFrames")
    if frames > 1:
        raise Unreadable(f"multi-frame file ({frames:.0f} frames)")
    samples = optional_number(dataset, "SamplesPerPixel")
    if samples > 1:
        raise Unreadable(f"colour image ({samples:.0f} samples per pixel)")


def rescale(dataset):
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


def _orientation(dataset):
    """Return ImageOrientationPatient (6,); raises Unreadable unless it holds two directions that
    span a plane.
    """
    iop = numbers(dataset, "ImageOrientationPatient", 6)
    row, col = iop[:3].tolist(), iop[3:].tolist()
    rows, cols, both = (
        sum(map(operator.mul, a, b)) for a, b in ((row, row), (col, col), (row, col))
    )
    of_length_one = all(LENGTHS[0] < squared < LENGTHS[1] for squared in (rows, cols))
    if not of_length_one or abs(both) > 0.5 * math.sqrt(rows * cols):  # the cosine between them
        raise Unreadable("ImageOrientationPatient holds no two perpendicular directions")
    return iop


def stored_facts(dataset) -> dict:
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
