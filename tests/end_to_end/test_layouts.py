"""Data as people hold them: each layout by its one command of docs/own-studies.md."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from several_series import Head
from twins import read_study, save_nifti

import run
from ct.labels import LABELS, SUBTYPES
from ct.storage.file_formats import read_json, read_table

PAGE = Path(__file__).parents[2] / "docs" / "own-studies.md"
BOXES = "3_Extrapolation_to_Selected_Series.csv"
DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.88.67"
STUDIES = 4


def commands():
    """{data, before a colon: command} of the page's table of layouts."""
    rows = re.findall(r"^\| ([^|]+) \| `run\.py ([^|`]+)` \|$", PAGE.read_text(), re.M)
    return {
        re.split(r"[,: ]+(?=nested|three|boxes|NIfTI)|: ", what)[0]: line for what, line in rows
    }


def make_export(train, folder):
    """An archive's export: a head with series that are not to be read, and objects of no image."""
    head = Head(train)
    chosen = head.write_thick(folder / "DOE_JANE" / "2026" / "s1")
    head.write_others(folder / "DOE_JANE" / "2026")
    for path in (folder / "DOE_JANE").rglob("*.dcm"):
        path.rename(path.with_suffix(""))
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID, report.Modality = DOSE_REPORT, "1.2.9", "SR"
    report.PatientName, report.StudyInstanceUID, report.SeriesInstanceUID = "DOE^JANE", "1.2", "1.3"
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.save_as(folder / "DOE_JANE" / "dose", enforce_file_format=True)
    (folder / "viewer.exe").write_bytes(b"MZ")
    (folder / "empty").mkdir()
    return chosen


def make_cq500(train, folder):
    """CQ500, and the boxes of BHX beside it. Returns the slice UIDs of the series with boxes."""
    rows, uids = [], []
    for number in range(STUDIES):
        study = folder / f"CQ500CT{number} CQ500CT{number}" / "Unknown Study"
        head = Head(train, number, patient=f"CQ500-CT-{number}")
        head.write(study / "CT 4cc sec 150cc D3D on", noise=40, ConvolutionKernel="BONE")
        series = head.write(study / "CT Plain", ConvolutionKernel="STANDARD")
        if number < 2:
            paths = sorted((study / "CT Plain").iterdir())
            uids.append([str(pydicom.dcmread(path).SOPInstanceUID) for path in paths])
            rows.append((uids[-1][number], series, "Epidural"))
    rows.append((uids[0][2], rows[0][1], "Chronic"))
    boxes = pd.DataFrame(rows, columns=["SOPInstanceUID", "SeriesInstanceUID", "labelName"])
    boxes = boxes.assign(data="{'x': 1, 'y': 2, 'width': 3, 'height': 4}", labelType="MANUAL")
    boxes.to_csv(folder.parent / BOXES)
    reads = pd.DataFrame({"name": [f"CQ500-CT-{n}" for n in range(STUDIES)], "Category": "B1"})
    for reader in (1, 2, 3):
        for name in ("ICH", "IPH", "IVH", "SDH", "EDH", "SAH"):
            bleed = name in ("ICH", "SDH") and reader < 3  # two of three readers
            reads[f"R{reader}:{name}"] = [int(bleed and n % 2) for n in range(STUDIES)]
    reads.to_csv(folder / "reads.csv", index=False)
    return uids


def make_ct_ich(train, folder):
    """ct-ich: volumes, their masks, and a row a slice."""
    studies, rows = {}, []
    for path in sorted(train.glob("*.dcm")):
        study = pydicom.dcmread(path, specific_tags=["StudyInstanceUID"]).StudyInstanceUID
        studies.setdefault(study, []).append(path)
    for number, paths in enumerate(list(studies.values())[:STUDIES], 49):
        slices = read_study(paths)
        save_nifti(folder / "ct_scans" / f"{number:03d}.nii", slices)
        save_nifti(folder / "masks" / f"{number:03d}.nii", slices)
        for place in range(1, len(slices) + 1):
            bleed = int(number % 2 and place == 2)
            rows.append([number, place, 0, 0, 0, bleed, 0, 1 - bleed, ""])
    names = ["Intraventricular", "Intraparenchymal", "Subarachnoid", "Epidural", "Subdural"]
    columns = ["PatientNumber", "SliceNumber", *names, "No_Hemorrhage", "Fracture_Yes_No"]
    pd.DataFrame(rows, columns=columns).to_csv(
        folder / "hemorrhage_diagnosis_raw_ct.csv", index=False
    )
    return [bool(row[-2] == 0) for row in rows]


def call(line, *more):
    assert run.main([*line.replace("capstone", "micro").split(), *more]) == 0, line


def slice_table(line):
    """The slice table of the run that a command of `new` makes."""
    call(line)
    folder = re.search(r"--run=(\S+)", line)[1]
    call(f"ingest --run={folder}", "--workers=1")
    return read_table(Path(folder) / "slices.parquet")


@pytest.mark.slow
def test_each_layout_by_its_command(competition, older_version, tmp_path, monkeypatch, capsys):
    pytest.importorskip("nibabel", reason="nibabel is not installed: pip install -e '.[nifti]'")
    monkeypatch.chdir(tmp_path)
    train, lines = competition / "stage_2_train", commands()
    shutil.copytree(competition, "rsna")
    shutil.make_archive("rsna", "zip", "rsna")
    shutil.copytree(older_version / "model", "our-model")
    chosen = make_export(train, Path("export"))
    boxed = make_cq500(train, Path("CQ500"))
    bleeds = make_ct_ich(train, Path("ct-ich"))
    assert len(lines) == 6

    folder, archive = (slice_table(lines[name]) for name in ("Kaggle's folder", "Kaggle's zip"))
    pd.testing.assert_frame_equal(folder, archive)
    assert set(folder["split"]) == {"train", "test"}

    call(lines["an archive's export"])
    studies = read_table(Path("scores/studies.parquet"))
    assert studies["status"].tolist() == ["scored"]
    series = pd.read_csv("scores/series.csv")
    assert (series["status"] == "read").sum() == 1 and len(series) >= 3
    names = pd.read_csv("scores/names.csv").merge(series[["series_id", "status"]])
    read = [Path("export") / path for path in names.loc[names["status"] == "read", "path"]]
    assert {pydicom.dcmread(path).SeriesInstanceUID for path in read} == {chosen}

    call(lines["CQ500"])
    figures = read_json(Path("cq500-figures/evaluation.json"))
    assert set(figures) >= {"studies"} and "slices" not in figures
    positives = {label: figures["studies"]["labels"][label]["positives"] for label in LABELS}
    expected = {label: STUDIES // 2 * (label in ("any", "subdural")) for label in LABELS}
    assert figures["studies"]["rows"] == STUDIES and positives == expected

    bhx = slice_table(lines["BHX"])
    assert (bhx["split"] == "train").all()
    labelled = bhx[bhx["any"].notna()]
    assert len(labelled) == sum(map(len, boxed)) - 1  # but for the chronic bleed
    assert labelled[list(SUBTYPES)].sum().to_dict() == dict.fromkeys(SUBTYPES, 0) | {"epidural": 2}

    ct_ich = slice_table(lines["PhysioNet ct-ich"])
    assert len(ct_ich) == len(bleeds) and ct_ich["study_id"].nunique() == STUDIES
    assert ct_ich["epidural"].sum() == ct_ich["any"].sum() == sum(bleeds)
    assert "DOE" not in capsys.readouterr().out
