"""Read one DICOM file's pixels in Hounsfield units (HU)."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import uid

from ct.dicom.dataset_parser import as_source_file, parse_dataset, quiet_pydicom
from ct.dicom.fast_parser import parse_slice_fast
from ct.dicom.intercept_repair import may_wrap_at_12_bits, unwrap_at_12_bits, wraps_at_12_bits
from ct.dicom.pixel_attributes import (
    orientation,
    photometric_interpretation,
    pixel_format,
    require_single_grey_frame,
    rescale_parameters,
)
from ct.dicom.pixel_decoder import decode_pixels
from ct.dicom.tag_values import Header, NeedsPydicom, pixel_data, tag_value
from ct.sources.file_reader import all_bytes
from ct.sources.source import SourceFile, Unreadable
from ct.volumes.orientation import UPRIGHT, Turn, turn_to_standard

UNCOMPRESSED = {
    str(uid.ImplicitVRLittleEndian),
    str(uid.ExplicitVRLittleEndian),
    str(uid.DeflatedExplicitVRLittleEndian),
}
INT16 = np.iinfo(np.int16)


class StoredSlice(NamedTuple):
    """The pixels of a slice as stored, and what turns them into HU."""

    values: NDArray[np.integer]  # (rows, cols)
    pixel_format: dict[str, int]  # as returned by ct.dicom.pixel_attributes.pixel_format
    slope: float
    intercept: float
    turn: Turn  # to the standard axial view


def read_hu(file: str | Path | SourceFile) -> tuple[NDArray[np.int16], bool]:
    """Return (HU (rows, cols), whether the 12-bit intercept defect was repaired) of one slice.

    The HU are rounded, clipped to int16, and turned to the standard axial view as
    ImageOrientationPatient says (ct.volumes.orientation). Raises Unreadable for anything that is
    wrong with the file, MachineFault.
    """
    raw = all_bytes(as_source_file(file))
    with quiet_pydicom():
        stored = _read_usual(raw) or _read_any(raw)
    values, attributes, slope, intercept, turn = stored
    if may_wrap_at_12_bits(attributes, slope, intercept) and wraps_at_12_bits(values):
        return turn.pixels(unwrap_at_12_bits(values)), True
    return turn.pixels(_rescaled(values, slope, intercept)), False


def _rescaled(stored: NDArray[np.integer], slope: float, intercept: float) -> NDArray[np.int16]:
    """Return stored values times slope plus intercept, rounded and clipped to int16."""
    if slope == 1 and intercept == int(intercept):
        extremes = intercept, int(stored.min()) + intercept, int(stored.max()) + intercept
        if min(extremes) >= INT16.min and max(extremes) <= INT16.max:
            # nearly every file: no wider type is needed
            return stored.astype(np.int16) + np.int16(intercept)
    return np.rint(stored * slope + intercept).clip(INT16.min, INT16.max).astype(np.int16)


def _read_usual(raw: bytes) -> StoredSlice | None:
    """Return the slice of the usual, uncompressed file; None for one that needs `_read_any`."""
    parsed = parse_slice_fast(raw)
    if parsed is None:
        return None
    elements, syntax, pixels = parsed
    if syntax not in UNCOMPRESSED:
        return None
    with suppress(NeedsPydicom, Unreadable):  # what pydicom reads decides
        require_single_grey_frame(elements)
        attributes = pixel_format(elements)
        if attributes["BitsAllocated"] == 16:
            values = _uncompressed(pixels, attributes)
            return _stored_slice(elements, values, attributes)
    return None


def _read_any(raw: bytes) -> StoredSlice:
    """Return the slice of any file. Raises Unreadable, MachineFault."""
    dataset = parse_dataset(raw)
    require_single_grey_frame(dataset)
    attributes, syntax = pixel_format(dataset), str(dataset.file_meta.TransferSyntaxUID)
    pixels, vr = pixel_data(dataset)
    if syntax in UNCOMPRESSED and attributes["BitsAllocated"] == 16:
        values = _uncompressed(pixels, attributes)
        return _stored_slice(dataset, values, attributes)
    photometric = photometric_interpretation(dataset)
    values = decode_pixels(attributes, syntax, vr, photometric, pixels)
    shape = attributes["Rows"], attributes["Columns"]
    if values.shape != shape:
        raise Unreadable(f"the pixel data is an image of {values.shape}, not {shape}")
    return _stored_slice(dataset, values, attributes)


def _stored_slice(
    header: Header, values: NDArray[np.integer], attributes: dict[str, int]
) -> StoredSlice:
    """Return the slice of these stored values. Raises Unreadable; NeedsPydicom for raw elements.

    A file without ImageOrientationPatient, which never enters a slice table, is not turned.
    """
    turn = UPRIGHT
    if tag_value(header, "ImageOrientationPatient") is not None:
        turn = turn_to_standard(orientation(header))
    return StoredSlice(values, attributes, *rescale_parameters(header), turn)


def _uncompressed(pixels: bytes | memoryview, attributes: dict[str, int]) -> NDArray[np.integer]:
    """Return the stored values (rows, cols) of uncompressed 16-bit pixels (PS3.5 section 8.1)."""
    rows, columns = attributes["Rows"], attributes["Columns"]
    length = rows * columns * 2
    if len(pixels) < length:
        raise Unreadable(f"truncated pixel data: {len(pixels)} of {length} bytes")
    dtype = "<i2" if attributes["PixelRepresentation"] else "<u2"
    values = np.frombuffer(pixels, dtype, count=length // 2).reshape(rows, columns)
    # the bits above BitsStored are undefined; shifting left and right also extends the sign
    if (unused := 16 - attributes["BitsStored"]) > 0:
        values = values << unused >> unused
    return values
