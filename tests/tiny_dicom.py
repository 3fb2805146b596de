"""Write small DICOM files for the tests; the folder of real ones."""

import io
import os
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.header import read_header
from ct.sources.folder import DiskFile

REAL_DATA = Path(
    os.environ.get("ICH_REAL_DATA") or Path(__file__).parents[1].parent / "shared/data"
)
NAME = "DOE^JANE"
ZOO = REAL_DATA / "dicom_zoo"
needs_zoo = pytest.mark.skipif(
    not ZOO.is_dir(), reason=f"{ZOO} is not there (ICH_REAL_DATA names the folder of the real data)"
)
RETIRED = "1.2.840.10008.1.2.4.53"
# file of the zoo that does not decode -> the reason
UNDECODABLE = {
    "CT0012.fragmented_no_bot_jpeg_baseline.51.dcm": "multi-frame file (2 frames)",
    "eCT_Supplemental.dcm": "multi-frame file (2 frames)",
    f"CTImage.dcm_JPEGProcess6_8TransferSyntax_{RETIRED}.dcm": (
        f"no decoder for the transfer syntax {RETIRED}"
    ),
}


@contextmanager
def _unchecked():
    """Let pydicom write ID_..., which is no UID, and malformed values."""
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make_dataset(pixels=None, signed=True, bits=16, name="ID_00000000a", **tags):
    """Return a head-CT slice as a pydicom data set.

    pixels: stored values (rows, cols); tags: further tags by keyword, None to leave one out
    """
    pixels = np.arange(12).reshape(3, 4) if pixels is None else np.asarray(pixels)
    dataset = Dataset()
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": name,
        "PatientName": NAME,
        "PatientID": "ID_0000000b",
        "PatientBirthDate": "19610203",
        "StudyInstanceUID": "ID_000000000c",
        "SeriesInstanceUID": "ID_000000000d",
        "ImagePositionPatient": [-125, -100.5, 30.25],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "PixelSpacing": [0.5, 0.75],
        "BitsAllocated": 16,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(signed),
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "WindowCenter": 40,
        "WindowWidth": 80,
    }
    with _unchecked():
        for keyword, value in (values | tags).items():
            if value is not None:
                setattr(dataset, keyword, value)
    dataset.PixelData = pixels.astype("<i2" if signed else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    return dataset


def slice_bytes(*args, **kwargs):
    """Return the bytes of a DICOM file; arguments as in make_dataset."""
    file = io.BytesIO()
    with _unchecked():
        make_dataset(*args, **kwargs).save_as(file, enforce_file_format=True)
    return file.getvalue()


def write_slice(path, *args, **kwargs):
    """Write a DICOM file and return its path; arguments as in make_dataset."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(slice_bytes(*args, **kwargs))
    return path


def header_of(path, key):
    """Return the header of one file, as ingest reads it."""
    with quiet_pydicom():
        return read_header(DiskFile(str(path)), key)
