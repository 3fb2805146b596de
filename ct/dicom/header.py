"""Read one DICOM file's header: the values for the slice table, and nothing that names a person."""

from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from ct.dicom.dataset_parser import open_dataset
from ct.dicom.enhanced_ct import frame_count, frame_header, is_enhanced_ct
from ct.dicom.fast_parser import parse_header_fast
from ct.dicom.pixel_attributes import MAX_SIDE, orientation, require_single_grey_frame
from ct.dicom.storage_classes import require_image, require_known_frames
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
from ct.slices import SPACINGS_MM
from ct.sources.frames import frame_name
from ct.sources.source import SourceFile, Unreadable
from ct.volumes.nifti import is_nifti, slice_geometries
from ct.volumes.orientation import turn_to_standard


class SliceHeader(NamedTuple):
    """The header of one slice of a file."""

    frame: int  # its number in a file of several slices, from 1; 0 where the file is one slice
    values: dict[str, Any] | None  # as returned by `read_header`; of NIfTI without identifiers
    reason: str  # why it is unreadable, or ""


# what a NIfTI file does not say
WITHOUT_DICOM = {
    "slope": np.nan,
    "intercept": np.nan,
    "bits_stored": np.nan,
    "pixel_representation": np.nan,
    "window_center": np.nan,
    "window_width": np.nan,
    "transfer_syntax": "",
}


def file_identifiers(name: str, frame: int, key: bytes) -> dict[str, str]:
    """Return the identifiers of a slice of a file without any: the file is patient and study.

    name: of the file in its source; key: of the pseudonyms
    """
    identifiers = {
        f"{kind}_id": pseudonym(name, key, kind) for kind in ("patient", "study", "series")
    }
    return identifiers | {"slice_id": pseudonym(frame_name(name, frame), key, "slice")}


def read_header(file: SourceFile, key: bytes, patient_id_optional: bool = False) -> dict[str, Any]:
    """Read one slice's header. Call it inside `quiet_pydicom`, which is slow to enter.

    key: of the pseudonyms; patient_id_optional: read a file without PatientID, too (PS3.3 section
    C.7.1.1 allows it); its study then counts as the patient

    Returns a dict: HEADER_COLUMNS without split and path, `slice_id`, `ipp` (3,) mm, the centre of
    the first pixel in patient coordinates, and `iop` (6,), the directions along a row and down a
    column (PS3.3 section C.7.6.2.1.1). Rows, columns, their spacing, `ipp` and `iop` are those of
    the pixels that `ct.dicom.hounsfield.read_hu` returns, which it turns to the standard view.

    Raises Unreadable where the file is no single grey slice or lacks a tag that identifies or
    places it, MachineFault.
    """
    [header] = read_slice_headers(file, key, patient_id_optional)
    if header.values is None:
        raise Unreadable(header.reason)
    return header.values


def read_slice_headers(
    file: SourceFile, key: bytes, patient_id_optional: bool = False
) -> list[SliceHeader]:
    """Read the headers of all slices of a file: of one slice, of enhanced CT, of NIfTI.

    Call it inside `quiet_pydicom`. key, patient_id_optional: as in `read_header`

    Raises Unreadable where the whole file is no CT image, MachineFault; InputError where NIfTI
    needs nibabel.
    """
    if is_nifti(str(file)):
        geometries = enumerate(slice_geometries(file), 1)
        return [SliceHeader(number, WITHOUT_DICOM | values, "") for number, values in geometries]
    if parsed := parse_header_fast(file):
        with suppress(NeedsPydicom, Unreadable):  # then pydicom's parser decides
            return [SliceHeader(0, header_values(*parsed, key, patient_id_optional), "")]
    dataset = open_dataset(file, pixels=False)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    require_image(dataset)
    if not is_enhanced_ct(dataset):
        require_known_frames(dataset)
        return [SliceHeader(0, header_values(dataset, syntax, key, patient_id_optional), "")]
    headers = []
    for number in range(1, frame_count(dataset) + 1):
        try:
            header = frame_header(dataset, number)
            values = header_values(header, syntax, key, patient_id_optional, number)
            headers.append(SliceHeader(number, values, ""))
        except Unreadable as error:
            headers.append(SliceHeader(number, None, str(error)))
    return headers


def header_values(
    header: Header, syntax: str, key: bytes, patient_id_optional: bool, frame: int = 0
) -> dict[str, Any]:
    """Return the dict of `read_header` from a parsed header and its transfer syntax.

    frame: its number in a file of several; it is then part of the slice's identifier
    """
    require_single_grey_frame(header)
    patient = "PatientID"
    if patient_id_optional and not tag_value(header, patient):
        patient = "StudyInstanceUID"
    slice_uid = required_text(header, "SOPInstanceUID")
    if frame:
        slice_uid = frame_name(slice_uid, frame)
    return {
        "slice_id": pseudonym(slice_uid, key, "slice"),
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
    down, along = (optional_number(header, "PixelSpacing", place) for place in (0, 1))
    spacing, (low, high) = along if turn.transposed else down, SPACINGS_MM
    row, column = turn.first_pixel(rows, columns)
    if row:
        ipp = ipp + iop[3:] * row * np.nan_to_num(down)
    if column:
        ipp = ipp + iop[:3] * column * np.nan_to_num(along)
    return {
        "rows": columns if turn.transposed else rows,
        "cols": rows if turn.transposed else columns,
        "ipp": ipp,
        "iop": turn.directions(iop),
        "pixel_spacing_mm": spacing if low <= spacing <= high else np.nan,
    }
