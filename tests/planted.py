"""DICOM files with a planted name in every tag that can hold text, and a search for these names."""

import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pydicom
from pydicom.config import disable_value_validation
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from ct.dicom.tag_values import KEYWORDS

# letters and digits: a code (VR CS) may hold no other text
PLANTED = re.compile(rb"ZQX[0-9A-F]{8}QZ", re.IGNORECASE)
# value representations, of two letters each
CAN_HOLD = {*re.findall("..", "AEASCSDADSDTISLOLTOBOWPNSHSTTMUCUIUNURUT")}
KEPT = {
    *KEYWORDS.split(),
    "PixelData",
    "HighBit",
    "PhotometricInterpretation",
    "SpecificCharacterSet",
}  # without them no file reads


def name_of(number):
    """Return the planted name of a number, such as a tag: 13 characters, a code may have 16."""
    return f"ZQX{number:08X}QZ"


def every_tag(kept=KEPT):
    """Return a data set with a planted name in every tag that can hold one.

    These are the tags of pydicom's dictionary but `kept`, one sequence, and private tags.
    """
    dataset = Dataset()
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if tag >> 16 <= 4 or tag & 0xFFFF == 0 or keyword in kept or tag >> 16 == 0x7FE0:
            continue
        if kinds := CAN_HOLD & set(vr.split(" or ")):
            _add(dataset, tag, min(kinds), name_of(tag))
    item = Dataset()
    _add(item, 0x00100010, "PN", name_of(1))
    dataset.add_new(0x00081110, "SQ", [item])
    for number, (tag, vr) in enumerate(
        {0x00090010: "LO", 0x00091001: "LO", 0x00110010: "LO", 0x00111002: "UN"}.items(), 2
    ):
        _add(dataset, tag, vr, name_of(number))
    return dataset


def _add(dataset, tag, vr, text):
    """Put text into a tag of any kind, numbers and dates included, as it stands in a file."""
    value = text.encode() + b" " * (len(text) % 2)
    dataset[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)


def plant(source, target, names, syntax=None, **tags):
    """Write a copy of a DICOM file with the tags of the data set `names`, then `tags`.

    A tag that is None is removed. syntax: another transfer syntax, of compressed pixels that do not
    decode, or an unknown one
    """
    with disable_value_validation():
        dataset = pydicom.dcmread(source)
        dataset.update(names)
        for keyword, value in tags.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        meta = dataset.file_meta
        meta.SourceApplicationEntityTitle, meta.PrivateInformationCreatorUID = (
            name_of(6),
            name_of(7),
        )
        meta.ImplementationVersionName, meta.PrivateInformation = (
            name_of(8),
            name_of(9).encode() + b" ",
        )
        meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
        if syntax and UID(syntax).is_transfer_syntax:
            dataset.PixelData = encapsulate([f"\xff\xd8{name_of(10)} broken".encode("latin1")])
            dataset["PixelData"].is_undefined_length = True
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb") as file:
            pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True)
    return target


def planted_in(folder, but=()):
    """Return {relative path: a planted name in it} of the files and folders below `folder`.

    Searched are paths, bytes and the cells of parquet tables. but: names of files whose content is
    not searched
    """
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        held = [name.encode()]
        if path.is_file() and path.name not in but:
            held.append(path.read_bytes())
            if path.suffix == ".parquet":
                held.append(_cells(path))
        if hit := next(filter(None, map(PLANTED.search, held)), None):
            found[name] = hit[0].decode()
    return found


def _cells(path):
    table = pd.read_parquet(path).reset_index()
    text = "\n".join(
        [str(pq.read_schema(path).metadata), *(" ".join(map(str, table[name])) for name in table)]
    )
    return text.encode()
