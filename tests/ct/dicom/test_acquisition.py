"""How a slice was acquired: contrast, lossy compression, body part; and no free text."""

import numpy as np
import pytest
from pydicom.uid import JPEG2000, RLELossless
from tiny_dicom import make_dataset, write_slice

from ct.dicom.acquisition import read_acquisition
from ct.sources.folder import Folder


def read(folder, **tags):
    write_slice(folder / "a.dcm", **tags)
    return read_acquisition(Folder(folder), ["a.dcm"]).iloc[0]


def test_a_file_without_these_tags(tmp_path):
    row = read(tmp_path)
    assert (row["modality"], row["body_part"], row["image_type"]) == ("", "", "")
    assert not row["contrast"] and not row["lossy"] and np.isnan(row["thickness_mm"])
    assert (row["position"], row["stored"]) == ("", "")
    assert (row["sop_uid"], row["study_uid"]) == ("ID_00000000a", "ID_000000000c")


def test_a_file_with_all_of_these_tags(tmp_path):
    row = read(
        tmp_path,
        Modality="CT",
        BodyPartExamined="head",
        ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
        ContrastBolusAgent="Iohexol 300",
        LossyImageCompression="01",
        SliceThickness="5.0",
        PatientPosition="FFP",
        ImageOrientationPatient=[-1, 0, 0, 0, -1, 0],
    )
    assert (row["modality"], row["body_part"], row["image_type"]) == (
        "CT",
        "HEAD",
        "ORIGINAL\\PRIMARY\\AXIAL",
    )
    assert row["contrast"] and row["lossy"] and row["thickness_mm"] == 5
    assert (row["position"], row["stored"]) == ("FFP", "turned by 180 degrees")
    assert "Iohexol" not in " ".join(map(str, row))


@pytest.mark.parametrize(
    ("value", "unit"), [("HU", "HU"), (" z_eff", "Z_EFF"), ("DOE", "?"), (None, "")]
)
def test_the_unit_of_the_pixels(tmp_path, value, unit):
    assert read(tmp_path, RescaleType=value)["unit"] == unit


@pytest.mark.parametrize(("value", "held"), [("YES", True), ("NO", False), ("", False)])
def test_what_the_pixels_may_show_of_a_person(tmp_path, value, held):
    row = read(tmp_path, BurnedInAnnotation=value, RecognizableVisualFeatures=value)
    assert (row["burned_in"], row["recognizable"]) == (held, held)


@pytest.mark.parametrize("agent", ["", "NONE", "none", "C-", " No "])
def test_what_sites_write_for_no_contrast(tmp_path, agent):
    assert not read(tmp_path, ContrastBolusAgent=agent)["contrast"]


@pytest.mark.parametrize(
    "part", ["Doe^Jane's head, seen at St. Mary's", "KÖPPL", "SMITH", "JANE DOE", "JOHN CHEST"]
)
def test_free_text_is_not_shown(tmp_path, part):
    assert (
        read(tmp_path, BodyPartExamined=part, SpecificCharacterSet="ISO_IR 100")["body_part"] == "?"
    )


def test_a_name_in_a_code_is_not_shown(tmp_path):
    names = {
        "Modality": "JANE",
        "PatientPosition": "JANE",
        "BodyPartExamined": "DOE HEAD",
        "ImageType": ["JANE", "PRIMARY", "DOE LOCALIZER"],
    }
    row = read(tmp_path, **names)
    assert (row["modality"], row["body_part"], row["image_type"]) == (
        "?",
        "HEAD",
        "?\\PRIMARY\\LOCALIZER",
    )


@pytest.mark.parametrize(("syntax", "lossy"), [(JPEG2000, True), (RLELossless, False)])
def test_a_lossy_transfer_syntax_counts_as_lossy(tmp_path, syntax, lossy):
    dataset = make_dataset(name="1.2.3", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1")
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset["PixelData"].is_undefined_length = True
    item, end = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"  # PS3.5 section A.4
    dataset.PixelData = item + bytes(4) + item + b"\x02\x00\x00\x00ab" + end + bytes(4)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert read_acquisition(Folder(tmp_path), ["a.dcm"])["lossy"].iloc[0] == lossy


def test_a_malformed_value_counts_as_missing(tmp_path):
    path = write_slice(tmp_path / "a.dcm", SliceThickness="5.25")
    path.write_bytes(path.read_bytes().replace(b"5.25", b"thin"))
    assert np.isnan(read_acquisition(Folder(tmp_path), ["a.dcm"])["thickness_mm"].iloc[0])


def test_in_a_damaged_file_every_value_is_missing(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"")
    assert read_acquisition(Folder(tmp_path), ["a.dcm"])["modality"].iloc[0] == ""


def test_the_zoo_of_real_files(real_data):
    zoo = Folder(real_data / "dicom_zoo")
    names = [
        "CT2_J2KI",
        "CT2_JLSN",
        "CT2_J2KR",
        "CT_small.dcm",
        "CT_JPEG70.dcm",
        "CT_Explicit_Little.dcm",
    ]
    rows = read_acquisition(zoo, names)
    assert rows["lossy"].tolist() == [True, True, False, False, False, False]
    assert rows["contrast"].tolist() == [False, False, False, True, False, False]
    assert rows.loc["CT_JPEG70.dcm", "body_part"] == "CHEST"
    assert "LOCALIZER" in rows.loc["CT_JPEG70.dcm", "image_type"]
