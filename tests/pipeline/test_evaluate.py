"""`evaluate`: a run, a packed model and a table of predictions on labels."""

import json
import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest
from conftest import error_line
from pydicom.config import disable_value_validation
from sklearn.metrics import log_loss, roc_auc_score

import run
from ct.errors import number_of
from ct.labels import LABELS
from ct.storage.file_formats import read_json, read_table
from pipeline.evaluation.predicted_data import evaluate_predictions

COLUMNS = list(LABELS)
FILES = {
    "calibration.csv",
    "evaluation.json",
    "groups.csv",
    "labels.csv",
    "operating_points.csv",
    "page.html",
    "remarks.csv",
    "training_ranges.csv",
}


def evaluate(to, **flags):
    words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    return run.main(["evaluate", f"--to={to}", *words])


@pytest.fixture(scope="module")
def new_studies(competition, tmp_path_factory):
    """The train studies as studies of new patients, and a wide table of their labels."""
    folder = tmp_path_factory.mktemp("new") / "data"
    folder.mkdir()
    patients = {}
    for path in sorted((competition / "stage_2_train").glob("*.dcm")):
        with disable_value_validation():
            dataset = pydicom.dcmread(path)
            number = patients.setdefault(dataset.PatientID, len(patients))
            dataset.PatientID = f"DOE {number}"
            dataset.Manufacturer = "SIEMENS" if number % 2 else "Dr DOE"
            dataset.save_as(folder / path.name)
    from ct.labels import read_labels

    labels, _ = read_labels(competition / "stage_2_train.csv")
    labels.rename_axis("SOPInstanceUID").to_csv(folder.parent / "labels.csv")
    return folder, folder.parent / "labels.csv"


@pytest.fixture(scope="module")
def by_model(older_version, new_studies, tmp_path_factory):
    """What a packed model's evaluation and score write for the same studies."""
    data, labels = new_studies
    folder = tmp_path_factory.mktemp("evaluated")
    model = older_version / "model"
    assert evaluate(folder / "out", model=model, data=data, labels=labels) == 0
    words = [f"--data={data}", f"--model={model}", f"--to={folder / 'scored'}"]
    assert run.main(["score", *words]) == 0
    return folder


def test_the_figures_equal_scikit_learns_on_what_score_predicts(by_model, new_studies):
    values = read_json(by_model / "out" / "evaluation.json")
    truth = pd.read_csv(new_studies[1], index_col=0)
    slices = read_table(by_model / "scored" / "slices.parquet")
    studies = read_table(by_model / "scored" / "studies.parquet")
    truth = truth.loc[slices.index]
    of_study = truth.groupby(slices["study_id"]).max()
    for level, y, p in (
        ("slices", truth, slices),
        ("studies", of_study, studies.loc[of_study.index]),
    ):
        assert values[level]["rows"] == len(y)
        sheet = pd.read_csv(by_model / "out" / "labels.csv").set_index(["level", "label"])
        for label in LABELS:
            figures = values[level]["labels"][label]
            loss = log_loss(y[label], p[label], labels=[0, 1])
            assert figures["log_loss"]["value"] == pytest.approx(loss, abs=1e-6)
            assert figures["positives"] == y[label].sum()
            assert sheet.loc[(level, label), "log_loss"] == pytest.approx(loss, abs=1e-6)
            if 0 < y[label].sum() < len(y):
                area = roc_auc_score(y[label], p[label])
                # in other batches, two nearly equal probabilities may change their order
                assert figures["auc"]["value"] == pytest.approx(area, abs=0.05)
            else:
                assert figures["auc"] is None
    assert values["slices"]["patients"] == values["studies"]["patients"] == 6


def test_the_files_and_the_page(by_model):
    out = by_model / "out"
    assert {path.name for path in out.iterdir()} == FILES
    page = (out / "page.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "").replace(
        "http://www.w3.org", ""
    )
    assert "lists no patients" in page and "cannot be checked" in page
    assert "Per slice" in page and "Per study" in page and "Not a medical device" in page
    groups = pd.read_csv(out / "groups.csv")
    assert {"spacing", "slices"} <= set(groups["by"])
    assert set(groups["level"]) == {"slices", "studies"}
    assert set(groups.loc[groups["by"] == "manufacturer", "group"]) == {"SIEMENS", "?"}
    ranges = pd.read_csv(out / "training_ranges.csv").set_index("fact")
    assert (ranges["series_outside"] <= ranges["series"]).all() and "step_mm" in ranges.index
    for path in out.iterdir():
        assert "DOE" not in path.read_text(), path.name


def test_a_training_patient_is_refused_by_the_pseudonym(kept, competition, tmp_path, capsys):
    """And evaluated by the fold that never saw the patient where that is asked for."""
    data, labels = competition / "stage_2_train", competition / "stage_2_train.csv"
    run_patients = read_table(kept / "slices.parquet").query("split == 'train'")["patient_id"]
    train = tmp_path / "train"
    shutil.copytree(data, train)
    assert evaluate(tmp_path / "out", run=kept, data=train, labels=labels) == 1
    message = error_line(capsys)
    assert "patients of the run's training data" in message and "--known-patients" in message
    assert any(patient in message for patient in run_patients)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.part"))
    words = {"run": kept, "data": train, "labels": labels, "known_patients": True}
    assert evaluate(tmp_path / "out", **words) == 0
    assert "never saw them predict them" in capsys.readouterr().out


def test_labels_of_studies_give_figures_of_studies_alone(
    older_version, new_studies, by_model, tmp_path
):
    data, labels = new_studies
    truth = pd.read_csv(labels, index_col=0)
    names = pd.read_csv(by_model / "scored" / "names.csv", index_col=0)
    of_study = truth.loc[names["sop_uid"]].groupby(names["study_uid"].to_numpy()).max()
    of_study.iloc[:-1].rename_axis("StudyInstanceUID").to_csv(tmp_path / "studies.csv")
    words = {"model": older_version / "model", "data": data}
    assert evaluate(tmp_path / "out", labels=tmp_path / "studies.csv", **words) == 0
    values = read_json(tmp_path / "out" / "evaluation.json")
    assert "slices" not in values and values["studies"]["rows"] == len(of_study) - 1
    assert values["left_out"]["unlabelled_studies"] == 1


def test_labels_by_file_name_and_partly_labelled_studies(
    older_version, new_studies, by_model, tmp_path
):
    data, labels = new_studies
    truth = pd.read_csv(labels, index_col=0)
    slices = read_table(by_model / "scored" / "slices.parquet")
    truth.iloc[1, 2] = np.nan  # without one label
    truth.index = truth.index + ".dcm"
    truth.rename_axis("file").to_csv(tmp_path / "files.csv")
    words = {"model": older_version / "model", "data": data}
    assert evaluate(tmp_path / "out", labels=tmp_path / "files.csv", **words) == 0
    values = read_json(tmp_path / "out" / "evaluation.json")
    assert values["slices"]["rows"] == len(slices) - 1
    assert values["studies"]["rows"] == slices["study_id"].nunique() - 1
    assert values["left_out"]["partly_labelled_studies"] == 1
    assert values["left_out"]["incomplete_labels"] == 1


@pytest.fixture
def tables(tmp_path):
    """Predictions of 40 slices of 10 studies of 5 patients, and their labels."""
    rng = np.random.default_rng(0)
    y = (rng.random((40, 6)) < 0.4).astype(int)
    p = pd.DataFrame(np.clip(0.6 * y + 0.5 * rng.random((40, 6)), 0, 1), columns=COLUMNS)
    ids = [f"s{i}" for i in range(40)]
    study, patient = np.arange(40) // 4, np.arange(40) // 8
    p.assign(slice_id=ids, study_id=study, patient_id=patient).to_csv(tmp_path / "p.csv")
    pd.DataFrame(y, columns=COLUMNS).assign(slice_id=ids).to_csv(tmp_path / "y.csv")
    return tmp_path


def test_a_table_of_predictions(tables):
    out = tables / "out"
    assert evaluate(out, predictions=tables / "p.csv", labels=tables / "y.csv") == 0
    values = read_json(out / "evaluation.json")
    y, p = (pd.read_csv(tables / f"{name}.csv") for name in "yp")
    for label in LABELS:
        area = values["slices"]["labels"][label]["auc"]["value"]
        assert area == pytest.approx(roc_auc_score(y[label], p[label]), abs=1e-12)
    assert (values["slices"]["patients"], values["studies"]["rows"]) == (5, 10)
    assert {path.name for path in out.iterdir()} == FILES
    y["slice_id"] = "t" + y["slice_id"]
    y.to_csv(tables / "other.csv")
    assert evaluate(tables / "no", predictions=tables / "p.csv", labels=tables / "other.csv") == 1


def test_one_slice_is_no_slices_and_studies_are_no_slices(tables, capsys):
    pd.read_csv(tables / "p.csv")[:1].to_csv(tables / "one.csv")
    words = {"predictions": tables / "one.csv", "labels": tables / "y.csv"}
    assert evaluate(tables / "one", **words) == 0
    lines = capsys.readouterr().out
    assert "  1 slice: AUC of any undefined" in lines and "  1 study: AUC" in lines
    page = (tables / "one" / "page.html").read_text()
    assert "1 slice of 1 patient, 1 study of 1 patient</p>" in page
    assert evaluate(tables / "all", predictions=tables / "p.csv", labels=tables / "y.csv") == 0
    page = (tables / "all" / "page.html").read_text()
    assert "40 slices of 5 patients, 10 studies of 5 patients</p>" in page
    for rows in ("slices", "studies"):
        assert page.count(f"share of positive {rows} against") == 6
        assert f"All {rows} predicted below 2" in page
    assert page.count("Both axes") == 2


def test_figures_of_one_patient_have_no_interval(tables, capsys):
    p = pd.read_csv(tables / "p.csv")
    p.assign(patient_id=7).to_csv(tables / "one.csv")
    out = tables / "out"
    assert evaluate(out, predictions=tables / "one.csv", labels=tables / "y.csv") == 0
    assert "(no interval: too few patients, or all draws alike)" in capsys.readouterr().out
    values = read_json(out / "evaluation.json")["slices"]
    half = values["labels"]["any"]["operating_points"]["half"]
    found = [values["weighted_log_loss"], values["labels"]["any"]["auc"]]
    for figure in (*found, half["sensitivity"], half["specificity"]):
        assert figure["value"] is not None and figure["low"] is figure["high"] is None
    page = (out / "page.html").read_text()
    assert page.count("no interval") > 40 and "None" not in page and "nan" not in page
    for name in ("labels", "operating_points"):
        sheet = pd.read_csv(out / f"{name}.csv")
        ends = [column for column in sheet if column.endswith(("_low", "_high"))]
        assert len(ends) == 4 and sheet[ends].isna().all(axis=None)


def test_predictions_without_patients_are_measured_with_a_note(tables):
    pd.read_csv(tables / "p.csv")[["slice_id", *COLUMNS]].to_csv(tables / "q.csv")
    out = tables / "out"
    assert evaluate(out, predictions=tables / "q.csv", labels=tables / "y.csv") == 0
    values = json.loads((out / "evaluation.json").read_text())
    assert values["slices"]["patients"] == 40 and "studies" not in values
    assert any("each slice counts as a patient" in note for note in values["notes"])


def test_an_any_that_contradicts_the_subtypes_is_noted(tables, capsys):
    y = pd.read_csv(tables / "y.csv")
    bleeds = int((y[COLUMNS[1:]].max(axis=1) > 0).sum())
    y.assign(any=0).to_csv(tables / "y.csv", index=False)
    out = tables / "out"
    assert evaluate(out, predictions=tables / "p.csv", labels=tables / "y.csv") == 0
    line = f"{bleeds} slices with a subtype and `any` = 0: labels that contradict each other are"
    assert line in capsys.readouterr().out and line in (out / "page.html").read_text()
    assert any(line in note for note in read_json(out / "evaluation.json")["notes"])


def test_an_any_that_contradicts_the_subtypes_is_noted_of_scored_slices(
    older_version, new_studies, tmp_path, capsys
):
    data, labels = new_studies
    table = pd.read_csv(labels).assign(any=0)
    bleeds = int((table[COLUMNS[1:]].max(axis=1) > 0).sum())
    table.to_csv(tmp_path / "l.csv", index=False)
    words = {"model": older_version / "model", "data": data, "labels": tmp_path / "l.csv"}
    assert evaluate(tmp_path / "out", **words) == 0
    line = f"{number_of(bleeds, 'slice')} with a subtype and `any` = 0: labels that contradict"
    assert bleeds and line in capsys.readouterr().out
    assert line in (tmp_path / "out" / "page.html").read_text()


def test_slices_without_a_study_or_a_patient_are_not_one_study_and_one_patient(tables):
    p = pd.read_csv(tables / "p.csv", dtype=str)
    p.loc[p.index[::4], ["study_id", "patient_id"]] = ""
    p.to_csv(tables / "p.csv", index=False)
    out = tables / "out"
    assert evaluate(out, predictions=tables / "p.csv", labels=tables / "y.csv") == 0
    values = read_json(out / "evaluation.json")
    assert (values["slices"]["rows"], values["slices"]["patients"]) == (40, 5 + 10)
    assert (values["studies"]["rows"], values["studies"]["patients"]) == (10, 5)


def test_a_study_is_positive_by_a_slice_without_a_prediction(tmp_path):
    def measured(labels):
        predictions = pd.DataFrame(
            {"slice_id": ["s1", "s3"], "study_id": ["A", "B"], **dict.fromkeys(COLUMNS, [0.1, 0.9])}
        )
        return evaluate_predictions(predictions, pd.DataFrame(labels), "--predictions=p.csv")

    labels = {"slice_id": ["s1", "s2", "s3"], **dict.fromkeys(COLUMNS, [0.0, 1.0, 0.0])}
    data = measured(labels | {"study_id": ["A", "A", "B"]})
    assert data.levels["studies"].truth["any"].to_dict() == {"A": 1, "B": 0}
    assert data.levels["slices"].truth["any"].tolist() == [0, 0]
    other_names = measured(labels | {"study_id": ["a", "a", "b"]})
    assert other_names.levels["studies"].truth["any"].to_dict() == {"A": 1, "B": 0}
    unknown = measured(labels)
    assert unknown.levels["studies"].truth["any"].to_dict() == {"A": 0, "B": 0}
    assert any("study of 1 label without a prediction is unknown" in n for n in unknown.notes)
    one = {"slice_id": ["s1"], **dict.fromkeys(COLUMNS, [0.5])}
    nowhere = pd.DataFrame(one | {"study_id": [""]})
    other = pd.DataFrame(one | {"slice_id": ["s9"], "study_id": ["A"]})
    data = evaluate_predictions(
        pd.concat([nowhere, other], ignore_index=True), pd.DataFrame(labels).iloc[:1], "p.csv"
    )
    assert set(data.levels) == {"slices"}  # no labelled slice has a study


def test_wrong_input_is_one_line(older_version, new_studies, tables, capsys):
    data, labels = new_studies
    model = older_version / "model"
    (tables / "full").mkdir()
    (tables / "full" / "a").write_text("")
    foreign = tables / "y.csv"
    for flags, message in (
        ({"model": model, "data": data}, "give --labels, a table of labels"),
        ({"labels": labels}, "give one of --run (a finished run), --model"),
        ({"labels": labels, "model": model}, "--run and --model need --data"),
        (
            {"labels": foreign, "predictions": tables / "p.csv", "known-patients": True},
            "--predictions has no images to score: leave out --known-patients",
        ),
        ({"labels": "none.csv", "model": model, "data": data}, "--labels=none.csv does not exist"),
        (
            {"labels": foreign, "model": model, "data": data},
            "none of its 40 rows names a slice, file, series, study or folder of the data",
        ),
    ):
        assert evaluate(tables / "out", **flags) == 1
        assert message in error_line(capsys)
    assert evaluate(tables / "full", labels=labels, model=model, data=data) == 1
    assert "is there already" in error_line(capsys)
    assert evaluate(data / "out", labels=labels, model=model, data=data) == 1
    assert "name a folder elsewhere" in error_line(capsys)


def test_every_slice_of_a_thin_series_is_measured_with_its_slabs_probability(
    older_version, new_studies, tmp_path
):
    data, labels = new_studies
    truth, thin = pd.read_csv(labels, index_col=0), tmp_path / "thin"
    thin.mkdir()
    paths = sorted(data.glob("*.dcm"))
    rows = {}
    with disable_value_validation():
        datasets = [pydicom.dcmread(path) for path in paths]
    study = datasets[0].StudyInstanceUID
    for dataset in datasets:
        if dataset.StudyInstanceUID != study:
            continue
        name, (x, y, z) = dataset.SOPInstanceUID, dataset.ImagePositionPatient
        for number in range(5):  # 1 mm apart
            with disable_value_validation():
                dataset.SOPInstanceUID = f"{name}{number}"
                dataset.ImagePositionPatient = [x, y, f"{float(z) + number:.3f}"]
                dataset.save_as(thin / f"{name}{number}.dcm")
            rows[dataset.SOPInstanceUID] = truth.loc[name]
    table = pd.DataFrame(rows).T.rename_axis("SOPInstanceUID")
    table.to_csv(tmp_path / "thin.csv")
    words = {"model": older_version / "model", "data": thin, "labels": tmp_path / "thin.csv"}
    assert evaluate(tmp_path / "out", **words) == 0
    values = read_json(tmp_path / "out" / "evaluation.json")
    assert values["slices"]["rows"] == len(table) == 25 and values["studies"]["rows"] == 1
    assert values["slices"]["labels"]["any"]["positives"] == table["any"].sum()
    assert values["left_out"]["labels_without_a_scored_slice"] == 0
    groups = pd.read_csv(tmp_path / "out" / "groups.csv")
    assert set(groups.loc[groups["by"] == "spacing", "group"]) == {"below 2 mm"}
