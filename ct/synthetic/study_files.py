"""One study of an example competition: drawn from its plan, and written as DICOM files."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ct.labels import KAGGLE_ORDER
from ct.synthetic.bleeds import plant_bleed, visible_slices
from ct.synthetic.head_geometry import draw_head
from ct.synthetic.image_artefacts import add_mimics, add_noise
from ct.synthetic.phantom import Anatomy
from ct.synthetic.study_plan import StudyPlan, random_id

PADDING = -2000  # stored value outside the scan circle in 16-bit files


@dataclass(frozen=True)
class Study:
    """The n slices of one study, from bottom to top."""

    plan: StudyPlan
    ids: list[str]  # of the slices: "ID_" and nine hex digits
    study_id: str
    series_id: str
    hu: NDArray[np.int16]  # (n, size, size)
    labels: NDArray[np.uint8]  # (n, 6), columns KAGGLE_ORDER
    position_mm: NDArray[np.float64]  # (n,) along the slice normal
    tilt: float  # of the gantry, radians
    corner: tuple[float, float, float]  # x, y, z in mm of the first pixel of the first slice
    pixel_mm: float
    damage: dict[int, str]  # slice number -> "defect" or "truncated"


def make_study(
    plan: StudyPlan, seed: int, size: int = 256, slices: tuple[int, int] = (20, 28)
) -> Study:
    """Draw the Study of a plan, with slices[0] to slices[1] slices of size x size pixels.

    It depends on the arguments alone, so studies can be made in any order and process.
    """
    rng = np.random.default_rng([seed, plan.number])
    position = _positions(rng, plan.layout, int(rng.integers(slices[0], slices[1] + 1)))
    bottom, top = rng.uniform(-0.06, 0.0), rng.uniform(0.95, 1.01)
    pixel_mm = float(np.round(rng.uniform(215, 245) / size, 6))
    heights = bottom + (top - bottom) * position / position[-1]
    anatomy = Anatomy(rng, draw_head(rng), heights, size, pixel_mm)
    labels = np.zeros((len(position), 6), np.uint8)
    for kind in plan.kinds:
        length = int(np.clip(round(len(position) * rng.uniform(0.2, 0.36)), 3, 9))
        weights = plant_bleed(rng, anatomy, kind, length)
        labels[:, KAGGLE_ORDER.index(kind)] = visible_slices(weights, pixel_mm)
    labels[:, 5] = labels[:, :5].max(1)
    add_mimics(rng, anatomy)
    add_noise(rng, anatomy)
    damage = _draw_damage(rng, plan, len(position))
    return Study(
        plan=plan,
        ids=[random_id(rng, 9) for _ in position],
        study_id=random_id(rng, 10),
        series_id=random_id(rng, 10),
        hu=np.clip(np.rint(anatomy.hu), -1024, 3071).astype(np.int16),
        labels=labels,
        position_mm=position,
        tilt=float(np.radians(rng.uniform(0, 25))),
        corner=(-pixel_mm * size / 2, float(rng.uniform(-140, 40)), float(rng.uniform(-100, 200))),
        pixel_mm=pixel_mm,
        damage=damage,
    )


def write_study(study: Study, folder: Path) -> None:
    """Write the slices of a Study into `folder`, one DICOM file each, named by its id."""
    for k, slice_id in enumerate(study.ids):
        path = Path(folder) / f"{slice_id}.dcm"
        with disable_value_validation():  # identifiers are no UIDs, as in the competition
            _dataset(study, k).save_as(path, enforce_file_format=True)
        if study.damage.get(k) == "truncated":
            os.truncate(path, path.stat().st_size - study.hu[k].nbytes * 2 // 5)


def _positions(rng: np.random.Generator, layout: str, n: int) -> NDArray[np.float64]:
    """Return the positions of n slices along the normal in a layout: (n,) mm from the lowest."""
    steps = np.ones(n - 1)
    if layout in ("half_low", "half_high"):
        half_steps = int(n * rng.uniform(0.3, 0.5))
        steps[:half_steps] = 0.5
    elif layout in ("gap", "double"):
        steps[rng.integers(n // 3, 2 * n // 3)] = {"gap": 2.0, "double": 0.0}[layout]
    if layout == "half_high":
        steps = steps[::-1]
    return np.concatenate([[0.0], np.cumsum(steps)]) * float(rng.choice([4.5, 5, 5, 5, 5, 5.5]))


def _draw_damage(rng: np.random.Generator, plan: StudyPlan, n: int) -> dict[int, str]:
    """Return {slice number: "defect" or "truncated"}, for slices away from both ends."""
    margin = min(4, n // 3)
    candidates = np.arange(margin, n - margin)
    damaged = rng.choice(candidates, plan.defects + plan.truncated, replace=False).tolist()
    damage = dict.fromkeys(damaged, "defect")
    if plan.truncated:
        damage[damaged[0]] = "truncated"
    return damage


def _dataset(study: Study, k: int) -> Dataset:
    """Return slice k as a pydicom Dataset, with the same tags as the competition's files."""
    ds = Dataset()
    ds.file_meta = _file_meta(study, k)
    stored, intercept, signed = _stored_values(study, k)
    x, y, z = study.corner
    cos, sin = np.cos(study.tilt), np.sin(study.tilt)
    centre, width = ("30", "80") if study.plan.signed else (["00040", "00040"], ["00080", "00080"])
    ds.SOPInstanceUID = study.ids[k]
    ds.Modality = "CT"
    ds.PatientID = study.plan.patient
    ds.StudyInstanceUID = study.study_id
    ds.SeriesInstanceUID = study.series_id
    ds.StudyID = ""
    # The table moves along z, so a step in z is longer than the step along the normal
    # (0, sin, cos).
    ds.ImagePositionPatient = [f"{v:.6f}" for v in (x, y, z + study.position_mm[k] / cos)]
    ds.ImageOrientationPatient = [f"{v:.9f}" for v in (1, 0, 0, 0, cos, -sin)]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.PixelSpacing = [f"{study.pixel_mm:.6f}"] * 2
    ds.BitsAllocated = 16
    ds.BitsStored = 16 if signed else 12
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(signed)
    ds.WindowCenter, ds.WindowWidth = centre, width
    ds.RescaleIntercept, ds.RescaleSlope = str(intercept), "1"
    ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def _file_meta(study: Study, k: int) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(f"9999.{int(study.ids[k][3:], 16)}")
    implicit = not study.plan.signed and study.plan.number % 2
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    # fixed, so that the bytes do not change with the version of pydicom
    meta.ImplementationClassUID = UID("1.2.826.0.1.3680043.8.498.1")
    meta.ImplementationVersionName = "ICH-STACK"
    return meta


def _stored_values(study: Study, k: int) -> tuple[NDArray[np.int32], int, bool]:
    """Return (stored values (size, size), intercept, whether they are signed) of slice k."""
    hu = study.hu[k].astype(np.int32)
    # 12 bits that wrap around, as ct/dicom/intercept_repair.py describes
    if study.damage.get(k) == "defect":
        hu = np.maximum(hu, -1000)
        return np.where(hu >= 0, hu, hu + 4096), study.plan.number % 2, False
    if not study.plan.signed:
        return hu + 1024, -1024, False
    axis = np.arange(len(hu)) - (len(hu) - 1) / 2
    outside = np.hypot(axis[:, None], axis[None, :]) > len(hu) / 2
    return np.where(outside, PADDING, hu + 1024), -1024, True
