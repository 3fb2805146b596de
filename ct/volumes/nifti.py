"""NIfTI files (.nii, .nii.gz): volumes of HU without a DICOM header, read with nibabel.

https://nifti.nimh.nih.gov/nifti-1: qform or sform place the voxels in a space of +x right, +y
front, +z head; DICOM has +x left, +y back. A slice is one along the axis nearest to the
patient's z, numbered from 1.
"""

import logging
import math
import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from ct.errors import InputError
from ct.sources.decompression_limit import max_unpacked_bytes
from ct.sources.file_kinds import NIFTI_ENDINGS
from ct.sources.file_reader import MAX_VOLUME_BYTES, all_bytes
from ct.sources.frames import Frame
from ct.sources.source import SourceFile, Unreadable
from ct.volumes.orientation import Turn, turn_to_standard

GZIP = b"\x1f\x8b"
HEADER_BYTES = {348: "Nifti1Image", 540: "Nifti2Image"}  # of each version
TO_MM = {"meter": 1000.0, "micron": 0.001}  # xyzt_units; mm, or unknown, else
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
AIR_HU = -1000  # in place of values that are no number
MAX_SIDE = 4096
INT16 = np.iinfo(np.int16)
DAMAGED = "damaged or truncated NIfTI"


class Volume(NamedTuple):
    """The voxels of a NIfTI file, and how its slices lie in the patient."""

    stored: NDArray[Any]  # (columns, rows, slices), as stored
    slope: float
    intercept: float
    first: NDArray[np.float64]  # (3,) mm, LPS: the centre of the first voxel
    steps: NDArray[np.float64]  # (3, 3) mm, LPS: along a row, down a column, to the next slice

    @property
    def turn(self) -> Turn:
        """Return how the slices are turned to the standard axial view."""
        return turn_to_standard(self.directions)

    @property
    def directions(self) -> NDArray[np.float64]:
        """Return the unit directions (6,) along a row and down a column of the stored pixels."""
        lengths = np.linalg.norm(self.steps[:2], axis=1, keepdims=True)
        return (self.steps[:2] / lengths).ravel()


def is_nifti(name: str) -> bool:
    """Return whether a file is NIfTI by the ending of its name."""
    return name.lower().endswith(NIFTI_ENDINGS)


def slice_geometries(file: SourceFile) -> list[dict[str, Any]]:
    """Return size, place and directions of each slice, as a DICOM header has them.

    Returns dicts: rows, cols, pixel_spacing_mm, ipp and iop, as `ct.dicom.header.read_header` does.
    Raises Unreadable, MachineFault; InputError without nibabel.
    """
    volume = _volume(file, file.version())
    columns, rows, slices = volume.stored.shape
    turn = volume.turn
    shared = {
        "rows": columns if turn.transposed else rows,
        "cols": rows if turn.transposed else columns,
        "pixel_spacing_mm": np.linalg.norm(volume.steps[0 if turn.transposed else 1]),
        "iop": turn.directions(volume.directions),
    }
    row, column = turn.first_pixel(rows, columns)
    first = volume.first + column * volume.steps[0] + row * volume.steps[1]
    return [shared | {"ipp": first + place * volume.steps[2]} for place in range(slices)]


def slice_hu(frame: Frame) -> NDArray[np.int16]:
    """Return the HU (rows, cols) of one slice in the standard axial view.

    They are rounded, and clipped to int16. Raises Unreadable, MachineFault; InputError without
    nibabel.
    """
    volume = _volume(frame.file, frame.version())
    if frame.number > volume.stored.shape[2]:
        raise Unreadable(f"NIfTI without a slice {frame.number}")
    stored = volume.stored[:, :, frame.number - 1].T
    values = stored * volume.slope + volume.intercept
    values = np.where(np.isfinite(values), values, AIR_HU)
    hu = np.rint(values).clip(INT16.min, INT16.max).astype(np.int16)
    return volume.turn.pixels(np.ascontiguousarray(hu))


@lru_cache(maxsize=1)  # the slices of a file follow one another
def _volume(file: SourceFile, version: Hashable) -> Volume:
    """Return the volume of a file. version: as returned by `file.version`"""
    return _parse(_unpacked(all_bytes(file, MAX_VOLUME_BYTES)))


def _unpacked(raw: bytes) -> bytes:
    """Return the bytes of a file that may be compressed by gzip. Raises Unreadable."""
    if raw[:2] != GZIP:
        return raw
    limit = min(MAX_VOLUME_BYTES, max_unpacked_bytes(len(raw)))
    try:
        unpacked = isal_zlib.decompressobj(wbits=31).decompress(raw, limit + 1)
    except isal_zlib.error:  # type: ignore[misc]  # its stub declares an instance
        raise Unreadable("damaged NIfTI: cannot be inflated") from None
    if len(unpacked) > limit:
        raise Unreadable(f"a NIfTI file of more than {limit >> 20} MB unpacked")
    return bytes(unpacked)


@contextmanager
def _quiet_nibabel() -> Iterator[None]:
    """Context in which nibabel and numpy print nothing about a damaged header."""
    logger = logging.getLogger("nibabel.global")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


@_quiet_nibabel()
def _parse(raw: bytes) -> Volume:
    """Return the volume in the bytes of a NIfTI file. Raises Unreadable, InputError."""
    try:
        import nibabel
    except ImportError:
        raise InputError(
            "the data hold NIfTI files, which need nibabel: pip install -e '.[nifti]'"
        ) from None
    sizes = {int.from_bytes(raw[:4], order) for order in ("little", "big")} & set(HEADER_BYTES)
    if not sizes:
        raise Unreadable("not a NIfTI file")
    try:
        image = getattr(nibabel, HEADER_BYTES[sizes.pop()]).from_bytes(raw)
        header, shape = image.header, _volume_shape(image.shape)
        kind = header.get_data_dtype()
        if math.prod(shape) * kind.itemsize + image.dataobj.offset > len(raw):
            raise Unreadable(DAMAGED)  # reading would take memory by the header's numbers
        stored = np.asarray(image.dataobj.get_unscaled()).reshape(shape)
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
        placed = header.get_sform(coded=True)[1] or header.get_qform(coded=True)[1]
        to_mm = TO_MM.get(header.get_xyzt_units()[0], 1.0)
        affine = np.asarray(image.affine, np.float64)
    except (Unreadable, MemoryError):
        raise
    except Exception:  # of a damaged header nibabel raises nearly anything
        raise Unreadable(DAMAGED) from None
    if stored.dtype.kind not in "iuf":
        raise Unreadable("NIfTI of colours or complex numbers, not of HU")
    if not placed:
        raise Unreadable(
            "NIfTI without sform and qform: nothing says which side is left; set one of them"
        )
    affine = TO_LPS @ affine
    affine[:3] *= to_mm
    return _with_slices_last(stored, (slope, intercept), affine)


def _volume_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a header's shape as three sides. Raises Unreadable where it is not one volume."""
    sides = tuple(map(int, shape))
    while len(sides) > 3 and sides[-1] == 1:
        sides = sides[:-1]
    if len(sides) != 3 or min(sides) < 1 or max(sides) > MAX_SIDE:
        raise Unreadable(f"NIfTI of shape {'x'.join(map(str, sides))}, not one volume")
    return sides


def _with_slices_last(
    stored: NDArray[Any], rescale: tuple[float, float], affine: NDArray[np.float64]
) -> Volume:
    """Return the volume with the axis nearest to the patient's z as the last.

    affine: (4, 4) from voxels to LPS, mm
    """
    steps, lengths = affine[:3, :3].T, np.linalg.norm(affine[:3, :3], axis=0)
    usable = np.isfinite(affine).all() and (lengths > 0).all()
    if not usable or abs(np.linalg.det(affine[:3, :3] / lengths)) < 0.5:
        raise Unreadable("NIfTI whose sform or qform spans no volume")
    last = int(np.argmax(np.abs(steps[:, 2]) / lengths))
    axes = [axis for axis in range(3) if axis != last] + [last]
    return Volume(stored.transpose(axes), *rescale, affine[:3, 3], steps[axes])
