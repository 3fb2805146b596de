"""Objects without an image are called what they are, not damaged."""

import copy

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from tiny_dicom import make_dataset

from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.header_table import read_headers

CLASSES = "1.2.840.10008.5.1.4.1.1."
IMAGE = (
    "PixelData Rows Columns ImagePositionPatient ImageOrientationPatient PixelSpacing "
    "BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel PhotometricInterpretation"
)


def reason(tmp_path, dataset):
    with quiet_pydicom():
        dataset.save_as(tmp_path / "a", enforce_file_format=True)
    table, refused = read_headers(tmp_path, ["a"], b"key", workers=1)
    assert table.empty
    return refused["reason"].item()


def without_image(number, **tags):
    dataset = make_dataset(SOPClassUID=number, **tags)
    for keyword in IMAGE.split():
        del dataset[keyword]
    return dataset


@pytest.mark.parametrize(
    ("number", "what"),
    [
        ("88.67", "dose report, SR: X-Ray Radiation Dose SR"),
        ("88.33", "structured report, SR: Comprehensive SR"),
        ("88.59", "key objects, KO: Key Object Selection Document"),
        ("11.1", "presentation state: Grayscale Softcopy Presentation State"),
        ("481.3", "radiotherapy, RT: RT Structure Set"),
        ("481.5", "radiotherapy, RT: RT Plan"),
        ("104.1", "document: Encapsulated PDF"),
        ("66", "raw data: Raw Data"),
        ("66.1", "registration: Spatial Registration"),
        ("9.1.1", "waveform: 12-lead ECG Waveform"),
    ],
)
def test_objects_without_an_image(tmp_path, number, what):
    assert reason(tmp_path, without_image(CLASSES + number)) == f"no image ({what})"


def test_a_dicomdir(tmp_path):
    directory = Dataset()
    directory.FileSetID, directory.DirectoryRecordSequence = "DISC", []
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    what = "a DICOMDIR, the index of a disc, which holds no image"
    assert reason(tmp_path, directory) == what


@pytest.mark.parametrize("number", [f"{CLASSES}2", "1.2.3.4", "DOE^JANE", None])
def test_a_ct_image_that_lost_its_image_is_damaged(tmp_path, number):
    assert reason(tmp_path, without_image(number)) == "Rows is missing or empty"


@pytest.mark.parametrize(
    ("number", "what"),
    [
        ("66.4", "multi-frame file (2 frames): segmentation: Segmentation, which is not read"),
        ("4.1", "multi-frame file (2 frames): Enhanced MR Image, which is not read"),
        ("2", "multi-frame file (2 frames)"),
    ],
)
def test_other_files_of_many_frames(tmp_path, number, what):
    dataset = copy.deepcopy(make_dataset(SOPClassUID=CLASSES + number, NumberOfFrames=2))
    assert reason(tmp_path, dataset) == what
