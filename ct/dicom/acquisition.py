"""What a file says of how it was taken, beside what the slice table needs: whether the models may
be asked about it at all.
"""

import pandas as pd
from pydicom import uid

from ct.dicom.dataset_parser import open_dataset, quiet_pydicom
from ct.dicom.tag_values import optional_number, value_of
from ct.privacy.defined_terms import body_part_terms, image_type_terms, modality_term
from ct.sources.file_reader import read_each
from ct.sources.source import Unreadable

# transfer syntaxes that change pixels or may (PS3.5 section 8.2); of JPEG 2000's second, most files
# are lossy
LOSSY = {
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
}
# what sites write for a scan without contrast
NO_AGENT = {"", "NONE", "NO", "N", "C-", "WITHOUT", "0"}


def read_acquisition(source, files):
    """Read how some files were taken, whose headers are known to read.

    source: of ct/sources/folder.py; files: names in it

    Returns a DataFrame indexed by `path`: modality, body_part and image_type (known code words
    alone, see ct/privacy/defined_terms.py; "" where not said), contrast and lossy (bool), thickness_mm
    (NaN where not said); and, for the user's own eyes alone, sop_uid and study_uid.
    """
    with quiet_pydicom():
        rows = [row or _facts(None) for row, *_ in read_each(_facts, source.select(files))]
    return pd.DataFrame(rows, columns=list(_facts(None)), index=pd.Index(files, name="path"))


def _facts(file):
    """Return one file's row; that of a file that pydicom cannot parse as a whole says nothing."""
    try:
        dataset = open_dataset(file, pixels=False) if file else {}
    except Unreadable:
        dataset = {}
    syntax = str(dataset.file_meta.TransferSyntaxUID) if dataset else ""
    return {
        "modality": modality_term(_text(dataset, "Modality")),
        "body_part": body_part_terms(_text(dataset, "BodyPartExamined")),
        "image_type": image_type_terms(_text(dataset, "ImageType").split("\\")),
        "contrast": _text(dataset, "ContrastBolusAgent").strip().upper() not in NO_AGENT,
        "lossy": _text(dataset, "LossyImageCompression").strip() == "01" or syntax in LOSSY,
        "thickness_mm": optional_number(dataset, "SliceThickness") if dataset else float("nan"),
        "sop_uid": _text(dataset, "SOPInstanceUID"),
        "study_uid": _text(dataset, "StudyInstanceUID"),
    }


def _text(dataset, keyword):
    """Return a tag's value as text, several joined by a backslash; "" where it is missing or
    malformed.
    """
    try:
        value = value_of(dataset, keyword) if dataset else None
    except Unreadable:
        value = None
    if value is None:
        return ""
    return (
        value
        if isinstance(value, str)
        else "\\".join(map(str, value if hasattr(value, "__len__") else [value]))
    )
