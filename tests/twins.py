"""The same head in other forms: turned DICOM, enhanced CT, NIfTI. For the tests."""

import copy
import warnings
from contextlib import contextmanager

import numpy as np
import pydicom
from enhanced_ct import enhanced
from pydicom.config import disable_value_validation


@contextmanager
def unchecked():
    """Let pydicom write ID_..., which is no UID."""
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_study(files):
    """Return the slices of one series as data sets, from the lowest to the highest."""
    with unchecked():
        slices = [pydicom.dcmread(file) for file in files]
    iop = np.array(slices[0].ImageOrientationPatient, float)
    normal = np.cross(iop[:3], iop[3:])
    return sorted(slices, key=lambda one: np.dot(normal, np.array(one.ImagePositionPatient, float)))


def renamed(slices, person):
    """Return copies of the slices as a study of another person."""
    copies = copy.deepcopy(slices)
    with unchecked():
        for place, one in enumerate(copies):
            one.PatientID = one.StudyInstanceUID = one.SeriesInstanceUID = person
            one.SOPInstanceUID = f"{person}-{place}"
    return copies


def turned(slices, half_turn):
    """Return the slices stored turned by 180 degrees, or with their rows upside down."""
    for one in slices:
        iop = np.array(one.ImageOrientationPatient, float)
        ipp = np.array(one.ImagePositionPatient, float)
        spacing, pixels = np.array(one.PixelSpacing, float), one.pixel_array[::-1]
        ipp, iop[3:] = ipp + iop[3:] * spacing[0] * (one.Rows - 1), -iop[3:]
        if half_turn:
            ipp, iop[:3] = ipp + iop[:3] * spacing[1] * (one.Columns - 1), -iop[:3]
            pixels = pixels[:, ::-1]
        one.ImagePositionPatient = [f"{value:.6f}" for value in ipp]
        one.ImageOrientationPatient = [f"{value:.6f}" for value in iop]
        one.PixelData = np.ascontiguousarray(pixels).tobytes()
    return slices


def save_slices(folder, slices):
    """Write one file a slice, named without suffix."""
    folder.mkdir(parents=True)
    with unchecked():
        for place, one in enumerate(slices):
            one.save_as(folder / f"IM{place:04d}")


def save_enhanced(folder, slices):
    """Write one file of enhanced CT, with its frames out of order."""
    folder.mkdir(parents=True)
    with unchecked():
        dataset = enhanced([*slices[::2], *slices[1::2]], SOPInstanceUID=slices[0].SOPInstanceUID)
        dataset.save_as(folder / "volume", enforce_file_format=True)


def save_nifti(path, slices):
    """Write a NIfTI file as its usual converters do: columns of voxels to the right and the front.

    The distances of the slices must be equal.
    """
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    first, last = slices[0], slices[-1]
    spacing, iop = np.array(first.PixelSpacing, float), np.array(first.ImageOrientationPatient)
    begin, end = (np.array(one.ImagePositionPatient, float) for one in (first, last))
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = iop[:3] * spacing[1], iop[3:] * spacing[0]
    lps[:3, 2], lps[:3, 3] = (end - begin) / (len(slices) - 1), begin
    hu = [one.pixel_array * float(one.RescaleSlope) + one.RescaleIntercept for one in slices]
    voxels = np.stack([pixels.T for pixels in hu], -1).astype(np.int16)[:, ::-1]
    flip = np.eye(4)
    flip[1, 1], flip[1, 3] = -1, first.Rows - 1
    image = nibabel.Nifti1Image(voxels, np.diag([-1, -1, 1, 1]) @ lps @ flip)
    nibabel.save(image, path)
