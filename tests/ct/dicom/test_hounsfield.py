"""Pixels in HU: rescaling, the 12-bit defect, compressed files, damaged files."""

import io
import os

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_rescale
from pydicom.uid import ImplicitVRLittleEndian, RLELossless
from tiny_dicom import (
    UNDECODABLE,
    ZOO,
    header_of,
    make_dataset,
    needs_zoo,
    slice_bytes,
    write_slice,
)
from tiny_zip import pack

from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.header_table import read_headers
from ct.dicom.hounsfield import read_hu
from ct.sources.folder import list_files
from ct.sources.source import Unreadable
from ct.sources.zip_archive import open_zip

KEY = b"key"


def hu_of(tmp_path, *args, **kwargs):
    return read_hu(write_slice(tmp_path / "a.dcm", *args, **kwargs))


@pytest.mark.parametrize(
    ("stored", "tags", "hu"),
    [
        ([[0, 1024], [3000, 4095]], {"signed": False, "bits": 12}, [[-1024, 0], [1976, 3071]]),
        ([[-2000, 0], [30, 3000]], {"RescaleIntercept": 0}, [[-2000, 0], [30, 3000]]),
        (
            [[0, 1], [2, 3]],
            {"RescaleSlope": "0.5", "RescaleIntercept": "-10.2"},
            [[-10, -10], [-9, -9]],
        ),
        # halves round to the even number
        ([[0, 1], [2, -3]], {"RescaleSlope": "0.5", "RescaleIntercept": "0"}, [[0, 0], [1, -2]]),
        ([[0, 32767], [-32768, 5]], {}, [[-1024, 31743], [-32768, -1019]]),  # clipped below
        # clipped above
        ([[0, 65535], [40000, 5]], {"signed": False}, [[-1024, 32767], [32767, -1019]]),
        (
            [[0, 65535], [40000, 5]],
            {"signed": False, "RescaleIntercept": -32768},
            [[-32768, 32767], [7232, -32763]],
        ),
        (
            [[0, 65535], [40000, 5]],
            {"signed": False, "RescaleIntercept": -40000},
            [[-32768, 25535], [0, -32768]],
        ),
        ([[-32768, -7], [0, 5]], {"RescaleIntercept": 40000}, [[7232, 32767], [32767, 32767]]),
        ([[2000, -2000], [1, 0]], {"RescaleSlope": 20}, [[32767, -32768], [-1004, -1024]]),
        # without a slope the intercept does not count, as in pydicom
        ([[1, 2], [3, 4]], {"RescaleSlope": None}, [[1, 2], [3, 4]]),
        (
            [[0x0FFF, 0x0800], [0xF7FF - 65536, 7]],
            {"bits": 12, "RescaleIntercept": 0},
            [[-1, -2048], [2047, 7]],
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_hu_by_hand(tmp_path, stored, tags, hu):
    result, repaired = hu_of(tmp_path, stored, **tags)
    assert result.dtype == np.int16 and result.tolist() == hu and not repaired


def test_rows_come_before_columns(tmp_path):
    hu, _ = hu_of(tmp_path, np.arange(12).reshape(3, 4), RescaleIntercept=0)
    assert hu.shape == (3, 4) and hu[2, 1] == 9


def head(rng):
    """HU (64, 64): air, a ring of bone, brain."""
    y, x = np.mgrid[-32:32, -32:32]
    r = np.hypot(x, y)
    brain, bone, air = (
        rng.normal(mean, spread, r.shape) for mean, spread in ((32, 6), (1100, 90), (-1000, 9))
    )
    return np.rint(np.where(r < 20, brain, np.where(r < 24, bone, air))).astype(int)


@pytest.mark.parametrize("intercept", [0, 1])
def test_the_12_bit_defect_is_repaired(tmp_path, intercept):
    hu = head(np.random.default_rng(0))
    result, repaired = hu_of(tmp_path, hu % 4096, signed=False, bits=12, RescaleIntercept=intercept)
    assert repaired and (result == np.where(hu < -1000, hu + 4096, hu)).mean() > 0.6
    np.testing.assert_array_equal(result[hu >= -1000], hu[hu >= -1000])


@pytest.mark.parametrize(
    "tags",
    [
        {"RescaleIntercept": -1024},
        {"RescaleIntercept": -1000},
        {"RescaleIntercept": 0, "signed": True},
        {"RescaleIntercept": 0, "bits": 16},
        {"RescaleIntercept": 0, "RescaleSlope": "0.5"},
    ],
)
def test_the_defect_is_searched_only_where_the_header_allows_it(tmp_path, tags):
    stored = head(np.random.default_rng(0)) % 4096
    tags = {"signed": False, "bits": 12} | tags
    if tags["signed"]:
        stored = stored % 2048
    result, repaired = hu_of(tmp_path, stored, **tags)
    expected = np.rint(stored * float(tags.get("RescaleSlope", 1)) + tags["RescaleIntercept"])
    assert not repaired and (result == expected).all()


@pytest.mark.parametrize(
    ("lowest", "highest", "pixels"), [(0, 1, 0), (2400, 3400, 2000), (3090, 3100, 100)]
)
def test_another_vendors_intercept_of_0_stays(tmp_path, lowest, highest, pixels):
    rng = np.random.default_rng(1)
    stored = np.clip(head(rng) + 1000, 0, 4095)  # air at 0, in units of its own: nothing to repair
    # many dense values without a peak; a peak of 2.4 %
    stored.ravel()[:pixels] = rng.integers(lowest, highest, pixels)
    result, repaired = hu_of(tmp_path, stored, signed=False, bits=12, RescaleIntercept=0)
    assert not repaired and (result == stored).all()


def refused(path):
    with pytest.raises(Unreadable) as error:
        read_hu(path)
    reason = str(error.value)
    assert "\n" not in reason and len(reason) < 160 and os.path.dirname(str(path)) not in reason
    return reason


def test_truncated_pixels(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(slice_bytes()[:-5])
    assert refused(path) == "truncated pixel data: 19 of 24 bytes"
    path.write_bytes(slice_bytes()[:-24])
    assert "truncated" in refused(path)
    path.write_bytes(slice_bytes()[:-40])
    assert refused(path) == "pixel data missing or cut short"
    assert header_of(path, KEY)["slice_id"] == "ID_00000000a"


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"NumberOfFrames": 3}, r"multi-frame file (3 frames)"),
        ({"BitsStored": None}, "BitsStored is missing or empty"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
    ],
)
def test_pixels_that_cannot_be_hu(tmp_path, tags, reason):
    assert refused(write_slice(tmp_path / "a.dcm", **tags)) == reason


def compressed(pixels, syntax, stream):
    dataset = make_dataset(pixels)
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    with quiet_pydicom():
        dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def test_rle_and_its_corruption(tmp_path):
    path, pixels = tmp_path / "a.dcm", np.arange(-8, 56).reshape(8, 8)
    dataset = make_dataset(pixels)
    with quiet_pydicom():
        dataset.compress(RLELossless)
        dataset.save_as(path, enforce_file_format=True)
    assert (read_hu(path)[0] == pixels - 1024).all()
    # two segments that unpack to more bytes than the image has
    offsets = np.array([2, 64, 264, *[0] * 13], "<u4").tobytes()
    # pylibjpeg-rle panics here
    path.write_bytes(compressed(pixels, RLELossless, offsets + b"\x81\x05" * 200))
    assert refused(path).startswith("cannot be decoded: ")


def test_an_unknown_transfer_syntax_has_no_decoder(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(compressed(np.zeros((8, 8)), "1.2.840.10008.1.2.4.53", b"\xff\xd8\xff\xd9"))
    assert refused(path) == "no decoder for the transfer syntax 1.2.840.10008.1.2.4.53"


@needs_zoo
def test_the_zoo_decodes_as_pydicom_does():
    files = sorted(ZOO.iterdir())
    assert len(files) >= 19
    for file in files:
        if file.name in UNDECODABLE:
            assert refused(file) == UNDECODABLE[file.name]
            continue
        with quiet_pydicom():
            dataset = pydicom.dcmread(file, force=True)
            if "Headless" in file.name:  # it lacks tags that pydicom's decoder needs
                dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
                dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
            expected = apply_rescale(dataset.pixel_array, dataset)
        hu, repaired = read_hu(file)
        assert not repaired and hu.dtype == np.int16
        np.testing.assert_array_equal(hu, np.rint(expected), err_msg=file.name)


@needs_zoo
def test_the_zoos_copies_of_one_slice_agree():
    plain = read_hu(ZOO / "CT2_UNC")[0]
    for name in ("CT2_RLE", "CT2_JPLL", "CT2_JLSL", "CT2_J2KR"):
        np.testing.assert_array_equal(read_hu(ZOO / name)[0], plain, err_msg=name)
    assert 0 < np.abs(read_hu(ZOO / "CT2_JLSN")[0] - plain.astype(int)).max() <= 10


@needs_zoo
def test_the_zoo_reads_from_a_zip_as_from_a_folder(tmp_path):
    source = open_zip(pack(ZOO, tmp_path / "zoo.zip", "zoo/")).subfolder("zoo")
    names = list_files(ZOO)
    assert source.names == names
    for a, b in zip(
        read_headers(ZOO, names, KEY, workers=1),
        read_headers(source, names, KEY, workers=1),
        strict=True,
    ):
        pd.testing.assert_frame_equal(a, b)
    for name in names:
        if name in UNDECODABLE:
            assert refused(source.file(name)) == UNDECODABLE[name]
        else:
            np.testing.assert_array_equal(
                read_hu(source.file(name))[0], read_hu(ZOO / name)[0], err_msg=name
            )


def float_slice(path, values, dtype="<f4", **tags):
    """Write a slice of float pixels (PS3.3 sections C.7.6.24 and C.7.6.25)."""
    dataset = make_dataset(np.zeros(np.shape(values), int), **tags)
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del dataset[keyword]
    wide = dtype == "<f8"
    dataset.BitsAllocated = 64 if wide else 32
    keyword = "DoubleFloatPixelData" if wide else "FloatPixelData"
    setattr(dataset, keyword, np.asarray(values, dtype).tobytes())
    with quiet_pydicom():
        dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
def test_float_pixels(tmp_path, dtype):
    values = [[-1000.4, 0.5, 1.5], [30.6, -0.2, 1e9]]
    path = float_slice(tmp_path / "a", values, dtype, RescaleIntercept=0)
    assert read_hu(path)[0].tolist() == [[-1000, 0, 2], [31, 0, 32767]]
    path = float_slice(tmp_path / "a", [[1.5, 2]], dtype, RescaleSlope=2, RescaleIntercept=-1)
    assert read_hu(path)[0].tolist() == [[2, 3]]
    header = header_of(path, KEY)
    assert (header["rows"], header["cols"]) == (1, 2) and np.isnan(header["bits_stored"])


@pytest.mark.parametrize(("dtype", "prefix"), [("<f4", "Float"), ("<f8", "DoubleFloat")])
@pytest.mark.parametrize(("limit", "air"), [(None, 1), (500, 2)])
def test_padding_of_float_pixels_is_air(tmp_path, dtype, prefix, limit, air):
    """At the margin alone: the value inside stays."""
    values = np.full((5, 5), 40.0)
    values[0, 0], values[4, 4], values[2, 2] = 3000.5, 1000, 3000.5
    tags = {f"{prefix}PixelPaddingValue": 3000.5, f"{prefix}PixelPaddingRangeLimit": limit}
    hu = read_hu(float_slice(tmp_path / "a", values, dtype, RescaleIntercept=0, **tags))[0]
    assert hu[0, 0] == -1000 and hu[2, 2] == 3000 and (hu == -1000).sum() == air
    assert hu[4, 4] == (-1000 if limit else 1000)


def test_float_pixels_that_are_no_image(tmp_path):
    path = float_slice(tmp_path / "a", [[1.0, np.nan]])
    assert refused(path) == "FloatPixelData holds values that are no numbers"
    path = float_slice(tmp_path / "a", [[1.0, 2.0]])
    with quiet_pydicom():
        dataset = pydicom.dcmread(path)
        dataset.FloatPixelData = dataset.FloatPixelData[:4]
        dataset.save_as(path)
    assert refused(path) == "FloatPixelData is cut short"
