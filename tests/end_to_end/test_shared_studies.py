"""Study UIDs shared by several PatientIDs: ingest, folds, training, imports, search, score."""

import json
import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest
import yaml
from conftest import ROOT, error_line
from pydicom.config import disable_value_validation
from test_import_predictions import COLUMNS, TABLE, TRAIN, guesses, make

import run
from ct.patient_folds import assign_folds, fold_groups
from ct.storage.file_formats import read_json, read_table
from ct.tables.spreadsheet import read_sheet
from features.linear_probe import LinearProbe, held_out_probe_logits
from pipeline.optuna_studies.inner_split import inner_split
from pipeline.run_context import Run
from pipeline.scoring.study_findings import shared_uid_findings
from pipeline.scoring.study_reader import NO_PART, training_folds
from pipeline.stage_data.patient_parts import parts_by_patient, patient_parts
from pipeline.stage_data.run_tables import patients_of_folds
from pipeline.stage_data.slice_selection import take_patients
from stage1_cnn.batches.dataset import neighbour_rows


def rewrite(folder, change):
    """Change tags of DICOM files in place: change(dataset, number), number by z within a study."""
    seen = {}
    with disable_value_validation():
        sets = {path: pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))}
        for path in sorted(sets, key=lambda path: float(sets[path].ImagePositionPatient[2])):
            study = str(sets[path].StudyInstanceUID)
            seen[study] = seen.get(study, -1) + 1
            change(sets[path], study, seen[study])
            sets[path].save_as(path)
    return sorted(seen)


def shared_studies_list(table=TABLE, studies=5):
    """The slice list with another PatientID on the upper half of some studies."""
    upper = table["StudyInstanceUID"].isin([f"1.2.841.{n}" for n in range(studies)]) & (
        np.arange(len(table)) % 6 > 2
    )
    return table.assign(PatientID=table["PatientID"].mask(upper, table["PatientID"] + "-again"))


def test_a_patient_id_that_changes_within_a_study(competition, tmp_path, capsys):
    """Neighbours never cross from one PatientID to the other; both are in one fold everywhere."""
    data, changed = shutil.copytree(competition, tmp_path / "data"), {}

    def change(dataset, study, number):
        if number > 2 and not changed.setdefault(study, len(changed) % 2):
            dataset.PatientID = f"DOE {study}"

    rewrite(data / "stage_2_train", change)
    recipe = yaml.safe_load((ROOT / "recipes" / "micro.yaml").read_text())
    recipe["stage1"]["models"][0]["neighbours"] = 1
    (tmp_path / "micro.yaml").write_text(yaml.safe_dump(recipe))
    assert (
        run.main(
            [
                "new",
                f"--run={tmp_path / 'r'}",
                f"--recipe={tmp_path / 'micro.yaml'}",
                f"--data={data}",
            ]
        )
        == 0
    )
    for verb in ("ingest", "folds", "train"):
        assert (
            run.main([verb, f"--run={tmp_path / 'r'}", *["--workers=1"] * (verb == "ingest")]) == 0
        )
    joined = sum(not kept for kept in changed.values())
    assert f"{joined} studies with several PatientIDs" in capsys.readouterr().out
    assert read_json(tmp_path / "r" / "ingest.json")["studies_joined"] == joined > 1
    slices = read_table(tmp_path / "r" / "slices.parquet")
    assert slices.groupby("study_id")["patient_id"].nunique().eq(2).sum() == joined
    assert slices.groupby("series_id")["patient_id"].nunique().max() == 1
    patient = slices["patient_id"].to_numpy(object)
    rows = neighbour_rows(slices, 1)
    assert (patient[rows] == patient[:, None]).all() and (
        rows != np.arange(len(rows))[:, None]
    ).any()
    fold = read_table(tmp_path / "r" / "folds.parquet")["fold"]
    assert fold.groupby(slices["study_id"]).nunique().max() == 1
    for k in (0, 1):
        held = read_table(tmp_path / "r" / f"stage1/resnet/fold{k}/held_out.parquet").index
        assert not set(slices.loc[held, "study_id"]) & set(
            slices["study_id"][(fold == 1 - k) & (slices["split"] == "train")]
        )


def test_one_uid_for_all_of_train(competition, tmp_path, capsys):
    """Many people under one study and series UID: a study, series and group each."""
    data, first, lowest = shutil.copytree(competition, tmp_path / "data"), {}, {}

    def change(dataset, study, number):
        low = lowest.setdefault(study, dataset.ImagePositionPatient[2])
        # heads at one height
        dataset.ImagePositionPatient[2] = round(float(dataset.ImagePositionPatient[2] - low), 3)
        if (
            first.setdefault(dataset.PatientID, study) == study
        ):  # a patient who came back has another study
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"

    rewrite(data / "stage_2_train", change)
    assert run.main(["new", f"--run={tmp_path / 'r'}", "--recipe=micro", f"--data={data}"]) == 0
    assert run.main(["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]) == 0
    slices = read_table(tmp_path / "r" / "slices.parquet")
    train = slices[slices["split"] == "train"]
    people = train["patient_id"].nunique()
    assert people == len(first) > 3 and len(set(fold_groups(train))) == people
    assert train["study_id"].nunique() == train["series_id"].nunique() == 7  # as there were
    assert (
        f"1 study UID of several patients split, into {people} studies of one patient each"
        in capsys.readouterr().out
    )
    assert run.main(["folds", f"--run={tmp_path / 'r'}"]) == 0


def test_an_unclear_study_is_refused_by_pseudonym(competition, tmp_path, capsys):
    data = shutil.copytree(competition, tmp_path / "data")
    changed = []

    def change(dataset, study, number):
        if number == 4 and not changed:
            changed.append(study)
            dataset.PatientID = "DOE^JANE"
            dataset.ImagePositionPatient[2] += 90

    rewrite(data / "stage_2_train", change)
    assert run.main(["new", f"--run={tmp_path / 'r'}", "--recipe=micro", f"--data={data}"]) == 0
    assert run.main(["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]) == 1
    line = error_line(capsys)
    assert (
        f"study {changed[0]} holds slices of 2 patients" in line
        and "give each person a StudyInstanceUID" in line
    )
    note = tmp_path / "r" / "ingest.part" / "quarantine.csv"
    assert (
        "DOE" not in line
        and f"{note} names its files" in line
        and note.stat().st_mode & 0o777 == 0o600
    )
    files = read_sheet(note)
    with disable_value_validation():  # the competition's ids are no valid UIDs
        uids = {
            path: pydicom.dcmread(path).StudyInstanceUID
            for path in data.glob("stage_2_train/*.dcm")
        }
    paths = [path for path, uid in uids.items() if uid == changed[0]]
    assert sorted(files["path"]) == sorted(path.relative_to(data).as_posix() for path in paths)
    assert set(files["split"]) == {"train"} and files["reason"].nunique() == 2
    assert not files["reason"].str.contains("DOE").any()
    shutil.rmtree(data)
    shutil.copytree(competition, data)
    assert run.main(["ingest", f"--run={tmp_path / 'r'}", "--workers=1"]) == 0 and not note.exists()


def test_listed_folds_that_split_a_study_are_refused(tmp_path, capsys):
    table = shared_studies_list()
    number = table["PatientID"].str.extract(r"(\d+)")[0].astype(int)
    root = make(tmp_path / "a", table.assign(fold=np.where(table["any"] == "", "", number % 3)))
    assert run.main(["ingest", f"--run={root}"]) == 0 and run.main(["folds", f"--run={root}"]) == 0
    assert "5 studies with several PatientIDs" in capsys.readouterr().out
    odd = (number + table["PatientID"].str.endswith("again")) % 3
    root = make(tmp_path / "b", table.assign(fold=np.where(table["any"] == "", "", odd)))
    assert run.main(["ingest", f"--run={root}"]) == 1
    line = error_line(capsys)
    assert (
        "study " in line
        and "is in two folds" in line
        and "patients who share a study belong together" in line
    )


def test_imported_folds_keep_groups(tmp_path, capsys):
    table = shared_studies_list()
    root = make(tmp_path, table)
    assert run.main(["ingest", f"--run={root}"]) == 0
    number = TRAIN["PatientID"].str[4:].astype(int)
    for name, fold, code in (
        ("split", np.arange(len(TRAIN)) // 3 % 3, 1),
        ("whole", number % 3, 0),
    ):
        # seed 6: losses of the folds are alike, far from the alarm for in-sample predictions
        guesses(TRAIN, 6).assign(fold=np.asarray(fold)).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
        words = [
            "import-predictions",
            f"--run={root}",
            f"--name={name}",
            f"--oof={tmp_path / f'{name}.csv'}",
        ]
        assert run.main(words) == code
    assert "is in two folds" in error_line(capsys)
    slices, fold = (
        read_table(root / "slices.parquet"),
        read_table(root / "imports" / "folds.parquet")["fold"],
    )
    assert fold.groupby(slices["study_id"]).nunique().max() == 1
    assert run.main(["folds", f"--run={root}"]) == 0
    assert (read_table(root / "folds.parquet")["fold"].reindex(fold.index) == fold).all()


@pytest.fixture(scope="module")
def shared_studies_run(tmp_path_factory):
    """A run of a slice list with five studies of two PatientIDs, and folds."""
    root = make(tmp_path_factory.mktemp("shared"), shared_studies_list())
    assert run.main(["ingest", f"--run={root}"]) == 0 and run.main(["folds", f"--run={root}"]) == 0
    return root


def test_groups_are_whole_in_search_and_where_a_part_of_train_is_taken(shared_studies_run):
    slices, fold = (
        read_table(shared_studies_run / "slices.parquet"),
        read_table(shared_studies_run / "folds.parquet")["fold"].to_numpy(),
    )
    groups = fold_groups(slices)
    assert len(set(slices["patient_id"])) - len(set(groups)) == 5
    for seed in range(5):
        learn, held = inner_split(slices, fold, 0, seed)
        assert len(held) and not set(groups[learn]) & set(groups[held])
    for limit in range(6, 60, 6):
        kept, counts = take_patients(slices, limit)
        kept = kept[kept["split"] == "train"]
        whole = pd.Series(groups, index=slices.index)[slices["split"] == "train"]
        assert len(kept) == whole.isin(whole[kept.index]).sum() <= limit
        assert (
            counts["patients_not_taken"]
            == slices.loc[slices["split"] == "train", "patient_id"].nunique()
            - kept["patient_id"].nunique()
        )


def test_probes_and_bootstraps_count_a_group_as_one(shared_studies_run):
    slices, fold = (
        read_table(shared_studies_run / "slices.parquet"),
        read_table(shared_studies_run / "folds.parquet")["fold"],
    )
    train = slices[slices["split"] == "train"]
    groups = pd.Series(patients_of_folds(Run(shared_studies_run).dir, slices), slices.index)
    assert (
        groups.nunique() < slices["patient_id"].nunique() and (groups == fold_groups(slices)).all()
    )
    parts = patient_parts(groups[train.index], fold[train.index].to_numpy())
    table = parts_by_patient(parts, train["patient_id"], groups[train.index])
    assert set(table.index) == set(train["patient_id"])
    of_slice = train["patient_id"].map(table["part"])
    assert of_slice.groupby(train["study_id"]).nunique().max() == 1


def test_split_folds_of_an_older_run_count_patients(shared_studies_run, tmp_path):
    """Folds that put a study of two PatientIDs in two folds: their models are fitted as before."""
    root = shutil.copytree(shared_studies_run, tmp_path / "r")
    slices, fold = read_table(root / "slices.parquet"), read_table(root / "folds.parquet")
    apart = slices.drop(columns=["study_id", "series_id"])
    fold.assign(fold=assign_folds(apart, 3, 0)).to_parquet(root / "folds.parquet")
    assert (patients_of_folds(Run(root).dir, slices) == slices["patient_id"]).all()


def test_score_has_a_row_for_each_person(finished, competition, tmp_path, capsys):
    data = shutil.copytree(competition / "stage_2_test", tmp_path / "data")
    shutil.copytree(data, data / "other")

    def change(dataset, study, number):
        dataset.PatientID, dataset.SOPInstanceUID = "DOE^JANE", f"1.2.{number}"

    rewrite(data / "other", change)
    words = [f"--run={finished}", "--workers=1"]
    assert run.main(["score", f"--data={data}", f"--to={tmp_path / 'out'}", *words]) == 0
    studies, slices = (
        read_table(tmp_path / "out" / f"{name}.parquet") for name in ("studies", "slices")
    )
    assert (
        len(studies) == 2 and studies["status"].eq("scored").all() and studies["slices"].eq(5).all()
    )
    assert studies["remarks"].str.contains("is also on slices of other PatientIDs").all()
    assert "count as different people" in capsys.readouterr().out
    assert [sorted(places) for _, places in slices.groupby("study_id")["place"]] == [
        [0, 1, 2, 3, 4]
    ] * 2
    alone = tmp_path / "alone"
    shutil.move(data / "other", alone)
    assert run.main(["score", f"--data={alone}", f"--to={tmp_path / 'alone-out'}", *words]) == 0
    own = read_table(tmp_path / "alone-out" / "slices.parquet")
    other = slices[slices["study_id"] == studies.index[studies["patient_id"] == "patient-1"][0]]
    np.testing.assert_allclose(other[COLUMNS], own[COLUMNS], atol=1e-6)


def test_scored_patients_of_one_study_share_a_fold():
    """With training patients in two folds, every fold's models were trained on one of them."""
    table = pd.DataFrame(
        {"patient_id": ["A", "B", "C", "D", "E"], "study_id": ["S", "S", "T", "T", "U"]},
        index=list("abcde"),
    )
    known = pd.DataFrame({"fold": [1, 0, 2], "part": [3, 4, 0]}, index=["B", "C", "D"])
    folds = pd.DataFrame(training_folds(table, known))
    assert folds.loc[["a", "b", "e"], "fold"].tolist() == [1, 1, -1]
    assert folds.loc[["a", "b", "e"], "part"].tolist() == [3, 3, -1]
    assert folds["two_folds"].tolist() == [False, False, True, True, False]
    assert (pd.DataFrame(training_folds(table, None))["fold"] == -1).all()
    slices = table.assign(
        series_id=list("12345"), people=["one person"] * 4 + [""], **training_folds(table, known)
    )
    findings = shared_uid_findings(slices)
    assert {finding.study_id for finding in findings if finding.refuses} == {"T"}
    assert [
        finding.study_id for finding in findings if "make one series together" in finding.what
    ] == ["S", "T"]


def test_scored_patients_of_one_study_and_several_parts_get_no_probe():
    """The probe without one patient's part was fitted on the labels of the other patient."""
    table = pd.DataFrame(
        {"patient_id": ["A", "B", "C"], "study_id": ["S", "S", "U"]}, index=list("abc")
    )
    known = pd.DataFrame({"fold": [1, 1, 1], "part": [0, 3, 2]}, index=["A", "B", "C"])
    columns = training_folds(table, known)
    assert columns["fold"].tolist() == [1, 1, 1] and columns["part"].tolist() == [
        NO_PART,
        NO_PART,
        2,
    ]
    probe = LinearProbe(
        np.zeros(2, np.float32), np.ones((2, 6), np.float32), np.zeros(6, np.float32)
    )
    logits = held_out_probe_logits(
        probe, [probe] * 5, np.ones((3, 2), np.float32), columns["part"].to_numpy()
    )
    assert np.isnan(logits[:2]).all() and (logits[2] == 2).all()


def test_score_refuses_an_unclear_study_and_continues(finished, competition, tmp_path, capsys):
    data = shutil.copytree(competition / "stage_2_test", tmp_path / "data")
    shutil.copytree(data, tmp_path / "both" / "good")
    bad = data.rename(tmp_path / "both" / "bad")

    def change(dataset, study, number):
        dataset.PatientID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = (
            f"DOE^{number // 2}",
            "1.2",
            "1.3",
        )
        dataset.SOPInstanceUID = f"1.2.{number}"
        dataset.ImagePositionPatient[2] = 3.0 * number**2

    rewrite(bad, change)
    words = ["score", f"--data={tmp_path / 'both'}", f"--run={finished}", "--workers=1"]
    assert run.main([*words, f"--to={tmp_path / 'out'}"]) == 0
    studies = read_table(tmp_path / "out" / "studies.parquet")
    assert sorted(studies["status"]) == ["refused", "scored"]
    assert (
        "neither separate series nor one series together"
        in studies["remarks"][studies["status"] == "refused"].iloc[0]
    )
    assert json.loads((tmp_path / "out" / "score.json").read_text())["slices"] == 5
    assert "the number of people is unknown" in capsys.readouterr().out
