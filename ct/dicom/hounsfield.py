"""From DICOM files to the slices' headers, many at a time, and from one file to HU."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from pydicom import uid

from ct.dicom.dataset_parser import as_file, parse_dataset, quiet_pydicom
from ct.dicom.fast_parser import parse_slice_fast
from ct.dicom.intercept_repair import wraps_at_12_bits
from ct.dicom.pixel_attributes import (
    photometric_word,
    pixel_format,
    require_single_grey_frame,
    rescale_parameters,
)
from ct.dicom.pixel_decoder import decode
from ct.dicom.tag_values import NeedsPydicom, pixel_bytes
from ct.sources.file_reader import all_bytes
from ct.sources.folder import DiskFile
from ct.sources.source import Unreadable
from ct.sources.zip_archive import ZipMember

NATIVE = {
    str(uid.ImplicitVRLittleEndian),
    str(uid.ExplicitVRLittleEndian),
    str(uid.DeflatedExplicitVRLittleEndian),
}


def read_hu(file: str | Path | DiskFile | ZipMember) -> tuple[np.ndarray, bool]:
    """Decode one slice, of a path or a file of a source.

    Returns (hu, repaired): int16 (rows, cols) in HU, rounded and clipped to int16, and whether the
    intercept was mended (see `wraps_at_12_bits`). Raises Unreadable for anything that is wrong with
    the file, MachineFault.
    """
    raw = all_bytes(as_file(file))
    with quiet_pydicom():
        stored, facts, (slope, intercept) = _plain_slice(raw) or _slice(raw)
    twelve = facts["BitsStored"] == 12 and facts["PixelRepresentation"] == 0
    if twelve and slope == 1 and intercept > -100 and wraps_at_12_bits(stored):
        return (stored.astype(np.int16) + np.int16(1000)) % np.int16(4096) - np.int16(1000), True
    extremes = intercept, int(stored.min()) + intercept, int(stored.max()) + intercept
    if (
        slope == 1
        and intercept == int(intercept)
        and min(extremes) >= -32768
        and max(extremes) <= 32767
    ):
        # nearly every file: needs no wider type
        return stored.astype(np.int16) + np.int16(intercept), False
    return np.rint(stored * slope + intercept).clip(-32768, 32767).astype(np.int16), False


def _plain_slice(raw):
    """Return (stored values, facts of them, rescale) of the usual file; None for one that is left
    to `_slice`.
    """
    found = parse_slice_fast(raw)
    if not found or found[1] not in NATIVE:
        return None
    elements, _, pixels = found
    with suppress(NeedsPydicom, Unreadable):  # pydicom's own reading has the last word
        require_single_grey_frame(elements)
        facts = pixel_format(elements)
        if facts["BitsAllocated"] == 16:
            return _native(pixels, facts), facts, rescale_parameters(elements)
    return None


def _slice(raw):
    """Do the same as `_plain_slice` for any file. Raises Unreadable, MachineFault."""
    dataset = parse_dataset(raw)
    require_single_grey_frame(dataset)
    facts, syntax = pixel_format(dataset), str(dataset.file_meta.TransferSyntaxUID)
    pixels, vr = pixel_bytes(dataset)
    if syntax in NATIVE and facts["BitsAllocated"] == 16:
        return _native(pixels, facts), facts, rescale_parameters(dataset)
    asked = facts | {
        "syntax": syntax,
        "vr": vr,
        "PhotometricInterpretation": photometric_word(dataset),
    }
    stored, shape = decode(asked, pixels), (facts["Rows"], facts["Columns"])
    if stored.shape != shape:
        raise Unreadable(f"the pixel data is an image of {stored.shape}, not {shape}")
    return stored, facts, rescale_parameters(dataset)


def _native(pixels, facts):
    """Return the stored values (rows, cols) of uncompressed pixels of 16 bits (PS3.5 section
    8.1).
    """
    shape = facts["Rows"], facts["Columns"]
    wanted = shape[0] * shape[1] * 2
    if len(pixels) < wanted:
        raise Unreadable(f"truncated pixel data: {len(pixels)} of {wanted} bytes")
    array = np.frombuffer(
        pixels, "<i2" if facts["PixelRepresentation"] else "<u2", count=wanted // 2
    ).reshape(shape)
    # the bits above are undefined; shifting to and fro also extends the sign
    if (unused := 16 - facts["BitsStored"]) > 0:
        array = array << unused >> unused
    return array
