"""The answers of `score` for other systems: DICOM structured reports, and one JSON."""

import builtins
import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pydicom
import pytest
from enhanced_ct import enhanced
from pydicom.config import disable_value_validation
from tiny_dicom import make_dataset

import run
from ct.labels import LABELS
from ct.sources.folder import Folder
from pipeline.scoring.structured_report import NOT_FOR_CLINICAL_USE
from pipeline.scoring.study_export import write_structured_reports, write_studies_json

sr = pytest.importorskip(
    "highdicom.sr", reason="highdicom is not installed: pip install -e '.[dicom-sr]'"
)
ROOT_UID = "1.2.826.77"
CT = "1.2.840.10008.5.1.4.1.1.2"
PATIENT = {
    "PatientName": "Müller^Jürgen",
    "PatientID": "MRN 4711",
    "PatientBirthDate": "19610203",
    "PatientSex": "M",
    "StudyDate": "20261101",
    "StudyTime": "101500",
    "StudyID": "17",
    "AccessionNumber": "A-42",
    "ReferringPhysicianName": "Roe^Jane",
    "SpecificCharacterSet": "ISO_IR 100",
    "SOPClassUID": CT,
    "StudyInstanceUID": f"{ROOT_UID}.1",
    "SeriesInstanceUID": f"{ROOT_UID}.2",
}


def tables(folder, slices=5, **tags):
    """Write the slices of a study; return (studies, slices, paths, slabs), probabilities random."""
    folder.mkdir()
    for i in range(slices):
        dataset = make_dataset(**PATIENT | {"SOPInstanceUID": f"{ROOT_UID}.3.{i}"} | tags)
        with disable_value_validation():
            dataset.save_as(folder / f"{i}.dcm", enforce_file_format=True)
    index = pd.Index([f"slice-{i}" for i in range(slices)], name="slice_id")
    table = pd.DataFrame(np.random.default_rng(1).random((slices, 6)), index, list(LABELS))
    table = table.assign(study_id="study-1", series_id="series-1")
    row = dict(zip(LABELS, np.random.default_rng(2).random(6), strict=True))
    studies = pd.DataFrame([row | {"status": "scored"}], ["study-1"])
    paths = [f"{i}.dcm" for i in range(slices)]
    paths = pd.DataFrame({"path": paths, "dicom": True}, index)
    return studies, table, paths, pd.Series(dtype=object)


def written(tmp_path, **tags):
    """The report of a made-up study, its tables, and what was logged."""
    made, log = tables(tmp_path / "data", **tags), []
    write_structured_reports(tmp_path / "sr", Folder(tmp_path / "data"), made, "micro", log.append)
    path = tmp_path / "sr/study-1.dcm"
    return (pydicom.dcmread(path) if path.exists() else None), made, "\n".join(log)


def values(report):
    """{tracking identifier: (probability, referenced SOP instance or "")} of a report's groups."""
    found = {}
    content = sr.ComprehensiveSR.from_dataset(report).content
    for group in content.get_image_measurement_groups():
        (measurement,) = group.get_measurements()
        assert measurement.unit.value == "1" and measurement.name.value == "122157"
        images = measurement.referenced_images
        uid = images[0].referenced_sop_instance_uid if images else ""
        found[group.tracking_identifier] = (measurement.value, uid)
    return found


def texts_of(item):
    """The texts of a content item and of those below it."""
    texts = {item.TextValue} if "TextValue" in item else set()
    return texts.union(*map(texts_of, item.get("ContentSequence", [])))


def test_the_values_are_those_of_the_tables(tmp_path):
    report, (studies, slices, *_), _ = written(tmp_path)
    found = values(report)
    assert len(found) == len(LABELS) * 4
    for label in LABELS:
        assert found[f"{label}, study"] == (studies.loc["study-1", label], "")
        largest = slices[label].sort_values(ascending=False).head(3)
        for rank, (slice_id, value) in enumerate(largest.items(), 1):
            uid = f"{ROOT_UID}.3.{slice_id.removeprefix('slice-')}"
            assert found[f"{label}, slice {rank}"] == (value, uid)


def test_it_belongs_to_the_original_study_and_refers_to_its_slices(tmp_path):
    report, *_ = written(tmp_path)
    for keyword in PATIENT.keys() - {"SOPClassUID", "SeriesInstanceUID"}:
        assert str(report[keyword].value) == PATIENT[keyword], keyword
    assert report.SeriesInstanceUID != PATIENT["SeriesInstanceUID"]
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == PATIENT["SeriesInstanceUID"]
    referenced = {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence}
    assert referenced == {f"{ROOT_UID}.3.{i}" for i in range(5)}
    assert {uid for _, uid in values(report).values()} <= referenced | {""}
    texts = texts_of(report)
    assert texts >= {NOT_FOR_CLINICAL_USE, "model: micro", "ICH-Stack"}
    assert report.VerificationFlag == "UNVERIFIED" and report.PreliminaryFlag == "PRELIMINARY"


def test_each_label_has_a_code_of_its_own(tmp_path):
    report, *_ = written(tmp_path)
    codes = {}
    groups = sr.ComprehensiveSR.from_dataset(report).content.get_image_measurement_groups()
    for group in groups:
        code = group.finding_type
        label = group.tracking_identifier.split(",")[0]
        codes.setdefault(label, set()).add((code.value, code.scheme_designator))
    assert codes.keys() == set(LABELS) and all(len(found) == 1 for found in codes.values())
    assert len(set.union(*codes.values())) == len(LABELS)
    assert {scheme for found in codes.values() for _, scheme in found} == {"SCT"}
    assert codes["epidural"] == {("82999001", "SCT")}


def check_by_validator(path):
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy is not installed: apt-get install dicom3tools")
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert "ComprehensiveSR" in lines
    assert [line for line in lines if line.startswith("Error")] == []


def test_a_validator_accepts_it(tmp_path):
    written(tmp_path)
    check_by_validator(tmp_path / "sr/study-1.dcm")


def test_only_its_owner_may_read_it(tmp_path):
    _, _, log = written(tmp_path)
    assert (tmp_path / "sr").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "sr/study-1.dcm").stat().st_mode & 0o777 == 0o600
    assert "1 structured report in" in log and "names and identifiers" in log
    assert not any(value in log for value in ("4711", "ller", ROOT_UID))


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"StudyInstanceUID": "ID_000000000c"}, "StudyInstanceUID is no UID"),
        ({"SOPClassUID": ""}, "a slice lacks SOPClassUID"),
    ],
)
def test_a_study_that_cannot_be_referenced_has_none(tmp_path, tags, reason):
    report, _, log = written(tmp_path, **tags)
    assert report is None and f"study-1: no structured report: {reason}" in log
    assert "0 structured reports" in log and "ID_000000000c" not in log
    assert "names and identifiers" not in log  # of no report


def test_frames_of_enhanced_ct_are_referenced_by_number(tmp_path):
    """PS3.3 section C.18.4: an image reference may name frames; the object is listed once."""
    studies, slices, acquisition, slab_of = tables(tmp_path / "classic", slices=4)
    parts = [pydicom.dcmread(path) for path in sorted((tmp_path / "classic").iterdir())]
    whole, log = enhanced(parts), []
    (tmp_path / "data").mkdir()
    whole.save_as(tmp_path / "data/head.dcm", enforce_file_format=True)
    frames = acquisition.assign(path=[f"head.dcm#{i}" for i in range(1, 5)])
    source = Folder(tmp_path / "data")
    made = (studies, slices, frames, slab_of)
    write_structured_reports(tmp_path / "sr", source, made, "micro", log.append)
    report = pydicom.dcmread(tmp_path / "sr/study-1.dcm")
    assert values(report)["any, slice 1"] == (slices["any"].max(), whole.SOPInstanceUID)
    for group in sr.ComprehensiveSR.from_dataset(report).content.get_image_measurement_groups():
        label, level = group.tracking_identifier.split(", ")
        if level != "study":
            (image,) = group.get_measurements()[0].referenced_images
            largest = slices[label].argsort()[::-1].tolist()[int(level[-1]) - 1]
            assert image.referenced_frame_numbers == [largest + 1]
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    (item,) = series.ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == whole.SOPInstanceUID
    check_by_validator(tmp_path / "sr/study-1.dcm")


def test_the_most_suspicious_slices_of_a_thin_series_are_of_different_slabs(tmp_path):
    studies, slices, paths, _ = tables(tmp_path / "data", slices=8)
    names = list(slices.index)
    slab_of = pd.Series([names[1]] * 3 + [names[4]] * 3, names[:6])  # two more are no slabs
    slices.loc[slab_of.index, list(LABELS)] = slices.loc[slab_of, list(LABELS)].to_numpy()
    made, source = (studies, slices, paths, slab_of), Folder(tmp_path / "data")
    write_structured_reports(tmp_path / "sr", source, made, "micro", print)
    report = pydicom.dcmread(tmp_path / "sr/study-1.dcm")
    single = slices.loc[[names[1], names[4], *names[6:]]]
    for label in LABELS:
        expected = single[label].nlargest(3)
        for level, (name, value) in enumerate(expected.items(), 1):
            found = values(report)[f"{label}, slice {level}"]
            assert found == (value, f"{ROOT_UID}.3.{names.index(name)}")
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    assert len(study.ReferencedSeriesSequence[0].ReferencedSOPSequence) == 8


def test_nifti_has_no_study_to_belong_to(tmp_path):
    studies, slices, acquisition, slab_of = tables(tmp_path / "data")
    log = []
    made = (studies, slices, acquisition.assign(dicom=False), slab_of)
    write_structured_reports(tmp_path / "sr", Folder(tmp_path / "data"), made, "micro", log.append)
    assert "study-1: no structured report: NIfTI has no DICOM study" in log[0]
    assert list((tmp_path / "sr").iterdir()) == []


def test_odd_values_of_the_original_are_copied_as_they_are(tmp_path):
    odd = {"PatientSex": "MALE", "PatientBirthDate": "1961", "StudyTime": "25"}
    report, *_ = written(tmp_path, **odd)
    with disable_value_validation():
        assert {keyword: str(report[keyword].value) for keyword in odd} == odd


def test_without_patient_values_they_are_empty(tmp_path):
    report, *_ = written(tmp_path, PatientName=None, AccessionNumber=None, StudyTime=None)
    assert not report.PatientName and not report.AccessionNumber and not report.StudyTime


def test_the_json_has_what_the_tables_have(tmp_path):
    studies, slices, *_ = tables(tmp_path / "data")
    refused = pd.DataFrame([dict.fromkeys(LABELS, np.nan) | {"status": "refused"}], ["study-2"])
    remark = {"study_id": "study-2", "series_id": "", "refuses": True, "what": "a", "means": "b"}
    path = tmp_path / "studies.json"
    write_studies_json(path, pd.concat([studies, refused]), slices, pd.DataFrame([remark]))
    held = json.loads(path.read_text())
    one, two = held["studies"]
    assert held["format"] == "ich-stack studies 1" and held["labels"] == list(LABELS)
    assert one["probabilities"] == studies.loc["study-1", list(LABELS)].to_dict()
    assert [entry["slice_id"] for entry in one["slices"]] == list(slices.index)
    assert [entry["probabilities"] for entry in one["slices"]] == slices[list(LABELS)].to_dict(
        "records"
    )
    assert set(two["probabilities"].values()) == {None} and two["slices"] == []
    assert two["remarks"] == [{"series_id": None, "refuses": True, "what": "a", "means": "b"}]


def test_without_highdicom_one_line_names_the_remedy(older_version, tmp_path, monkeypatch, capsys):
    real_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("highdicom"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="highdicom")
        return real_import(name, *args, **kwargs)

    (tmp_path / "data").mkdir()
    monkeypatch.setattr(builtins, "__import__", without)
    words = [f"--data={tmp_path / 'data'}", f"--to={tmp_path / 'out'}"]
    assert run.main(["score", *words, f"--model={older_version / 'model'}", "--dicom-sr"]) == 1
    assert capsys.readouterr().err == (
        "error: --dicom-sr needs highdicom, which is not installed: pip install -e '.[dicom-sr]'\n"
    )
    assert not (tmp_path / "out").exists()
