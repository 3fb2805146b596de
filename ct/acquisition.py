"""What a file says of how it was taken, beside what the slice table needs: whether the models may be asked about it at all."""

import re

import pandas as pd
from pydicom import uid

from ct.elements import open_dataset, optional_number, quiet, value_of
from ct.source import Unreadable

LOSSY = {  # transfer syntaxes that change pixels or may (PS3.5 section 8.2); of JPEG 2000's second, most files are lossy
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.HTJ2K,
}
NO_AGENT = {"", "NONE", "NO", "N", "C-", "WITHOUT", "0"}  # what sites write for a scan without contrast
CODE = re.compile(r"[A-Z0-9 _/-]{1,16}")  # a code string, PS3.5 section 6.2


def read_acquisition(source, files):
    """Read how some files were taken, whose headers are known to read.

    source: of ct/source.py; files: names in it

    Returns a DataFrame indexed by `path`: modality and body_part ("" where not said), image_type (the values joined by "\\"),
    contrast and lossy (bool), thickness_mm (NaN where not said); and, for the user's own eyes alone, sop_uid and study_uid.
    """
    with quiet():
        rows = [_facts(file) for file in source.take(files)]
    return pd.DataFrame(rows, columns=list(_facts(None)), index=pd.Index(files, name="path"))


def _facts(file):
    """Return one file's row; that of a file that pydicom cannot parse as a whole says nothing."""
    try:
        dataset = open_dataset(file, pixels=False) if file else {}
    except Unreadable:
        dataset = {}
    syntax = str(dataset.file_meta.TransferSyntaxUID) if dataset else ""
    return {
        "modality": _code(dataset, "Modality"),
        "body_part": _code(dataset, "BodyPartExamined"),
        "image_type": _text(dataset, "ImageType"),
        "contrast": _text(dataset, "ContrastBolusAgent").strip().upper() not in NO_AGENT,
        "lossy": _text(dataset, "LossyImageCompression").strip() == "01" or syntax in LOSSY,
        "thickness_mm": optional_number(dataset, "SliceThickness") if dataset else float("nan"),
        "sop_uid": _text(dataset, "SOPInstanceUID"),
        "study_uid": _text(dataset, "StudyInstanceUID"),
    }


def _text(dataset, keyword):
    """Return a tag's value as text, several joined by a backslash; "" where it is missing or malformed."""
    try:
        value = value_of(dataset, keyword) if dataset else None
    except Unreadable:
        value = None
    if value is None:
        return ""
    return value if isinstance(value, str) else "\\".join(map(str, value if hasattr(value, "__len__") else [value]))


def _code(dataset, keyword):
    """Return a code string; "?" for what is none, which may be anything and goes no further."""
    text = _text(dataset, keyword).strip(" \0").upper()
    return text if not text or CODE.fullmatch(text) else "?"
