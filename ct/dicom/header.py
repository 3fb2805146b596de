"""Read one DICOM file's header: the values for the slice table, and nothing that names a person."""

from contextlib import suppress
from typing import Any

import numpy as np

from ct.dicom.dataset_parser import open_dataset
from ct.dicom.fast_parser import parse_header_fast
from ct.dicom.pixel_attributes import MAX_SIDE, orientation, require_single_grey_frame
from ct.dicom.tag_values import (
    Header,
    NeedsPydicom,
    optional_number,
    required_numbers,
    required_positive_int,
    required_text,
    tag_value,
)
from ct.privacy.defined_terms import known_transfer_syntax
from ct.privacy.pseudonyms import pseudonym
from ct.sources.source import SourceFile, Unreadable
from ct.volumes.orientation import turn_to_standard

MIN_SPACING_MM, MAX_SPACING_MM = 1e-3, 1e3  # a PixelSpacing outside counts as missing


def read_header(file: SourceFile, key: bytes, patient_id_optional: bool = False) -> dict[str, Any]:
    """Read one slice's header. Call it inside `quiet_pydicom`, which is slow to enter.

    key: of the pseudonyms; patient_id_optional: read a file without PatientID, too (PS3.3 section
    C.7.1.1 allows it); its study then counts as the patient

    Returns a dict: HEADER_COLUMNS without split and path, `slice_id`, `ipp` (3,) mm, the centre of
    the first stored pixel in patient coordinates, and `iop` (6,), the directions along a row and
    down a column (PS3.3 section C.7.6.2.1.1). Rows, columns, their spacing and `iop` are those of
    the pixels that `ct.dicom.hounsfield.read_hu` returns, which it turns to the standard view.

    Raises Unreadable where the file is no single grey slice or lacks a tag that identifies or
    places it, MachineFault.
    """
    if parsed := parse_header_fast(file):
        with suppress(NeedsPydicom, Unreadable):  # then pydicom's parser decides
            return header_values(*parsed, key, patient_id_optional)
    dataset = open_dataset(file, pixels=False)
    return header_values(
        dataset, str(dataset.file_meta.TransferSyntaxUID), key, patient_id_optional
    )


def header_values(
    header: Header, syntax: str, key: bytes, patient_id_optional: bool
) -> dict[str, Any]:
    """Return the dict of `read_header` from a parsed header and its transfer syntax."""
    require_single_grey_frame(header)
    patient = "PatientID"
    if patient_id_optional and not tag_value(header, patient):
        patient = "StudyInstanceUID"
    return {
        "slice_id": pseudonym(required_text(header, "SOPInstanceUID"), key, "slice"),
        "patient_id": pseudonym(required_text(header, patient), key, "patient"),
        "study_id": pseudonym(required_text(header, "StudyInstanceUID"), key, "study"),
        "series_id": pseudonym(required_text(header, "SeriesInstanceUID"), key, "series"),
        **_turned_geometry(header),
        "slope": optional_number(header, "RescaleSlope"),
        "intercept": optional_number(header, "RescaleIntercept"),
        "bits_stored": optional_number(header, "BitsStored"),
        "pixel_representation": optional_number(header, "PixelRepresentation"),
        "window_center": optional_number(header, "WindowCenter"),
        "window_width": optional_number(header, "WindowWidth"),
        "transfer_syntax": known_transfer_syntax(syntax),
    }


def _turned_geometry(header: Header) -> dict[str, Any]:
    """Return size, place and directions of the pixels that `read_hu` returns. Raises Unreadable."""
    rows = required_positive_int(header, "Rows", MAX_SIDE)
    columns = required_positive_int(header, "Columns", MAX_SIDE)
    ipp, iop = required_numbers(header, "ImagePositionPatient", 3), orientation(header)
    turn = turn_to_standard(iop)
    # between rows, and between columns (PS3.3 section 10.7.1.3)
    spacing = optional_number(header, "PixelSpacing", place=int(turn.transposed))
    return {
        "rows": columns if turn.transposed else rows,
        "cols": rows if turn.transposed else columns,
        "ipp": ipp,
        "iop": turn.directions(iop),
        "pixel_spacing_mm": spacing if MIN_SPACING_MM <= spacing <= MAX_SPACING_MM else np.nan,
    }
