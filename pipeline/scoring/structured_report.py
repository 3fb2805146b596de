"""A DICOM structured report of one scored study (PS3.16 TID 1500), made by highdicom.

It belongs to the original study and holds the patient's name: it is identified data by intention.

Each label has a measurement group for the study and one for each of its most suspicious slices,
with a probability from 0 to 1. Codes are SNOMED CT's.
"""

import importlib.metadata
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, generate_uid

from ct.errors import InputError
from ct.labels import LABELS
from pipeline.receipt import commit

NAME = "ICH-Stack"
NOT_FOR_CLINICAL_USE = "Not for clinical use: for research and teaching only"
SERIES_NUMBER = 9001  # above the numbers that scanners give
# label -> (finding, its site or None)
FINDINGS: dict[str, tuple[Code, Code | None]] = {
    "any": (Code("1386000", "SCT", "Intracranial hemorrhage"), None),
    "epidural": (Code("82999001", "SCT", "Epidural intracranial hemorrhage"), None),
    "intraparenchymal": (Code("274100004", "SCT", "Cerebral hemorrhage"), None),
    "intraventricular": (
        Code("50960005", "SCT", "Hemorrhage"),
        Code("35764002", "SCT", "Brain ventricle"),
    ),
    "subarachnoid": (Code("21454007", "SCT", "Subarachnoid intracranial hemorrhage"), None),
    "subdural": (Code("35486000", "SCT", "Subdural intracranial hemorrhage"), None),
}
# the Patient, General Study and Patient Study modules (PS3.3 sections C.7.1.1, C.7.2.1, C.7.2.2)
STUDY_KEYWORDS = [
    "SpecificCharacterSet",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "OtherPatientIDsSequence",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
]
EMPTY_KEYWORDS = [  # type 2: present in every report, empty where the slices lack them
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
]
REFERENCE_KEYWORDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


class SuspiciousSlice(NamedTuple):
    """A slice with one of the largest probabilities of a label.

    frame: its number in a file of several slices, from 1; None in a file of its own
    """

    header: Dataset
    frame: int | None
    probability: float


class StudyProbabilities(NamedTuple):
    """The probabilities of one study.

    of_study: label -> probability; slices: label -> slices, the most suspicious first
    """

    of_study: Mapping[str, float]
    slices: Mapping[str, Sequence[SuspiciousSlice]]


def require_highdicom() -> Any:
    """Return highdicom's module sr. Raises InputError where it is missing."""
    try:
        from highdicom import sr
    except ModuleNotFoundError as error:
        raise InputError(
            f"--dicom-sr needs {error.name}, which is not installed: pip install -e '.[dicom-sr]'"
        ) from None
    return sr


def why_no_report(headers: Sequence[Dataset]) -> str:
    """Return why a study's slices cannot be referenced by a structured report; "" where they can.

    headers: of its slices, without pixels
    """
    for header in headers:
        for keyword in REFERENCE_KEYWORDS:
            value = header.get(keyword)
            if not isinstance(value, str) or not value:
                return f"a slice lacks {keyword}"
            if not UID(value).is_valid:
                return f"{keyword} is no UID (PS3.5 section 9.1)"
    if len({header.StudyInstanceUID for header in headers}) > 1:
        return "its slices have several StudyInstanceUIDs"
    if len({str(header.get("PatientID", "")) for header in headers}) > 1:
        return "its slices have several PatientIDs"
    return ""


def structured_report(
    headers: Sequence[Dataset], probabilities: StudyProbabilities, model: str
) -> Dataset:
    """Return a Comprehensive SR (PS3.3 section A.35.3) of one study.

    headers: of its scored slices, without pixels, for which `why_no_report` is ""; model: its name,
    ASCII

    Call it inside `quiet_pydicom`: values of the original study are copied as they are.
    """
    sr = require_highdicom()
    algorithm = sr.AlgorithmIdentification(
        name=NAME,
        version=_version(),
        parameters=[f"model: {model}", NOT_FOR_CLINICAL_USE],
    )
    objects = {header.SOPInstanceUID: header for header in headers}  # frames share one
    report = sr.ComprehensiveSR(
        evidence=[_reference(header) for header in objects.values()],
        content=_content(sr, probabilities, algorithm, model),
        series_instance_uid=generate_uid(prefix=None),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=NAME,
        is_complete=True,
        series_description=f"{NAME} probabilities, not for clinical use",
    )
    _copy_study(headers[0], report)
    return report


def _version() -> str:
    """Return the git commit of a checkout, or the version of the installed package."""
    return commit() or importlib.metadata.version("ich-stack")


def _content(sr: Any, probabilities: StudyProbabilities, algorithm: Any, model: str) -> Any:
    """Return the content tree: observer, procedure, a group a label and level, the warning."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{NAME} {model}').int}",
        name=NAME,
        manufacturer_name=NAME,
        model_name=model,
    )
    context = sr.ObservationContext(
        observer_device_context=sr.ObserverContext(codes.DCM.Device, device)
    )
    groups = []
    for label in LABELS:
        groups.append(_group(sr, label, "study", probabilities.of_study[label], algorithm))
        for rank, suspicious in enumerate(probabilities.slices[label], 1):
            level, value = f"slice {rank}", suspicious.probability
            groups.append(_group(sr, label, level, value, algorithm, _image(sr, suspicious)))
    content = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=codes.cid100.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.cid7021.ImagingMeasurementReport,
    )
    warning = sr.TextContentItem(
        name=codes.DCM.Comment,
        value=NOT_FOR_CLINICAL_USE,
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )
    content[0].ContentSequence.append(warning)
    return content


def _group(sr: Any, label: str, level: str, value: float, algorithm: Any, image: Any = None) -> Any:
    """Return the measurement group (TID 1501) of one label and level.

    level: "study" or "slice" and its rank, in the tracking identifier; image: of the slice
    """
    finding, site = FINDINGS[label]
    probability = sr.Measurement(
        name=codes.DCM.Probability,
        value=value,
        unit=codes.UCUM.NoUnits,
        referenced_images=[image] if image else None,
    )
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=generate_uid(prefix=None), identifier=f"{label}, {level}"
        ),
        finding_type=finding,
        finding_sites=[sr.FindingSite(site)] if site else None,
        algorithm_id=algorithm,
        measurements=[probability],
    )


def _image(sr: Any, suspicious: SuspiciousSlice) -> Any:
    """Return the reference to a slice: an object, or a frame of it (PS3.3 section C.18.4)."""
    header, frame = suspicious.header, suspicious.frame
    return sr.SourceImageForMeasurement(
        header.SOPClassUID, header.SOPInstanceUID, [frame] if frame else None
    )


def _reference(header: Dataset) -> Dataset:
    """Return what highdicom needs of a slice to refer to it; nothing of the patient."""
    reference = Dataset()
    for keyword in EMPTY_KEYWORDS:
        setattr(reference, keyword, "")
    for keyword in REFERENCE_KEYWORDS:
        setattr(reference, keyword, str(header.get(keyword)))
    return reference


def _copy_study(header: Dataset, report: Dataset) -> None:
    """Copy the patient's and the study's attributes, as they are, to a report."""
    for keyword in STUDY_KEYWORDS:
        if keyword in header:
            report.add(header[keyword])
