"""One file's header: its values, the tags that it may lack, and why files are refused."""

import io

import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian
from tiny_dicom import (
    ZOO,
    header_of,
    make_dataset,
    needs_zoo,
    slice_bytes,
    write_slice,
)

from ct.dicom import header
from ct.dicom.dataset_parser import open_dataset, quiet_pydicom
from ct.dicom.fast_parser import parse_header_fast
from ct.dicom.hounsfield import read_hu
from ct.dicom.tag_values import NeedsPydicom
from ct.errors import MachineFault
from ct.slices import HEADER_COLUMNS
from ct.sources.folder import DiskFile
from ct.sources.source import Unreadable

KEY = b"key"


def test_header(tmp_path):
    header = header_of(
        write_slice(
            tmp_path / "a", WindowCenter=[36, 600], WindowWidth=["80", "2800"], RescaleSlope="1.5"
        ),
        KEY,
    )
    assert header["ipp"].tolist() == [-125, -100.5, 30.25]
    assert header["iop"].tolist() == [1, 0, 0, 0, 1, 0]
    assert header == header | {
        "slice_id": "ID_00000000a",
        "patient_id": "ID_0000000b",
        "study_id": "ID_000000000c",
        "series_id": "ID_000000000d",
        "rows": 3,
        "cols": 4,
        "pixel_spacing_mm": 0.5,
        "slope": 1.5,
        "intercept": -1024,
        "bits_stored": 16,
        "pixel_representation": 1,
        "window_center": 36,
        "window_width": 80,
        "transfer_syntax": "1.2.840.10008.1.2.1",
    }
    assert set(header) == set(HEADER_COLUMNS) - {"split", "path"} | {"slice_id", "ipp", "iop"}


@pytest.mark.parametrize("value", [None, "", "wide"])
def test_a_tag_that_a_slice_does_not_need_is_nan(tmp_path, value):
    optional = ("PixelSpacing", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
    tags = {tag: value for tag in optional if value != "wide"}
    path = write_slice(tmp_path / "a", **tags)
    if value == "wide":  # pydicom would not write text in a numeric tag
        path.write_bytes(path.read_bytes().replace(b"DS\x04\x0040.0", b"DS\x04\x00wide"))
    header = header_of(path, KEY)
    assert np.isnan(header["window_center"])
    assert value == "wide" or all(
        np.isnan(header[name])
        for name in ("pixel_spacing_mm", "slope", "intercept", "window_width")
    )


def no_preamble(*args, **kwargs):
    return slice_bytes(*args, **kwargs)[132:]


@pytest.mark.parametrize("group", [b"\x02\x00", b"\x08\x00"])
def test_a_file_without_preamble_is_read(tmp_path, group):
    raw = no_preamble(np.arange(12).reshape(3, 4))
    if group == b"\x08\x00":  # nor file meta information: a bare data set
        dataset, file = make_dataset(np.arange(12).reshape(3, 4)), io.BytesIO()
        with quiet_pydicom():
            del dataset.file_meta
            pydicom.dcmwrite(
                file, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False
            )
        raw = file.getvalue()
    assert raw[:2] == group
    (tmp_path / "a").write_bytes(raw)
    assert header_of(tmp_path / "a", KEY)["slice_id"] == "ID_00000000a"
    assert (read_hu(tmp_path / "a")[0] == np.arange(12).reshape(3, 4) - 1024).all()
    syntax = ImplicitVRLittleEndian if group == b"\x08\x00" else "1.2.840.10008.1.2.1"
    assert header_of(tmp_path / "a", KEY)["transfer_syntax"] == syntax


NEEDED = (
    "SOPInstanceUID",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)


BROKEN = {
    "empty": (b"", "empty file"),
    "text": (b"ID,Label\n" * 100, "not a DICOM file"),
    "garbage that begins like one": (
        b"\x08\x00" + bytes(range(256)) * 4,
        "missing|damaged|not a DICOM",
    ),
    "cut in the meta information": (slice_bytes()[:200], "damaged|missing"),
    "cut in the header": (
        slice_bytes()[: slice_bytes().index(b"\x28\x00\x10\x00US")],
        "Rows is missing",
    ),
    "frames": (slice_bytes(NumberOfFrames=2), r"multi-frame file \(2 frames\)"),
    "colour": (slice_bytes(SamplesPerPixel=3), "3 samples"),
    "two coordinates": (
        slice_bytes(ImagePositionPatient=[1, 2]),
        "ImagePositionPatient is not 3 numbers",
    ),
    "no number": (slice_bytes().replace(b"-100.5", b"-1o0.5"), "ImagePositionPatient is malformed"),
    "not finite": (
        slice_bytes().replace(b"-100.5", b"   nan"),
        "ImagePositionPatient is not 3 numbers",
    ),
    "no plane": (
        slice_bytes(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
        "ImageOrientationPatient",
    ),
    "no direction": (
        slice_bytes(ImageOrientationPatient=[0, 0, 0, 0, 1, 0]),
        "ImageOrientationPatient",
    ),
    "no rows": (slice_bytes(Rows=0), "Rows is 0"),
    **{
        f"without {tag}": (slice_bytes(**{tag: None}), f"{tag} is missing")
        for tag in (*NEEDED, "Rows", "Columns")
    },
    **{f"empty {tag}": (slice_bytes(**{tag: ""}), f"{tag} is missing") for tag in NEEDED},
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_reason_for_an_unreadable_header_holds_no_path_and_no_identifier(tmp_path, case):
    raw, message = BROKEN[case]
    (tmp_path / "a.dcm").write_bytes(raw)
    with pytest.raises(Unreadable, match=message) as error:
        header_of(tmp_path / "a.dcm", KEY)
    reason = str(error.value)
    assert "\n" not in reason
    assert str(tmp_path) not in reason
    assert "DOE" not in reason
    assert "ID_" not in reason


def test_a_folder_or_a_missing_file_is_the_machines_fault(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(MachineFault, match="^(is a directory|no such file or directory)$"):
            header_of(path, KEY)


def test_reading_leaves_pydicoms_settings_alone(tmp_path):
    before = pydicom.config.settings.reading_validation_mode
    header_of(write_slice(tmp_path / "a"), KEY)
    assert pydicom.config.settings.reading_validation_mode == before


def pydicom_values(path):
    """Return the values that pydicom reads of a header."""
    dataset = open_dataset(path, pixels=False)
    return header.header_values(dataset, str(dataset.file_meta.TransferSyntaxUID), KEY, False)


def both_parsers_agree(path):
    """Return whether the fast parser takes the file; check that pydicom reads the same values."""
    with quiet_pydicom():
        try:
            parsed = parse_header_fast(DiskFile(str(path)))
            fast = header.header_values(*parsed, KEY, False) if parsed else None
        except (NeedsPydicom, Unreadable):
            return False
        if fast is None:
            return False
        by_pydicom = pydicom_values(path)
    for name, value in by_pydicom.items():
        np.testing.assert_array_equal(fast[name], value, err_msg=f"{path}: {name}")
    return True


@pytest.mark.parametrize(
    ("tags", "fast"),
    [
        ({}, True),
        (
            {
                "PatientID": " DOE-1 ",
                "WindowCenter": [40, 400],
                "RescaleSlope": "1.0 ",
                "NumberOfFrames": None,
            },
            True,
        ),
        ({"PixelSpacing": "", "WindowWidth": "", "RescaleIntercept": None}, True),
        ({"SpecificCharacterSet": "ISO_IR 192", "PatientID": "Jönsson"}, False),
        ({"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientID": "\x1b$B;3ED\x1b(B"}, False),
        ({"SeriesInstanceUID": ["1.2", "1.3"]}, False),
        ({"NumberOfFrames": 1}, False),
        ({"WindowCenter": ["40", ""]}, False),
    ],
)
def test_the_fast_parser_reads_what_pydicom_reads(tmp_path, tags, fast):
    path = write_slice(tmp_path / "a", **tags)
    assert both_parsers_agree(path) == fast
    with quiet_pydicom():
        expected = pydicom_values(path)
    for name, value in header_of(path, KEY).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize(
    ("text", "spacing"),
    [
        (b"0.001 ", 0.001),
        (b"1000.0", 1000),
        (b"0.0009", np.nan),
        (b"1000.1", np.nan),
        (b"0.0000", np.nan),
        (b"-0.500", np.nan),
        (b"0.90mm", np.nan),
        (b"NaN   ", np.nan),
    ],
)
def test_a_pixel_spacing_outside_the_limits_counts_as_missing(tmp_path, text, spacing):
    raw = slice_bytes(PixelSpacing=["0.1234", "0.1234"])
    assert raw.count(b"0.1234") == 2
    (tmp_path / "a").write_bytes(raw.replace(b"0.1234", text))
    np.testing.assert_equal(header_of(tmp_path / "a", KEY)["pixel_spacing_mm"], spacing)


@pytest.mark.parametrize("preamble", [True, False])  # by the fast parser, and by pydicom
def test_decimal_commas(tmp_path, preamble):
    tags = {
        "PixelSpacing": ["0.9379", "0.9380"],
        "ImagePositionPatient": ["-125.5", "-100", "30.25"],
        "RescaleSlope": "1.5 ",
        "WindowCenter": "102405.5",
        "WindowWidth": "102401.5",
    }
    raw = slice_bytes(**tags)  # pydicom writes no commas
    for number in ("0.9379", "0.9380", "-125.5", "30.25", "1.5 "):
        raw = raw.replace(number.encode(), number.replace(".", ",").encode())
    raw = raw.replace(b"102405.5", b"1,0240.5").replace(b"102401.5", b"1,024,01")
    (tmp_path / "a").write_bytes(raw if preamble else raw[132:])
    if preamble:
        assert both_parsers_agree(tmp_path / "a") is False  # two values are for pydicom to refuse
    header = header_of(tmp_path / "a", KEY)
    assert header["pixel_spacing_mm"] == 0.9379 and header["slope"] == 1.5
    assert header["ipp"].tolist() == [-125.5, -100, 30.25]
    assert np.isnan(header["window_center"]) and np.isnan(header["window_width"])


@needs_zoo
def test_the_fast_parser_reads_the_zoo_as_pydicom_does():
    assert sum(both_parsers_agree(file) for file in sorted(ZOO.iterdir())) >= 10
