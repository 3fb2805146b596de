"""Read one DICOM file's pixels in Hounsfield units (HU)."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from ct.dicom.dataset_parser import as_source_file, parse_dataset, quiet_pydicom
from ct.dicom.enhanced_ct import open_frame
from ct.dicom.fast_parser import parse_slice_fast
from ct.dicom.intercept_repair import may_wrap_at_12_bits, unwrap_at_12_bits, wraps_at_12_bits
from ct.dicom.padding import AIR_HU, float_padding_range, padded_pixels, padding_range
from ct.dicom.pixel_attributes import (
    MAX_SIDE,
    orientation,
    photometric_interpretation,
    pixel_format,
    require_single_grey_frame,
    rescale_parameters,
)
from ct.dicom.pixel_decoder import decode_pixels
from ct.dicom.tag_values import (
    Header,
    NeedsPydicom,
    pixel_data,
    required_positive_int,
    tag_value,
)
from ct.sources.file_reader import all_bytes
from ct.sources.frames import Frame
from ct.sources.source import SourceFile, Unreadable
from ct.volumes.nifti import is_nifti, slice_hu
from ct.volumes.orientation import UPRIGHT, Turn, turn_to_standard

UNCOMPRESSED = {
    str(uid.ImplicitVRLittleEndian),
    str(uid.ExplicitVRLittleEndian),
    str(uid.DeflatedExplicitVRLittleEndian),
}
FLOAT_PIXELS = {"FloatPixelData": "<f4", "DoubleFloatPixelData": "<f8"}
INT16 = np.iinfo(np.int16)


class StoredSlice(NamedTuple):
    """The pixels of a slice as stored, and what turns them into HU."""

    values: NDArray[Any]  # (rows, cols)
    pixel_format: dict[str, int]  # as returned by ct.dicom.pixel_attributes.pixel_format
    rescale: tuple[float, float]  # slope and intercept
    turn: Turn  # to the standard axial view
    padding: tuple[float, float] | None  # as returned by ct.dicom.padding.padding_range


def read_hu(file: str | Path | SourceFile) -> tuple[NDArray[np.int16], bool]:
    """Return (HU (rows, cols), whether the 12-bit intercept defect was repaired) of one slice.

    The HU are rounded, clipped to int16, and turned to the standard axial view as
    ImageOrientationPatient says (ct.volumes.orientation). Raises Unreadable for anything that is
    wrong with the file, MachineFault.
    """
    file = as_source_file(file)
    if isinstance(file, Frame) and is_nifti(str(file.file)):
        return slice_hu(file), False
    with quiet_pydicom():
        stored = _read_frame(file) if isinstance(file, Frame) else _read_file(file)
    values, attributes, rescale, turn, padding = stored
    wraps = may_wrap_at_12_bits(attributes, *rescale) and wraps_at_12_bits(values)
    hu = unwrap_at_12_bits(values) if wraps else _rescaled(values, *rescale)
    if padding and (padded := padded_pixels(values, padding, rescale)) is not None:
        hu[padded] = AIR_HU
    return turn.pixels(hu), wraps


def _read_file(file: SourceFile) -> StoredSlice:
    """Return the slice of a file of one slice. Raises Unreadable, MachineFault."""
    raw = all_bytes(file)
    if usual := _read_usual(raw):
        return usual
    dataset = parse_dataset(raw)
    if any(keyword in dataset for keyword in FLOAT_PIXELS):
        return _read_floats(dataset)
    return _read_any(dataset, *pixel_data(dataset))


def _read_frame(frame: Frame) -> StoredSlice:
    """Return one frame of enhanced CT. Raises Unreadable, MachineFault."""
    return _read_any(*open_frame(frame))


def _rescaled(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[np.int16]:
    """Return stored values times slope plus intercept, rounded and clipped to int16."""
    if stored.dtype.kind in "iu" and slope == 1 and intercept == int(intercept):
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


def _read_any(dataset: Dataset, pixels: bytes | memoryview, vr: str) -> StoredSlice:
    """Return the slice of any header, and the pixel data with their VR.

    Raises Unreadable, MachineFault.
    """
    require_single_grey_frame(dataset)
    attributes, syntax = pixel_format(dataset), str(dataset.file_meta.TransferSyntaxUID)
    if syntax in UNCOMPRESSED and attributes["BitsAllocated"] == 16:
        values = _uncompressed(pixels, attributes)
        return _stored_slice(dataset, values, attributes)
    photometric = photometric_interpretation(dataset)
    values = decode_pixels(attributes, syntax, vr, photometric, pixels)
    shape = attributes["Rows"], attributes["Columns"]
    if values.shape != shape:
        raise Unreadable(f"the pixel data is an image of {values.shape}, not {shape}")
    return _stored_slice(dataset, values, attributes)


def _stored_slice(header: Header, values: NDArray[Any], attributes: dict[str, int]) -> StoredSlice:
    """Return the slice of these stored values. Raises Unreadable; NeedsPydicom for raw elements.

    A file without ImageOrientationPatient, which never enters a slice table, is not turned.
    """
    turn = UPRIGHT
    if tag_value(header, "ImageOrientationPatient") is not None:
        turn = turn_to_standard(orientation(header))
    padding = padding_range(header, attributes)
    return StoredSlice(values, attributes, rescale_parameters(header), turn, padding)


def _read_floats(dataset: Dataset) -> StoredSlice:
    """Return the slice of a file of float pixels (PS3.3 sections C.7.6.24 and C.7.6.25).

    Raises Unreadable.
    """
    require_single_grey_frame(dataset)
    rows = required_positive_int(dataset, "Rows", MAX_SIDE)
    columns = required_positive_int(dataset, "Columns", MAX_SIDE)
    keyword = next(name for name in FLOAT_PIXELS if name in dataset)
    pixels, dtype = dataset.get_item(keyword).value, np.dtype(FLOAT_PIXELS[keyword])
    if str(dataset.file_meta.TransferSyntaxUID) not in UNCOMPRESSED:
        raise Unreadable(f"{keyword} of a transfer syntax that is not read")
    if not isinstance(pixels, bytes | memoryview) or len(pixels) < rows * columns * dtype.itemsize:
        raise Unreadable(f"{keyword} is cut short")
    values = np.frombuffer(pixels, dtype, count=rows * columns).reshape(rows, columns)
    if not np.isfinite(values).all():
        raise Unreadable(f"{keyword} holds values that are no numbers")
    attributes = {"BitsStored": dtype.itemsize * 8, "PixelRepresentation": 1}
    stored = _stored_slice(dataset, values.astype(np.float64), attributes)
    padding = float_padding_range(dataset, keyword.removesuffix("PixelData"))
    return stored._replace(padding=padding)


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
