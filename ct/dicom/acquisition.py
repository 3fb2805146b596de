"""How slices were acquired, to check that the models apply: modality, body part, contrast, ..."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from pydicom import uid
from pydicom.dataset import Dataset

from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.enhanced_ct import open_slice_header
from ct.dicom.pixel_attributes import orientation
from ct.dicom.tag_values import optional_number, tag_value
from ct.privacy.defined_terms import (
    body_part_terms,
    image_type_terms,
    modality_term,
    patient_position_term,
    rescale_type_term,
)
from ct.privacy.manufacturers import manufacturer_term
from ct.privacy.series_words import (
    agent_given,
    contrast_named,
    kernel_class,
    kernel_of_text,
    kind_of_series,
)
from ct.sources.file_reader import read_each
from ct.sources.frames import Frame
from ct.sources.source import Source, SourceFile, Unreadable
from ct.volumes.nifti import is_nifti
from ct.volumes.orientation import turn_to_standard

# transfer syntaxes that lose detail, or may (PS3.5 section 8.2); most JPEG2000 files are lossy: the
# lossless form has a UID of its own
LOSSY_SYNTAXES = {
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
}


def read_acquisition(source: Source, files: Sequence[str]) -> pd.DataFrame:
    """Read how files were acquired. Their headers must be readable.

    files: names in the source

    Returns a DataFrame indexed by `path`: modality, body_part, image_type and unit (RescaleType),
    words of ct/privacy/defined_terms.py alone, "" where missing; kernel and kind (words of
    ct/privacy/series_words.py alone, "" where unknown), contrast and lossy (bool), burned_in and
    recognizable (bool), thickness_mm (NaN where missing), position (PatientPosition, "" where
    missing), stored (how the pixels are stored, in words, "" where they are not turned),
    manufacturer (a word of ct/privacy/manufacturers.py), dicom (False for NIfTI); and sop_uid and
    study_uid, which are identifiers and stay on this machine.

    Raises MachineFault.
    """
    with quiet_pydicom():
        read = read_each(_read, source.select(files))
        rows = [row or _acquisition(Dataset()) for row, *_ in read]
    columns = list(_acquisition(Dataset()))
    return pd.DataFrame(rows, columns=columns, index=pd.Index(files, name="path"))


def _read(file: SourceFile) -> dict[str, Any]:
    """Return one slice's row; that of an empty data set for a file that pydicom cannot parse."""
    if isinstance(file, Frame) and is_nifti(str(file.file)):
        return _acquisition(Dataset()) | {"dicom": False}
    try:
        return _acquisition(open_slice_header(file))
    except Unreadable:
        return _acquisition(Dataset())


def _acquisition(dataset: Dataset) -> dict[str, Any]:
    """Return the row of a data set; in that of an empty one every value is missing."""
    syntax = str(dataset.file_meta.TransferSyntaxUID) if dataset else ""
    description, agent = _text(dataset, "SeriesDescription"), _text(dataset, "ContrastBolusAgent")
    lossy = _text(dataset, "LossyImageCompression").strip() == "01" or syntax in LOSSY_SYNTAXES
    return {
        "modality": modality_term(_text(dataset, "Modality")),
        "body_part": body_part_terms(_text(dataset, "BodyPartExamined")),
        "image_type": image_type_terms(_text(dataset, "ImageType").split("\\")),
        "unit": rescale_type_term(_text(dataset, "RescaleType")),
        "kernel": kernel_class(_text(dataset, "ConvolutionKernel")) or kernel_of_text(description),
        "kind": kind_of_series(description),
        "contrast": agent_given(agent) or contrast_named(description) is True,
        "lossy": lossy,
        "burned_in": _text(dataset, "BurnedInAnnotation").strip().upper() == "YES",
        "recognizable": _text(dataset, "RecognizableVisualFeatures").strip().upper() == "YES",
        "thickness_mm": optional_number(dataset, "SliceThickness"),
        "manufacturer": manufacturer_term(_text(dataset, "Manufacturer")),
        "position": patient_position_term(_text(dataset, "PatientPosition")),
        "stored": _stored(dataset),
        "dicom": True,
        "sop_uid": _text(dataset, "SOPInstanceUID"),
        "study_uid": _text(dataset, "StudyInstanceUID"),
    }


def _stored(dataset: Dataset) -> str:
    """Return how the pixels are stored, as in ct.volumes.orientation.Turn; "" where unknown."""
    try:
        return turn_to_standard(orientation(dataset)).words
    except Unreadable:
        return ""


def _text(dataset: Dataset, keyword: str) -> str:
    """Return a tag's value as text, several values joined by backslashes.

    It is "" where the tag is missing or malformed.
    """
    try:
        value = tag_value(dataset, keyword)
    except Unreadable:
        value = None
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    values = value if hasattr(value, "__len__") else [value]
    return "\\".join(map(str, values))
