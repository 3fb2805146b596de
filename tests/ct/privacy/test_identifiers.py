"""Identifiers that a run keeps: the competition's, of exact length; older runs keep their rule."""

import shutil

import pandas as pd
import pydicom
import pytest
from pydicom.config import disable_value_validation

import run
from ct.labels import KAGGLE_ORDER
from ct.privacy.pseudonyms import EXACT_LENGTHS, LegacyKey
from ct.storage.file_formats import read_json, read_table, write_json
from pipeline.run_context import Run
from pipeline.scoring.study_reader import public_names

ODD = {
    "StudyInstanceUID": "ID_abc",
    "SeriesInstanceUID": "ID_0123456789a",
    "PatientID": "ID_19610203"[:-1],
}
SLICE = "ID_de"


@pytest.fixture
def data(competition, tmp_path):
    """A competition in which the identifiers of one study are too short or too long."""
    folder = shutil.copytree(competition, tmp_path / "data")
    with disable_value_validation():
        sets = {
            path: pydicom.dcmread(path) for path in sorted((folder / "stage_2_train").glob("*.dcm"))
        }
        study = max(str(each.StudyInstanceUID) for each in sets.values())
        renamed = None
        for path, each in sets.items():
            if str(each.StudyInstanceUID) == study:
                each.update(ODD)
                if renamed is None:
                    renamed, each.SOPInstanceUID = str(each.SOPInstanceUID), SLICE
                each.save_as(path)
    labels = folder / "stage_2_train.csv"
    labels.write_text(labels.read_text().replace(f"{renamed}_", f"{SLICE}_"))
    return folder


def ingested(folder, data, prepare=None):
    assert run.main(["new", f"--run={folder}", "--recipe=micro", f"--data={data}"]) == 0
    if prepare:
        prepare(folder)
    assert run.main(["ingest", f"--run={folder}", "--workers=1"]) == 0
    return read_table(folder / "slices.parquet").reset_index()


def names(slices):
    return {
        value
        for column in ("slice_id", "patient_id", "study_id", "series_id")
        for value in slices[column]
    }


def test_only_the_exact_lengths_are_kept(data, tmp_path):
    slices = ingested(tmp_path / "r", data)
    assert not names(slices) & {*ODD.values(), SLICE}
    digits = {"slice_id": 9, "patient_id": 8, "study_id": 10, "series_id": 10}
    for column, count in digits.items():
        assert slices[column].str.fullmatch(rf"ID_[0-9a-f]{{{count}}}|[0-9a-f]{{12}}").all(), column
        assert slices[column].str.startswith("ID_").any()
        assert not slices[column].str.startswith("ID_").all()
    # its labels are joined to it
    assert slices.loc[~slices["slice_id"].str.startswith("ID_"), "any"].notna().all()
    assert read_json(tmp_path / "r" / "ingest.json")["identifiers"] == EXACT_LENGTHS
    assert not isinstance(Run(tmp_path / "r").pseudonym_key(), LegacyKey)
    again = (tmp_path / "r" / "slices.parquet").read_bytes()
    (tmp_path / "r" / "receipts" / "ingest.json").unlink()
    assert run.main(["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]) == 0
    assert (tmp_path / "r" / "slices.parquet").read_bytes() == again


@pytest.mark.parametrize("left", ["ingest.json", "ingest.part/inputs.json"])
def test_a_run_keeps_the_rule_it_was_ingested_under(data, tmp_path, left):
    """Files of an older ingest, finished or interrupted, hold no rule: its names stay."""
    slices = ingested(
        tmp_path / "r", data, lambda folder: write_json(folder / left, {"train_slices": 35})
    )
    assert {*ODD.values(), SLICE} <= names(slices)
    assert "identifiers" not in read_json(tmp_path / "r" / "ingest.json")
    assert isinstance(Run(tmp_path / "r").pseudonym_key(), LegacyKey)


def test_scored_studies_follow_the_rule():
    table = pd.DataFrame(
        {"patient_id": ["ID_1234abcd", "ID_1234abc"], "study_id": ["ID_0123456789", "ID_012345678"]}
    )
    table = table.assign(
        series_id=table["study_id"], slice_id=["ID_012345678", "ID_0123456789"]
    ).set_index("slice_id")
    public = public_names(table, b"k").reset_index()
    assert public["patient_id"].tolist() == ["ID_1234abcd", "patient-1"]
    assert public["study_id"].tolist() == ["ID_0123456789", "study-1"]
    assert public["series_id"][1] == "series-1"
    assert public["slice_id"].tolist() == ["ID_012345678", "slice-1"]
    of_older_run = public_names(table, LegacyKey(b"k"))
    pd.testing.assert_frame_equal(of_older_run, table, check_dtype=False)


def test_a_sample_and_predictions_of_odd_names_find_their_slices(data, tmp_path):
    slices = ingested(tmp_path / "r", data).set_index("slice_id")
    assert run.main(["folds", f"--run={tmp_path / 'r'}"]) == 0
    train = (
        pd.read_csv(data / "stage_2_train.csv", dtype=str)["ID"]
        .str.rsplit("_", n=1)
        .str[0]
        .unique()
    )
    with disable_value_validation():
        on_disk = {
            str(pydicom.dcmread(path).SOPInstanceUID)
            for path in (data / "stage_2_train").glob("*.dcm")
        }
    rows = [
        f"{name}_{label},0.{10 + len(name)}"
        for name in train
        if name in on_disk
        for label in KAGGLE_ORDER
    ]
    (tmp_path / "oof.csv").write_text("\n".join(["ID,Label", *rows]) + "\n")
    words = [
        "import-predictions",
        f"--run={tmp_path / 'r'}",
        "--name=other",
        f"--oof={tmp_path / 'oof.csv'}",
    ]
    assert run.main(words) == 0
    oof = read_table(tmp_path / "r" / "imports" / "other" / "oof.parquet")
    assert oof.notna().all(axis=None) and len(oof) == (slices["split"] == "train").sum()
