"""An example competition: made-up head-CT studies with planted bleeds, as DICOM files in Kaggle's
own layout.

It has the traps of the real one: tilted gantries, half steps, gaps, two slices at one place, 12-bit
and 16-bit pixels, the intercept defect, a truncated file, a patient who is in both sets, file names
that carry no order.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ct.errors import InputError
from ct.labels import KAGGLE_ORDER, SUBTYPES
from ct.storage.atomic_write import replacing
from ct.storage.file_formats import write_json
from ct.synthetic.bleeds import add_mimics, add_noise, plant_bleed, visible_slices
from ct.synthetic.phantom import Anatomy, draw_head

SYNTH_FILE = "synth.json"  # beside the data: the studies and the seed that they were made with
BLEEDING = 0.58  # share of studies
BLEEDS_EACH = 1.4  # of a bleeding study, on average
# share of studies, at least one each
LAYOUTS = {"half_low": 0.2, "half_high": 0.2, "gap": 0.07, "double": 0.03}
PADDING = -2000  # stored outside the circle by scanners that write 16 bits


@dataclass(frozen=True)
class StudyPlan:
    """What study number `number` of a competition is to be."""

    number: int
    test: bool
    kinds: tuple  # of its bleeds, a selection of SUBTYPES
    layout: str  # of its slices: "regular" or one of LAYOUTS
    signed: bool  # 16-bit signed pixels, else 12-bit unsigned
    patient: str
    defects: int  # slices with the intercept defect
    truncated: bool  # one slice is cut short


@dataclass(frozen=True)
class Study:
    """n slices of one study from bottom to top."""

    plan: StudyPlan
    ids: list  # of the slices: "ID_" and nine hex digits
    study_id: str
    series_id: str
    hu: np.ndarray  # (n, size, size) int16
    labels: np.ndarray  # (n, 6) uint8, columns KAGGLE_ORDER
    position_mm: np.ndarray  # (n,) along the slice normal
    tilt: float  # of the gantry, radians
    corner: tuple  # x, y, z in mm of the first slice's first pixel
    pixel_mm: float
    broken: dict  # slice number -> "defect" or "truncated"


def write_competition(out, studies, seed, size=256, slices=(20, 28), progress=None):
    """Write an example competition of `studies` studies, about one in six of them in the test set,
    below the folder `out`.

    Images are size x size pixels; a study has slices[0] to slices[1] slices. The same arguments
    give the same bytes. `progress` is called with (done, studies) after each study. The file
    MADE_WITH says what it was made with. Returns counts: `studies`, `train_slices`, `test_slices`,
    `positive_slices` and `positive_studies` per label (train only), and names: `truncated` (an id),
    `defects` (ids), `shared_patient`. Raises InputError where `out` is not empty, or for fewer than
    2 studies or 32 pixels.
    """
    out = Path(out)
    _check(out, studies, size, slices)
    plans, labels = plan_competition(studies, seed), {True: {}, False: {}}
    summary = _empty_summary(plans)
    with replacing(out, among_users=True) as part:
        for folder in ("stage_2_train", "stage_2_test"):
            (part / folder).mkdir(parents=True)
        for plan in plans:
            study = make_study(plan, seed, size, slices)
            write_study(study, part / ("stage_2_test" if plan.test else "stage_2_train"))
            labels[plan.test].update(zip(study.ids, study.labels.tolist(), strict=True))
            _count(summary, study)
            if progress:
                progress(plan.number + 1, studies)
        _write_csv(part / "stage_2_train.csv", labels[False])
        _write_csv(part / "stage_2_sample_submission.csv", {i: [0.5] * 6 for i in labels[True]})
        write_json(part / SYNTH_FILE, {"studies": studies, "seed": seed})
    return summary


def _check(out, studies, size, slices):
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out} is there already; name a new folder for the example competition, or remove this one first"
        )
    if studies < 2:
        raise InputError(
            f"studies is {studies}; an example competition needs at least 2, one for train and one for test"
        )
    if size < 32:
        raise InputError(f"size is {size}; below 32 pixels no anatomy is left")
    if not 5 <= slices[0] <= slices[1]:
        raise InputError(f"slices is {tuple(slices)}; it should be (fewest, most) with at least 5")


def plan_competition(studies, seed):
    """What each study of a competition is to be: a list of StudyPlan.

    Bleeds are dealt out in turn, so that each subtype gets its share even of a few studies; every
    sixth study of that order is in the test set. The traps are in train: one truncated file, and
    one or two studies with the intercept defect.
    """
    rng = np.random.default_rng([seed, 2**32 - 1])
    kinds = _deal_bleeds(studies)
    is_test = np.arange(studies) % 6 == min(4, studies - 1)
    layouts = [
        name for name, share in LAYOUTS.items() for _ in range(max(1, round(share * studies)))
    ]
    layouts = rng.permutation((layouts + ["regular"] * studies)[:studies])
    signed = rng.permutation(np.arange(studies) % 5 < 2)
    train = rng.permutation(np.flatnonzero(~is_test))
    signed[train[0]] = False
    defective = {int(train[0])} | {
        int(i) for i in train[1:] if not signed[i] and rng.random() < 0.04
    }
    patients = [_name(rng, 8) for _ in range(studies)]
    for twin, other in zip(train[1::10].tolist(), train[2::10].tolist(), strict=False):
        patients[twin] = patients[other]  # someone came back
    patients[int(rng.choice(np.flatnonzero(is_test)))] = patients[int(train[-1])]
    order = rng.permutation(studies).tolist()
    return [
        StudyPlan(
            number=number,
            test=bool(is_test[i]),
            kinds=kinds[i],
            layout=str(layouts[i]),
            signed=bool(signed[i]),
            patient=patients[i],
            defects=int(rng.integers(1, 3)) if i in defective else 0,
            truncated=i == int(train[-1]),
        )
        for number, i in enumerate(order)
    ]


def _deal_bleeds(studies):
    """The kinds of bleed of each study: those that bleed first, subtypes in turn, then () for the
    others.
    """
    bleeding = max(1, round(BLEEDING * studies))
    kinds = [(SUBTYPES[i % 5],) for i in range(bleeding)]
    for i in range(bleeding, round(BLEEDS_EACH * bleeding)):
        kind = SUBTYPES[i % 5]
        where = next(j for j in range(bleeding) if len(kinds[j]) == 1 and kinds[j][0] != kind)
        kinds[where] = (*kinds[where], kind)
    return kinds + [()] * (studies - bleeding)


def make_study(plan, seed, size=256, slices=(20, 28)):
    """The Study of a StudyPlan: a function of its arguments alone, so studies may be made in any
    order or process.
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
    ends = min(4, len(position) // 3)
    spoilt = rng.choice(
        np.arange(ends, len(position) - ends), plan.defects + plan.truncated, replace=False
    ).tolist()
    return Study(
        plan=plan,
        ids=[_name(rng, 9) for _ in position],
        study_id=_name(rng, 10),
        series_id=_name(rng, 10),
        hu=np.clip(np.rint(anatomy.hu), -1024, 3071).astype(np.int16),
        labels=labels,
        position_mm=position,
        tilt=float(np.radians(rng.uniform(0, 25))),
        corner=(-pixel_mm * size / 2, float(rng.uniform(-140, 40)), float(rng.uniform(-100, 200))),
        pixel_mm=pixel_mm,
        broken={
            k: "truncated" if plan.truncated and i == 0 else "defect" for i, k in enumerate(spoilt)
        },
    )


def _name(rng, digits):
    return "ID_" + rng.bytes(8).hex()[:digits]


def _positions(rng, layout, n):
    """Where the n slices of a layout lie along the normal: (n,) mm from the lowest."""
    steps = np.ones(n - 1)
    if layout in ("half_low", "half_high"):
        fine = int(n * rng.uniform(0.3, 0.5))
        steps[:fine] = 0.5
    elif layout in ("gap", "double"):
        steps[rng.integers(n // 3, 2 * n // 3)] = {"gap": 2.0, "double": 0.0}[layout]
    if layout == "half_high":
        steps = steps[::-1]
    return np.concatenate([[0.0], np.cumsum(steps)]) * float(rng.choice([4.5, 5, 5, 5, 5, 5.5]))


def write_study(study, folder):
    """Write the slices of a Study into `folder`, one DICOM file each, named by its id."""
    for k, slice_id in enumerate(study.ids):
        path = Path(folder) / f"{slice_id}.dcm"
        with disable_value_validation():  # the real identifiers are no UIDs either
            _dataset(study, k).save_as(path, enforce_file_format=True)
        if study.broken.get(k) == "truncated":
            os.truncate(path, path.stat().st_size - study.hu[k].nbytes * 2 // 5)


def _dataset(study, k):
    """Slice k of a Study as a pydicom Dataset, with the tags of the real files and no others."""
    ds = Dataset()
    ds.file_meta = _file_meta(study, k)
    stored, intercept, signed = _store(study, k)
    x, y, z = study.corner
    cos, sin = np.cos(study.tilt), np.sin(study.tilt)
    centre, width = ("30", "80") if study.plan.signed else (["00040", "00040"], ["00080", "00080"])
    ds.SOPInstanceUID = study.ids[k]
    ds.Modality = "CT"
    ds.PatientID = study.plan.patient
    ds.StudyInstanceUID = study.study_id
    ds.SeriesInstanceUID = study.series_id
    ds.StudyID = ""
    # the table moves along z, so the step in z is longer than the one along the normal (0, sin,
    # cos)
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


def _file_meta(study, k):
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"9999.{int(study.ids[k][3:], 16)}"
    implicit = not study.plan.signed and study.plan.number % 2
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    # ours, so the bytes do not change with pydicom's version
    meta.ImplementationClassUID = "1.2.826.0.1.3680043.8.498.1"
    meta.ImplementationVersionName = "ICH-STACK"
    return meta


def _store(study, k):
    """(stored values (size, size), intercept, signed) of slice k."""
    hu = study.hu[k].astype(np.int32)
    # 12 bits that wrapped around; undone by: add 1000, wrap at 4096, intercept -1000
    if study.broken.get(k) == "defect":
        hu = np.maximum(hu, -1000)
        return np.where(hu >= 0, hu, hu + 4096), study.plan.number % 2, False
    if not study.plan.signed:
        return hu + 1024, -1024, False
    axis = np.arange(len(hu)) - (len(hu) - 1) / 2
    outside = np.hypot(axis[:, None], axis[None, :]) > len(hu) / 2
    return np.where(outside, PADDING, hu + 1024), -1024, True


def _write_csv(path, labels):
    """Write slice id -> six values in KAGGLE_ORDER in the long form `ID,Label`, sorted by id."""
    rows = (
        f"{i}_{name},{value}\n"
        for i in sorted(labels)
        for name, value in zip(KAGGLE_ORDER, labels[i], strict=True)
    )
    path.write_text("ID,Label\n" + "".join(rows), encoding="utf-8", newline="\n")


def _empty_summary(plans):
    tests = {plan.patient for plan in plans if plan.test}
    return {
        "studies": len(plans),
        "train_slices": 0,
        "test_slices": 0,
        "positive_slices": dict.fromkeys(KAGGLE_ORDER, 0),
        "positive_studies": dict.fromkeys(KAGGLE_ORDER, 0),
        "truncated": None,
        "defects": [],
        "shared_patient": next(
            plan.patient for plan in plans if not plan.test and plan.patient in tests
        ),
    }


def _count(summary, study):
    """Add a Study to the summary in place."""
    summary["test_slices" if study.plan.test else "train_slices"] += len(study.ids)
    for k, what in study.broken.items():
        if what == "truncated":
            summary["truncated"] = study.ids[k]
        else:
            summary["defects"].append(study.ids[k])
    if not study.plan.test:
        for name, column in zip(KAGGLE_ORDER, study.labels.T, strict=True):
            summary["positive_slices"][name] += int(column.sum())
            summary["positive_studies"][name] += int(column.any())
