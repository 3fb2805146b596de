"""One DICOM file's header: the facts a slice table needs, and nothing that names a person."""

import math
import operator
from contextlib import suppress

import numpy as np

from ct.dicom.dataset_parser import open_dataset
from ct.dicom.fast_parser import parse_header_fast
from ct.dicom.pixel_attributes import MOST_PIXELS, require_single_grey_frame
from ct.dicom.tag_values import (
    NeedsPydicom,
    needed_text,
    numbers,
    optional_number,
    positive_int,
    value_of,
)
from ct.privacy.defined_terms import known_transfer_syntax
from ct.privacy.pseudonyms import pseudonym
from ct.sources.source import Unreadable

SPACINGS = 1e-3, 1e3  # mm: beyond them it is no pixel's
LENGTHS = 1e-6, 1e6  # of a direction, squared: it is 1 but for rounding


def read_header(file, key, patient_id_optional=False):
    """Read one slice's header. Call it inside `quiet_pydicom`, which is slow to enter.

    file: a file of a source; key: bytes, of the pseudonyms; patient_id_optional: a file without
    PatientID, which may be empty (PS3.3 section C.7.1.1), is taken: its study counts as the patient

    Returns a dict: HEADER_COLUMNS without split and path, `slice_id`, `ipp` (3,) mm, the centre of
    the first pixel in patient coordinates, and `iop` (6,), the directions along a row and down a
    column (PS3.3 section C.7.6.2.1.1). Raises Unreadable where the file is no single grey slice or
    lacks a tag that places it.
    """
    if plain := parse_header_fast(file):
        with suppress(NeedsPydicom, Unreadable):  # pydicom's own reading has the last word
            return _facts(*plain, key, patient_id_optional)
    dataset = open_dataset(file, pixels=False)
    return _facts(dataset, str(dataset.file_meta.TransferSyntaxUID), key, patient_id_optional)


def _facts(dataset, syntax, key, patient_id_optional=False):
    require_single_grey_frame(dataset)
    spacing = optional_number(dataset, "PixelSpacing")
    patient = (
        "StudyInstanceUID"
        if patient_id_optional and not value_of(dataset, "PatientID")
        else "PatientID"
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
        "transfer_syntax": known_transfer_syntax(syntax),
    }


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
