"""Nonsense in tags and pixels: a file is refused with a reason, or read as a slice."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian
from tiny_dicom import header_of, make_dataset, slice_bytes, write_slice

from ct.dicom import dataset_parser
from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.header_table import read_headers
from ct.dicom.hounsfield import read_hu
from ct.slices import order_slices
from ct.sources import file_reader
from ct.sources.source import Unreadable

PIXELS = np.arange(12).reshape(3, 4)


def element(tag, vr, value, long=False):
    length = b"\0\0" + struct.pack("<L", len(value)) if long else struct.pack("<H", len(value))
    return struct.pack("<HH", *tag) + vr + length + value


def with_element(raw, tag, vr, value, long=False):
    """A file in which one element, of 16-bit length, is replaced; the last for its tag counts."""
    at = raw.index(struct.pack("<HH", *tag))
    [length] = struct.unpack_from("<H", raw, at + 6)
    return raw[:at] + element(tag, vr, value, long) + raw[at + 8 + length :]


ROWS, BITS, STORED, SIGN = (0x28, 0x10), (0x28, 0x100), (0x28, 0x101), (0x28, 0x103)
POSITION, ORIENTATION, SLOPE, SPACING, FRAMES = (
    (0x20, 0x32),
    (0x20, 0x37),
    (0x28, 0x1053),
    (0x28, 0x30),
    (0x28, 8),
)
REFUSED = {
    "rows beyond 32 bits": (
        ROWS,
        b"UV",
        struct.pack("<Q", 1 << 40),
        True,
        "Rows holds a number beyond 1e.09",
    ),
    "rows beyond 16 bits": (
        ROWS,
        b"UL",
        struct.pack("<L", 70_000),
        False,
        "Rows is 70000, more than 4096",
    ),
    "rows beyond a head's": (
        ROWS,
        b"US",
        struct.pack("<H", 4097),
        False,
        "Rows is 4097, more than 4096",
    ),
    "rows in a sequence": (ROWS, b"SQ", b"\xfe\xff\x00\xe0\0\0\0\0", True, "Rows is malformed"),
    "seven bits": (BITS, b"US", b"\x07\0", False, "BitsAllocated is 7, none of"),
    "more stored than allocated": (
        STORED,
        b"US",
        b"\x11\0",
        False,
        "BitsStored is 17, more than 16",
    ),
    "negative bits": (
        STORED,
        b"SS",
        b"\xff\xff",
        False,
        "BitsStored is -1, not a whole number above 0",
    ),
    "sign of 7": (SIGN, b"US", b"\x07\0", False, "PixelRepresentation is 7, neither 0 nor 1"),
    "position 1e308": (
        POSITION,
        b"DS",
        b"1e308\\1e308\\1e308 ",
        False,
        "ImagePositionPatient holds a number beyond",
    ),
    "position with underscores": (
        POSITION,
        b"DS",
        b"1_0\\0\\0 ",
        False,
        "ImagePositionPatient is malformed",
    ),
    "position as other text": (
        POSITION,
        b"LO",
        b"1_0\\0\\0 ",
        False,
        "ImagePositionPatient is malformed",
    ),
    "position infinite": (
        POSITION,
        b"DS",
        b"infinity\\0\\0",
        False,
        "ImagePositionPatient is not 3 numbers",
    ),
    "directions too long": (
        ORIENTATION,
        b"DS",
        b"1e200\\0\\0\\0\\1e200\\0",
        False,
        "ImageOrientationPatient holds a number",
    ),
    "directions too short": (
        ORIENTATION,
        b"DS",
        b"1e-9\\0\\0\\0\\1e-9\\0 ",
        False,
        "ImageOrientationPatient holds no two",
    ),
    "slope 1e308": (SLOPE, b"DS", b"1e308 ", False, "RescaleSlope holds a number beyond"),
    "slope with underscores": (SLOPE, b"DS", b"1_0 ", False, "RescaleSlope is malformed"),
    "slope in foreign digits": (
        SLOPE,
        b"LO",
        "\u0661 ".encode("utf-8"),
        False,
        "RescaleSlope is malformed",
    ),
    "a value of megabytes": (SLOPE, b"UT", b"1" * 300_000, True, "RescaleSlope has 300000 bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_nonsense_in_a_tag_is_a_reason(tmp_path, case):
    tag, vr, value, long, reason = REFUSED[case]
    path = tmp_path / "a.dcm"
    path.write_bytes(with_element(slice_bytes(PIXELS), tag, vr, value, long))
    write_slice(tmp_path / "b.dcm", name="ID_00000000b")
    table, refused = read_headers(tmp_path, ["a.dcm", "b.dcm"], b"key", workers=1)
    assert "ID_00000000b" in table.index
    assert np.isfinite(order_slices(table.assign(split="train"))["position_mm"]).all()
    try:
        read_hu(path)
        reasons = refused["reason"].tolist()
    except Unreadable as error:
        reasons = [*refused["reason"], str(error)]
    assert any(re.search(reason, line) for line in reasons), reasons


@pytest.mark.parametrize(
    ("tag", "vr", "value", "column"),
    [
        (SPACING, b"DS", b"0\\0 ", "pixel_spacing_mm"),
        (SPACING, b"DS", b"1e300\\1 ", "pixel_spacing_mm"),
        (SPACING, b"DS", b"1_0\\1 ", "pixel_spacing_mm"),
        (SLOPE, b"DS", b"-1e308", "slope"),
        ((0x28, 0x1050), b"DS", b"nan ", "window_center"),
        ((0x28, 0x1051), b"DS", b"1e39", "window_width"),
    ],
)
def test_nonsense_in_a_tag_that_a_slice_does_not_need_is_nan(tmp_path, tag, vr, value, column):
    (tmp_path / "a").write_bytes(with_element(slice_bytes(PIXELS), tag, vr, value))
    assert np.isnan(header_of(tmp_path / "a", b"key")[column])


def test_a_malformed_number_of_frames_counts_as_one(tmp_path):
    raw = slice_bytes(PIXELS, NumberOfFrames=1)
    (tmp_path / "a").write_bytes(with_element(raw, FRAMES, b"IS", b"abc "))
    assert read_hu(tmp_path / "a")[0].shape == (3, 4)


@pytest.mark.parametrize("vr", [b"FD", b"LO", b"SQ", b"IS", b"US", b"ZZ"])
def test_pixels_of_another_vr_are_refused(tmp_path, vr):
    raw = slice_bytes(PIXELS)
    at = raw.rindex(b"\xe0\x7f\x10\x00OW")
    long = vr == b"SQ"
    (tmp_path / "a").write_bytes(raw[:at] + element((0x7FE0, 0x10), vr, raw[at + 12 :], long))
    with pytest.raises(Unreadable, match="pixel data"):
        read_hu(tmp_path / "a")


@pytest.mark.parametrize("bits", [32, 64])
def test_pixels_of_32_and_64_bits_whose_header_says_12(tmp_path, bits):
    """The check of the 12-bit defect counts values up to the largest, which takes memory."""
    dataset = make_dataset(PIXELS, signed=False, bits=12, BitsAllocated=bits, RescaleIntercept=0)
    dataset.PixelData = np.full(12, 2**bits - 1, f"<u{bits // 8}").tobytes()
    with quiet_pydicom():
        dataset.save_as(tmp_path / "a", enforce_file_format=True)
    hu, repaired = read_hu(tmp_path / "a")
    assert not repaired and hu.shape == (3, 4)


# size


def deflated(tail=b""):
    """A slice whose data set is deflated, with more elements behind the pixels."""
    dataset, file = make_dataset(PIXELS), io.BytesIO()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with quiet_pydicom():
        dataset.save_as(file, enforce_file_format=True)
    raw = file.getvalue()
    begin = 144 + struct.unpack_from("<L", raw, 140)[0]  # the length of the meta information
    packer = zlib.compressobj(9, wbits=-15)
    return raw[:begin] + packer.compress(zlib.decompress(raw[begin:], -15) + tail) + packer.flush()


def test_a_deflated_data_set_is_inflated_within_bounds(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(deflated())
    assert (read_hu(tmp_path / "a")[0] == PIXELS - 1024).all()
    monkeypatch.setattr(dataset_parser, "MAX_INFLATED_BYTES", 1 << 20)
    (tmp_path / "a").write_bytes(
        deflated(element((0x7FE1, 0x10), b"OB", bytes(2 << 20), long=True))
    )
    for read in (read_hu, lambda path: header_of(path, b"key")):
        with pytest.raises(Unreadable, match="^a deflated data set of more than 1 MB$"):
            read(tmp_path / "a")


def test_a_deflated_data_set_behind_long_meta_information_is_not_inflated_by_pydicom(tmp_path):
    raw = deflated()
    at = raw.index(b"\x02\x00\x10\x00UI")
    stuffing = b"".join(element((2, 0x102), b"UI", b"1" * 60_000) for _ in range(2))
    (tmp_path / "a").write_bytes(raw[:at] + stuffing + raw[at:])
    with pytest.raises(
        Unreadable, match="deflated, behind meta information of more than 64 KB|damaged"
    ):
        read_hu(tmp_path / "a")


def test_a_file_of_gigabytes_is_refused_by_its_size(tmp_path):
    path = write_slice(tmp_path / "a")
    with open(path, "r+b") as file:
        file.truncate(3 << 30)  # a hole: takes no disk
    with pytest.raises(
        Unreadable, match="^3072 MB, more than a slice of 4096 x 4096 can have .160 MB.$"
    ):
        read_hu(path)
    assert header_of(path, b"key")["rows"] == 3
    assert file_reader.MAX_FILE_BYTES > 4096 * 4096 * 8


def test_a_header_is_read_up_to_a_limit(tmp_path):
    raw = slice_bytes(PIXELS, NumberOfFrames=1)  # not plain: pydicom reads it
    at = raw.index(b"\x20\x00\x32\x00DS")
    stuffing = element((0x19, 0x1001), b"UN", bytes(dataset_parser.MAX_HEADER_BYTES), long=True)
    (tmp_path / "a").write_bytes(raw[:at] + stuffing + raw[at:])
    with pytest.raises(Unreadable, match="^a header of more than 4 MB$"):
        header_of(tmp_path / "a", b"key")


def test_millions_of_tiny_elements_are_not_all_parsed(tmp_path):
    raw = slice_bytes(PIXELS)
    at = raw.index(b"\x20\x00\x32\x00DS")
    (tmp_path / "a").write_bytes(
        raw[:at] + element((0x19, 0x1001), b"LO", b"") * 500_000 + raw[at:]
    )
    for read in (read_hu, lambda path: header_of(path, b"key")):
        with pytest.raises(Unreadable, match="^a header of more than (200,000 elements|4 MB)$"):
            read(tmp_path / "a")


@pytest.mark.parametrize("depth", [300, 10_000])
def test_sequences_nested_deep_are_damage(tmp_path, depth):
    raw = slice_bytes(PIXELS)
    at = raw.index(b"\x20\x00\x32\x00DS")
    deep = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth
    (tmp_path / "a").write_bytes(raw[:at] + deep + raw[at:])
    with pytest.raises(Unreadable):
        header_of(tmp_path / "a", b"key")


def test_a_sequence_in_an_identifier_is_malformed(tmp_path):
    dataset = make_dataset(PIXELS)
    with quiet_pydicom():
        dataset.add_new("PatientID", "SQ", [Dataset()])
        dataset.save_as(tmp_path / "a", enforce_file_format=True)
    with pytest.raises(Unreadable, match="PatientID is malformed"):
        header_of(tmp_path / "a", b"key")
