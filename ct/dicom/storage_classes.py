"""What kind of object a DICOM file holds, by its SOP class (PS3.4 section B.5, PS3.6 annex A)."""

from pydicom import uid
from pydicom.dataset import Dataset

from ct.dicom.tag_values import optional_number, tag_value
from ct.sources.source import Unreadable

DIRECTORY = str(uid.MediaStorageDirectoryStorage)
ENHANCED_CT = {str(uid.EnhancedCTImageStorage), str(uid.LegacyConvertedEnhancedCTImageStorage)}
ROOT = "1.2.840.10008.5.1.4.1.1."  # of the storage classes
KINDS = {  # how the UIDs of some classes go on -> what people call them; the longest counts
    "11.": "presentation state",
    "66": "raw data",
    "66.1": "registration",
    "66.2": "fiducials",
    "66.3": "registration",
    "66.4": "segmentation",
    "66.5": "segmentation",
    "88.": "structured report, SR",
    "88.59": "key objects, KO",
    "88.67": "dose report, SR",
    "88.68": "dose report, SR",
    "88.73": "dose report, SR",
    "88.76": "dose report, SR",
    "9.": "waveform",
    "104.": "document",
    "481.": "radiotherapy, RT",
}


def sop_class(dataset: Dataset) -> str:
    """Return SOPClassUID, or that of the file meta information; "" where both are missing."""
    for header, keyword in (
        (dataset, "SOPClassUID"),
        (dataset.file_meta, "MediaStorageSOPClassUID"),
    ):
        try:
            value = tag_value(header, keyword)
        except Unreadable:
            continue
        if isinstance(value, str):
            return value.strip(" \0")
    return ""


def require_image(dataset: Dataset) -> None:
    """Raise Unreadable, with the kind of the object, for a whole object that holds no image."""
    number = sop_class(dataset)
    if number == DIRECTORY:
        raise Unreadable("a DICOMDIR, the index of a disc, which holds no image")
    name = _class_name(number)
    if name and "Image" not in name and "Rows" not in dataset:
        raise Unreadable(f"no image ({_described(number, name)})")


def require_known_frames(dataset: Dataset) -> None:
    """Raise Unreadable, with the kind of the object, for a file of many frames that is no CT."""
    number, frames = sop_class(dataset), optional_number(dataset, "NumberOfFrames")
    name = _class_name(number)
    if frames > 1 and name and number != str(uid.CTImageStorage):
        what = _described(number, name)
        raise Unreadable(f"multi-frame file ({frames:.0f} frames): {what}, which is not read")


def _class_name(number: str) -> str:
    """Return the standard's name of a storage class; "" for any other UID, which is not shown."""
    if not number.startswith(ROOT):
        return ""
    name = uid.UID(number).name
    return name.split(" Storage")[0] if " Storage" in name else ""


def _described(number: str, name: str) -> str:
    """Return the common and the standard's name of a storage class."""
    ends = [end for end in KINDS if number.startswith(ROOT + end)]
    return f"{KINDS[max(ends, key=len)]}: {name}" if ends else name
