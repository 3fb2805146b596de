"""From DICOM files to the slices' headers, many at a time, and from one file to HU."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from pydicom import uid

from ct.dicom.codec import decode
from ct.dicom.elements import NotPlain, as_file, parsed, plain_pixels, quiet
from ct.dicom.file_reader import all_bytes
from ct.dicom.header import photometric_word, refuse_other_images, rescale, stored_facts
from ct.dicom.source import OnDisk, Unreadable
from ct.dicom.tag_values import pixel_bytes
from ct.dicom.zip_archive import InZip

NATIVE = {
    str(uid.ImplicitVRLittleEndian),
    str(uid.ExplicitVRLittleEndian),
    str(uid.DeflatedExplicitVRLittleEndian),
}
AIR_STORED = 4096 - 1000  # what air becomes where -1000 HU wraps round in twelve bits


def read_hu(file: str | Path | OnDisk | InZip) -> tuple[np.ndarray, bool]:
    """Decode one slice, of a path or a file of a source.

    Returns (hu, repaired): int16 (rows, cols) in HU, rounded and clipped to int16, and whether the
    intercept was mended (see `wraps_at_12_bits`). Raises Unreadable for anything that is wrong with
    the file, MachineFault.
    """
    raw = all_bytes(as_file(file))
    with quiet():
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


def wraps_at_12_bits(stored):
    """Tell whether the stored values are HU that wrapped round at 4096.

    stored: unsigned (rows, cols), twelve bits, of a file whose intercept is near 0

    123 files of the competition's training set hold HU modulo 4096 without an intercept, so that
    air, -1000 HU, lies at 3096. There air is a narrow peak of many pixels, and below it (-1400 to
    -1100 HU) lies nothing. A file of another vendor may be right with an intercept of 0: values
    about 3096 are then dense metal, which neither fills a twentieth of the image nor ends so
    sharply. The mending is J. Howard's (Kaggle, "Cleaning the data for rapid prototyping").
    """
    # no twelve bits; and bincount would take memory up to the largest
    if stored.dtype.itemsize > 2 and stored.max() > 65535:
        return False
    counts = np.bincount(stored.ravel().astype(np.uint16, copy=False), minlength=4096)
    air = counts[AIR_STORED - 100 : AIR_STORED + 101].sum()
    below = counts[AIR_STORED - 400 : AIR_STORED - 100].sum()
    return bool(air > 0.05 * stored.size and below < 0.05 * air)


def _plain_slice(raw):
    """Return (stored values, facts of them, rescale) of the usual file; None for one that is left
    to `_slice`.
    """
    found = plain_pixels(raw)
    if not found or found[1] not in NATIVE:
        return None
    elements, _, pixels = found
    with suppress(NotPlain, Unreadable):  # pydicom's own reading has the last word
        refuse_other_images(elements)
        facts = stored_facts(elements)
        if facts["BitsAllocated"] == 16:
            return _native(pixels, facts), facts, rescale(elements)
    return None


def _slice(raw):
    """Do the same as `_plain_slice` for any file. Raises Unreadable, MachineFault."""
    dataset = parsed(raw)
    refuse_other_images(dataset)
    facts, syntax = stored_facts(dataset), str(dataset.file_meta.TransferSyntaxUID)
    pixels, vr = pixel_bytes(dataset)
    if syntax in NATIVE and facts["BitsAllocated"] == 16:
        return _native(pixels, facts), facts, rescale(dataset)
    asked = facts | {
        "syntax": syntax,
        "vr": vr,
        "PhotometricInterpretation": photometric_word(dataset),
    }
    stored, shape = decode(asked, pixels), (facts["Rows"], facts["Columns"])
    if stored.shape != shape:
        raise Unreadable(f"the pixel data is an image of {stored.shape}, not {shape}")
    return stored, facts, rescale(dataset)


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
