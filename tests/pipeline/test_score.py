"""New studies get the same numbers as in the run, from the run and from its packed model."""

import json
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pydicom
import pytest
import yaml
from conftest import ROOT
from pydicom.config import disable_value_validation
from scipy.special import expit
from test_content_security import check
from tiny_zip import pack

import run
from ct.averaging import mean_logits
from ct.labels import LABELS
from ct.storage.file_formats import (
    read_array,
    read_arrays,
    read_json,
    read_table,
    write_arrays,
    write_table,
)
from ct.synthetic.example_competition import write_competition
from features.markov import MarkovChain
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.scoring.packed_model import model_of_folder
from pipeline.scoring.scoring_model import model_of_run
from pipeline.stage_data.run_tables import load_test_fold
from pipeline.stages.features import features
from stage2_stack.blending import Blend
from stage2_stack.calibration import Platt, fit_platt
from stage2_stack.components.pooled_lightgbm import PARAMS

RICH = {"reach": 1, "smooth_mm": [5], "smooth_best": True, "chain": True, "probe": True}
STACK = {
    "trials": 1,
    "max_rounds": 5,
    "positive_patients": 2,
    "confidence": 0,
    "any_at_least_largest": True,
}
LAST = Platt(1.1, -0.2, 0.0)
NEW_PATIENT = "ID_0fffffff"
COLUMNS = list(LABELS)


def equal_blend(logits, y, *rest):
    """A blend of all components with equal weights."""
    return Blend(
        {name: fit_platt(x, y) for name, x in logits.items()},
        dict.fromkeys(logits, 1 / len(logits)),
        LAST,
        {},
        "",
    )


@pytest.fixture(scope="module")
def rich(finished, tmp_path_factory):
    """A finished run with Markov chains, probes and many components. Not to be changed."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("rich") / "r")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["features"], recipe["stage2"] = RICH, STACK
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    # with so little data every component would be dropped
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PARAMS, "min_data_in_leaf", 2)
        patch.setattr("stage2_stack.stack_context.why_not_stacked", lambda *args: "")
        patch.setattr("stage2_stack.stacker.fit_blend", equal_blend)
        for words in (["features"], ["tune", "--workers=1"], ["stack"]):
            assert run.main([*words, f"--run={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(rich, tmp_path_factory):
    """The packed model of `rich`. Not to be changed."""
    folder = tmp_path_factory.mktemp("packed") / "model"
    assert run.main(["export-model", f"--run={rich}", f"--to={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def new_patient(competition, tmp_path_factory):
    """The test study of the run, as a study of a new patient. Not to be changed."""
    return rewritten(
        competition / "stage_2_test",
        tmp_path_factory.mktemp("new_patient") / "data",
        PatientID=NEW_PATIENT,
    )


def rewritten(source, target, **tags):
    """Copy DICOM files with other tags; a value may be a function of the old value."""
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*.dcm")):
        with disable_value_validation():
            dataset = pydicom.dcmread(path)
            for name, value in tags.items():
                setattr(dataset, name, value(dataset.get(name)) if callable(value) else value)
            dataset.save_as(target / path.name)
    return target


def score(data, to, *words):
    assert run.main(["score", f"--data={data}", f"--to={to}", *words]) == 0
    return read_table(to / "slices.parquet"), read_table(to / "studies.parquet")


def error(capsys):
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


def mean_over_folds(folder):
    """The test table of a run without patients of train: the mean over the stackers."""
    X, names = (
        read_array(folder / "stage2/features/test.npy"),
        list(read_json(folder / "stage2/features/names.json")),
    )
    scoring_model = model_of_run(Run(folder))
    return np.mean(
        [
            scoring_model.stacker(k).predict(np.asarray(X[k]), names, np.array([0]))
            for k in range(len(X))
        ],
        axis=0,
    )


def components(folder):
    """The components with a weight in the blends of a run."""
    blends = json.loads((folder / "stage2/blend.json").read_text())
    return {name for folds in blends.values() for blend in folds for name in blend["weights"]}


def test_the_run_has_all_components(rich, finished):
    """Otherwise the tests below would not check them."""
    assert components(rich) >= {
        "raw",
        "smooth",
        "chain",
        "pooled",
        "subtypes",
    } and "lightgbm" in components(finished)
    assert (load_test_fold(Run(rich).dir) >= 0).all()


def test_a_test_study_gets_the_runs_own_numbers(rich, competition, tmp_path, capsys):
    slices, studies = score(competition / "stage_2_test", tmp_path / "out", f"--run={rich}")
    expected = read_table(rich / "stage2/test.parquet")
    pd.testing.assert_frame_equal(slices[COLUMNS], expected.loc[slices.index], check_exact=True)
    assert len(slices) == len(expected) == 5
    # also in train: predicted by one fold alone
    assert "a patient of the training data" in studies["remarks"].iloc[0]
    assert "by the models of one fold alone" in capsys.readouterr().out


def with_new_patient(folder, target):
    """A copy of a run whose test slices are of a patient who is not in train."""
    folder = shutil.copytree(folder, target)
    slices, fold = read_table(folder / "slices.parquet"), read_table(folder / "folds.parquet")
    test = slices["split"] == "test"
    write_table(
        folder / "slices.parquet",
        slices.assign(patient_id=slices["patient_id"].where(~test, NEW_PATIENT)),
    )
    write_table(folder / "folds.parquet", fold.assign(fold=fold["fold"].where(~test, -1)))
    with Receipt(folder, folder / "receipts/features.json", "features", {}, {}) as receipt:
        features(Run(folder, log=lambda text: None), receipt)
    return folder


def test_a_new_patient_gets_the_mean_over_folds(rich, new_patient, tmp_path):
    slices, studies = score(new_patient, tmp_path / "out", f"--run={rich}")
    index = read_table(rich / "stage2/test.parquet").index
    expected = mean_over_folds(with_new_patient(rich, tmp_path / "r"))
    np.testing.assert_allclose(slices.loc[index, COLUMNS], expected, rtol=0, atol=1e-12)
    assert (
        slices[COLUMNS].to_numpy()
        != read_table(rich / "stage2/test.parquet").loc[slices.index].to_numpy()
    ).any()
    assert "patient of the training data" not in studies["remarks"].iloc[0]


def test_the_packed_model_gives_the_same_files(rich, model, new_patient, tmp_path):
    one, studies = score(new_patient, tmp_path / "one", f"--run={rich}")
    two, same = score(new_patient, tmp_path / "two", f"--model={model}", "--device=cpu")
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    pd.testing.assert_frame_equal(studies, same, check_exact=True)
    for name in (
        "page.html",
        "names.csv",
        "slices.csv",
        "studies.csv",
        "remarks.csv",
        "quarantine.csv",
    ):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), (
            name
        )


def test_a_zip_is_read_in_place(model, new_patient, tmp_path):
    one, _ = score(new_patient, tmp_path / "one", f"--model={model}")
    two, _ = score(
        pack(new_patient, tmp_path / "data.zip", "around/"), tmp_path / "two", f"--model={model}"
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_the_files_that_score_writes(model, new_patient, tmp_path):
    slices, studies = score(new_patient, tmp_path / "out", f"--model={model}")
    names = {"slices", "studies"}
    files = {f"{name}.{kind}" for name in names for kind in ("csv", "parquet")}
    files |= {"names.csv", "remarks.csv", "series.csv", "quarantine.csv", "score.json", "page.html"}
    files |= {"studies.json"}
    files |= {"operating_points.csv", "slices_reached.csv", "studies_reached.csv"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    for name, table in (("slices", slices), ("studies", studies)):
        pd.testing.assert_frame_equal(
            pd.read_csv(
                tmp_path / "out" / f"{name}.csv", index_col=0, keep_default_na=False
            ).astype(table.dtypes),
            table,
        )
    assert ((slices[COLUMNS] > 0) & (slices[COLUMNS] < 1)).all(axis=None)
    assert studies["status"].tolist() == ["scored"] and studies["scored_slices"].tolist() == [5]
    logits = np.sort(np.log(slices["any"] / (1 - slices["any"])))[-3:].mean()
    platt = Platt(**read_json(model / "stage2.json")["studies"]["any"])
    assert studies["any"].iloc[0] == pytest.approx(expit(platt.logit(logits)))


def test_the_page_needs_no_other_file(model, new_patient, tmp_path):
    slices, studies = score(new_patient, tmp_path / "out", f"--model={model}")
    page = (tmp_path / "out" / "page.html").read_text()
    assert (
        "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
        and "<script src" not in page
    )
    assert page.count('class="lane') >= 1 and page.count("data:image/jpeg") == 1
    assert f"{studies['any'].iloc[0]:.3f}" in page and studies.index[0] in page
    assert "Not a medical device" in page
    check(page)


def test_the_page_has_slices_and_probabilities_of_both_stages(rich, new_patient, tmp_path):
    """Stage one is the mean of the CNNs, then over the folds."""
    slices, studies = score(new_patient, tmp_path / "out", f"--run={rich}")
    page = (tmp_path / "out" / "page.html").read_text()
    data = json.loads(
        re.search(r'<script type="application/json" id="browser-data">(.*?)</script>', page, re.S)[
            1
        ]
    )
    assert (
        [kind for kind, _ in data["kinds"]] == ["raw", "final"]
        and not data["labelled"]
        and not data["explained"]
    )
    (study,) = data["studies"]
    assert (study["id"], study["slices"]) == (studies.index[0], list(slices.index))
    assert len(set(study["pictures"])) == 5 and study["truth"] == [[None] * 6] * 5
    np.testing.assert_allclose(study["p"][1], slices[COLUMNS], atol=6e-5)
    folds = [
        expit(
            mean_logits(
                {path.name: read_table(path / f"fold{k}/test.parquet").loc[slices.index].to_numpy()}
            )
        )
        for path in sorted((rich / "stage1").iterdir())
        for k in range(2)
    ]
    np.testing.assert_allclose(study["p"][0], np.mean(folds, axis=0), atol=6e-5)
    assert f'<a href="#study={study["id"]}">' in page


def test_names_of_people_are_in_one_file_alone(model, new_patient, tmp_path):
    uid = {}

    def foreign(value):
        return uid.setdefault(str(value), f"1.2.826.77.{len(uid) + 1}")

    tags = {"PatientID": "MRN 4711", "PatientName": "DOE^JANE", "PatientBirthDate": "19610203"}
    tags |= dict.fromkeys(["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"], foreign)
    data = rewritten(new_patient, tmp_path / "Jane Doe", **tags)
    slices, studies = score(data, tmp_path / "out", f"--model={model}")
    before, _ = score(new_patient, tmp_path / "before", f"--model={model}")
    np.testing.assert_array_equal(slices[COLUMNS], before[COLUMNS])
    assert studies.index.tolist() == ["study-1"] and studies["patient_id"].tolist() == ["patient-1"]
    # in the order of the files
    assert slices.index.tolist() == [
        f"slice-{i}" for i in pd.Series(before.index).rank().astype(int)
    ]
    for path in (tmp_path / "out").iterdir():
        held = path.read_bytes()
        secrets = [b"MRN 4711", b"DOE^JANE", b"19610203", b"Jane Doe"] + [b"1.2.826.77"] * (
            path.name != "names.csv"
        )
        assert not [secret for secret in secrets if secret in held], path.name
    names = pd.read_csv(tmp_path / "out" / "names.csv", index_col=0)
    file = data / names.loc["slice-2", "path"]
    assert str(pydicom.dcmread(file).SOPInstanceUID) == names.loc["slice-2", "sop_uid"]


def test_studies_without_a_patient_id_are_different_patients(model, new_patient, tmp_path):
    data = rewritten(new_patient, tmp_path / "data", PatientID="")
    rewritten(
        new_patient,
        data / "other",
        PatientID="",
        StudyInstanceUID="ID_000ddddddd",
        SeriesInstanceUID="ID_000eeeeeee",
        SOPInstanceUID=lambda name: name + "f",
    )
    slices, studies = score(data, tmp_path / "out", f"--model={model}")
    before, _ = score(new_patient, tmp_path / "before", f"--model={model}")
    # in other batches
    np.testing.assert_allclose(
        slices.loc[before.index, COLUMNS], before[COLUMNS], rtol=0, atol=1e-6
    )
    assert len(slices) == 10 and studies["patient_id"].is_unique


def test_unreadable_files_are_in_quarantine_and_the_rest_is_scored(
    model, new_patient, tmp_path, capsys
):
    data = shutil.copytree(new_patient, tmp_path / "data")
    first, second, *_ = sorted(data.iterdir())
    first.write_bytes(first.read_bytes()[:-1000])
    second.write_bytes(second.read_bytes()[:200])
    (data / "notes.txt").write_text("none")
    slices, _ = score(data, tmp_path / "out", f"--model={model}")
    bad = pd.read_csv(tmp_path / "out" / "quarantine.csv").set_index("path")
    assert sorted(bad.index) == sorted([first.name, second.name, "notes.txt"])
    assert bad.loc[first.name, "kind"] == "pixels" and "truncated" in bad.loc[first.name, "reason"]
    assert (
        bad.loc[second.name, "kind"] == "header"
        and bad.loc["notes.txt", "reason"] == "not a DICOM file"
    )
    # predicted from its neighbours
    assert len(slices) == 4 and (~slices["readable"]).sum() == 1
    assert slices[COLUMNS].notna().all(axis=None)
    assert "3 files in quarantine.csv" in capsys.readouterr().out
    page = (tmp_path / "out" / "page.html").read_text()
    assert "2 files of the data were left out, each with its reason" in page


def test_a_study_of_another_modality_is_refused_and_others_are_scored(
    model, new_patient, tmp_path, capsys
):
    data = tmp_path / "data"
    good = shutil.copytree(new_patient, data / "good")
    tags = {
        "StudyInstanceUID": "ID_00aaaaaaaa",
        "SeriesInstanceUID": "ID_00bbbbbbbb",
        "Modality": "MR",
    }
    rewritten(good, data / "bad", SOPInstanceUID=lambda name: name + "f", **tags)
    slices, studies = score(data, tmp_path / "out", f"--model={model}")
    alone, _ = score(good, tmp_path / "alone", f"--model={model}")
    pd.testing.assert_frame_equal(slices, alone)
    assert studies.loc["ID_00aaaaaaaa", "status"] == "refused" and np.isnan(
        studies.loc["ID_00aaaaaaaa", "any"]
    )
    assert "the modality is MR, not CT" in studies.loc["ID_00aaaaaaaa", "remarks"]
    assert (
        "refused, the modality is MR, not CT: the CNNs need Hounsfield units"
        in capsys.readouterr().out
    )
    assert "<b>Refused:</b> the modality is MR" in (tmp_path / "out" / "page.html").read_text()
    both, studies = score(data, tmp_path / "anyway", f"--model={model}", "--anyway")
    assert len(both) == 10 and studies["status"].eq("scored").all()
    assert "MR" in studies.loc["ID_00aaaaaaaa", "remarks"]


def test_where_no_study_is_scored_the_tables_give_the_reasons(model, new_patient, tmp_path, capsys):
    data = rewritten(new_patient, tmp_path / "data", BodyPartExamined="CHEST")
    assert (
        run.main(["score", f"--data={data}", f"--to={tmp_path / 'out'}", f"--model={model}"]) == 1
    )
    assert "no study could be scored" in error(capsys)
    studies = pd.read_csv(tmp_path / "out" / "studies.csv")
    assert studies["status"].tolist() == ["refused"] and "CHEST" in studies["remarks"].iloc[0]
    assert "No study was scored" in (tmp_path / "out" / "page.html").read_text()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("none")
    assert (
        run.main(
            [
                "score",
                f"--data={tmp_path / 'text'}",
                f"--to={tmp_path / 'none'}",
                f"--model={model}",
            ]
        )
        == 1
    )
    message = error(capsys)
    assert "no study could be scored" in message and "quarantine.csv says why" in message
    assert "studies.csv" not in message  # it is empty
    assert pd.read_csv(tmp_path / "none" / "quarantine.csv")["reason"].tolist() == [
        "not a DICOM file"
    ]
    page = (tmp_path / "none" / "page.html").read_text()
    assert "1 file of the data was left out" in page
    assert "No study was scored; <code>quarantine.csv</code> gives the reasons." in page


def test_remarks_on_a_study_unlike_the_training_data(model, new_patient, tmp_path):
    odd = rewritten(
        new_patient,
        tmp_path / "data",
        ContrastBolusAgent="Iohexol",
        SliceThickness="0.5",
        PixelSpacing=["9", "9"],
    )
    (tmp_path / "data" / sorted(path.name for path in odd.iterdir())[0]).unlink()
    _, studies = score(odd, tmp_path / "out", f"--model={model}", "--anyway")
    remarks = studies["remarks"].iloc[0]
    for text in (
        "a contrast agent was given",
        "slice thickness 0.5 mm",
        "pixel spacing 9 mm",
        "number of slices 4, training value 5",
    ):
        assert text in remarks, remarks
    table = pd.read_csv(tmp_path / "out" / "remarks.csv")
    assert (
        set(table) == {"study_id", "series_id", "refuses", "what", "means"}
        and not table["refuses"].any()
    )


def test_two_series_of_a_study_get_a_remark(model, new_patient, tmp_path):
    data = shutil.copytree(new_patient, tmp_path / "data")
    rewritten(
        new_patient,
        data / "more",
        SeriesInstanceUID="ID_000ccccccc",
        SOPInstanceUID=lambda name: name + "f",
    )
    slices, studies = score(data, tmp_path / "out", f"--model={model}")
    assert (
        len(slices) == 10
        and "2 series, training studies have at most 1" in studies["remarks"].iloc[0]
    )


def test_the_files_of_a_packed_model(rich, model, competition):
    files = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    expected = {
        "model.json",
        "recipe.yaml",
        "stage2.json",
        "README.md",
        "card.json",
        "probes.safetensors",
    }
    expected |= {f"weights/resnet-fold{k}.safetensors" for k in (0, 1)}
    assert {name for name in files if not name.startswith("boosters/")} == expected
    assert {name.removeprefix("boosters/") for name in files - expected} == {
        path.name for path in (rich / "stage2/boosters").iterdir()
    }
    about = read_json(model / "model.json")
    assert set(about["files"]) == files - {"model.json"} and about["versions"]["torch"]
    for name in files:  # no identifier, no path
        held = (model / name).read_bytes()
        assert not re.search(rb"ID_[0-9a-f]{6}", held) and str(competition).encode() not in held, (
            name
        )
        assert (rich / "key").read_bytes() not in held


def test_the_model_card_has_counts_scores_and_a_warning(rich, model):
    card, text = read_json(model / "card.json"), (model / "README.md").read_text()
    scores, slices = read_json(rich / "stage2/scores.json"), read_table(rich / "slices.parquet")
    train = slices[(slices["split"] == "train") & slices["any"].notna()]
    assert (card["slices"], card["studies"]) == (len(train), train["study_id"].nunique())
    for name in ("weighted", *LABELS):
        of_card = card["of_slices"][name]
        of_run = scores["stage_two"][name]
        assert of_card.get("auc") == of_run.get("auc") and set(of_card) == set(of_run)
        assert [of_card[key] for key in ("loss", "low", "high")] == pytest.approx(
            [of_run[key] for key in ("loss", "low", "high")]
        )
        assert of_card["low"] <= of_card["loss"] <= of_card["high"]
    assert (
        "Not a medical device" in text
        and "undefined" in text
        or all(s.get("auc") for s in card["of_slices"].values())
    )
    assert f"{card['of_slices']['weighted']['loss']:.4f}" in text and "{" not in text


def test_a_recipe_is_packed_without_paths(rich):
    from pipeline.commands.export_model import public_recipe
    from pipeline.recipe import with_changes

    recipe = Run(rich).recipe
    models = [
        recipe.stage1.models[0].model_dump(mode="json")
        | {"pretrained": "/home/jane/weights.safetensors"}
    ]
    changed = with_changes(
        recipe, {"stage1.models": models, "stage2.storage": "postgresql://me:secret@host/x"}
    )
    public = public_recipe(changed)
    assert (
        public.stage1.models[0].pretrained == "weights.safetensors" and public.stage2.storage == ""
    )
    assert public.data.source == "" and public.data.labels is None
    assert (public.features, public.folds, public.seed) == (
        recipe.features,
        recipe.folds,
        recipe.seed,
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda d: flip(d / "weights/resnet-fold1.safetensors"),
            "weights/resnet-fold1.safetensors is damaged or changed",
        ),
        (lambda d: flip(d / "stage2.json"), "stage2.json is damaged or changed"),
        (lambda d: (d / "recipe.yaml").unlink(), "recipe.yaml is missing"),
        (lambda d: (d / "model.json").unlink(), "is no model folder"),
        (lambda d: (d / "model.json").write_text("{"), "is no model folder"),
        (lambda d: (d / "model.json").write_text('{"files": {}}'), "is no model folder"),
        (
            lambda d: replace(d / "model.json", "ich-stack model 1", "ich-stack model 9"),
            "has the format 'ich-stack model 9'",
        ),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(
    model, new_patient, tmp_path, capsys, damage, message
):
    folder = shutil.copytree(model, tmp_path / "model")
    damage(folder)
    assert (
        run.main(
            ["score", f"--data={new_patient}", f"--to={tmp_path / 'out'}", f"--model={folder}"]
        )
        == 1
    )
    err = error(capsys)
    assert message in err and "export" in err
    assert not (tmp_path / "out").exists()


def flip(path):
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(bytes(held))


def replace(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def test_wrong_flags_stop_before_any_work(rich, model, new_patient, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "hidden.zip", "w") as archive:
        archive.writestr(".a/b.dcm", "")
    to, by = "--to=out", f"--model={model}"
    for words, message in (
        ([f"--data={new_patient}", to], "give one of --run (a finished run) and --model"),
        (
            [f"--data={new_patient}", to, by, f"--run={rich}"],
            "give one of --run (a finished run) and --model",
        ),
        ([f"--data={new_patient}", "--to=full", by], "--to=full is there already"),
        (
            [f"--data={new_patient}", f"--to={new_patient}/out", by],
            "among the files to be scored; name a folder elsewhere",
        ),
        (["--data=none", to, by], "--data=none does not exist"),
        (["--data=empty", to, by], "--data=empty holds no files"),
        (
            ["--data=hidden.zip", to, by],
            "(hidden ones are not read)",
        ),
        (["--data=full/a", to, by], "no whole zip archive"),
        ([f"--data={new_patient}", to, "--model=empty"], "--model=empty is no model folder"),
        ([f"--data={new_patient}", to, "--run=empty"], "empty/recipe.yaml is not there"),
        ([f"--data={new_patient}", to, by, "--device=tpu"], "device = 'tpu'"),
    ):
        assert run.main(["score", *words]) == 1
        assert message in error(capsys)
    assert run.main(["score", f"--data={new_patient}", to, f"--modle={model}"]) == 2
    assert "did you mean '--model'?" in error(capsys)
    assert run.main(["export-model", f"--run={rich}", "--to=full"]) == 1
    assert "--to=full is there already" in error(capsys)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.part"))


def test_a_missing_gpu_is_an_error(model, new_patient, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (
        run.main(
            [
                "score",
                f"--data={new_patient}",
                f"--to={tmp_path / 'out'}",
                f"--model={model}",
                "--device=cuda",
            ]
        )
        == 1
    )
    assert "torch finds no CUDA device" in error(capsys)


def test_a_run_that_is_stale_or_stacks_imports_is_refused(rich, new_patient, tmp_path, capsys):
    folder = shutil.copytree(rich, tmp_path / "r")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    changed = {**recipe, "features": {**recipe["features"], "reach": 2}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(changed))
    for verb in (["score", f"--data={new_patient}"], ["export-model"]):
        assert run.main([*verb, f"--run={folder}", f"--to={tmp_path / 'out'}"]) == 1
        assert (
            "which is stale (recipe changed, features.reach: 1 -> 2); run `features` or `all`"
            in error(capsys)
        )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    oof = read_table(folder / "stage1/resnet/oof.parquet").dropna().rename_axis("slice_id")
    oof = expit(oof)
    oof.to_csv(tmp_path / "oof.csv")
    test = read_table(folder / "stage1/resnet/fold0/test.parquet").dropna().rename_axis("slice_id")
    test = expit(test)
    test.to_csv(tmp_path / "test.csv")
    assert (
        run.main(
            [
                "import-predictions",
                f"--run={folder}",
                "--name=theirs",
                f"--oof={tmp_path / 'oof.csv'}",
                f"--test={tmp_path / 'test.csv'}",
                "--trust-oof",
            ]
        )
        == 0
    )
    with pytest.raises(
        Exception, match=r"imported predictions \(theirs\); their models are not in the run"
    ):
        model_of_run(Run(folder))


def test_an_older_run_without_probes_is_refused(rich, tmp_path):
    folder = shutil.copytree(rich, tmp_path / "r")
    (folder / "stage2/features/probes.safetensors").unlink()
    with pytest.raises(
        Exception, match=r"probes.safetensors is not there; remove .*features.json and run `all`"
    ):
        model_of_run(Run(folder))


def test_an_older_run_without_parts_is_scored_as_before(rich, competition, tmp_path):
    """With probes of all patients and chains of all folds, also for a patient of train."""
    folder = shutil.copytree(rich, tmp_path / "r")
    probes = read_arrays(folder / "stage2/features/probes.safetensors")
    write_arrays(
        folder / "stage2/features/probes.safetensors",
        {n: a for n, a in probes.items() if ".part" not in n},
    )
    (folder / "stage2/features/parts.parquet").unlink()
    older, newer = model_of_run(Run(folder)), model_of_run(Run(rich))
    assert set(older.patients["part"]) == {-1} and set(newer.patients["part"]) > {0, 1}
    assert older.probe("resnet", 0)[1] == [] and len(newer.probe("resnet", 0)[1]) > 1
    assert all(chains == older.chains()[-1] for chains in older.chains())
    kept = read_json(folder / "stage2/features/chain.json")
    for k, where in enumerate(["without fold 0", "without fold 1", "of all folds"]):
        assert newer.chains()[k] == [MarkovChain.from_json(kept[label][where]) for label in LABELS]


def test_a_packed_model_holds_no_probes_of_parts(rich, model):
    kept, packed = (
        read_arrays(path / "probes.safetensors") for path in (rich / "stage2/features", model)
    )
    assert (
        set(packed)
        == {f"resnet.fold{k}.{name}" for k in (0, 1) for name in ("centre", "weights", "intercept")}
        < set(kept)
    )
    assert all(np.array_equal(array, kept[name]) for name, array in packed.items())


def test_other_package_versions_are_logged(model, new_patient, tmp_path, capsys):
    folder = shutil.copytree(model, tmp_path / "model")
    about = read_json(folder / "model.json")
    about["versions"]["timm"] = "0.1"
    (folder / "model.json").write_text(json.dumps(about))
    score(new_patient, tmp_path / "out", f"--model={folder}")
    assert "made with timm 0.1 (here" in capsys.readouterr().out
    assert model_of_folder(folder).versions["timm"] == "0.1"


def test_a_simple_recipe_has_neither_chain_nor_probe(finished, new_patient, tmp_path):
    assert run.main(["export-model", f"--run={finished}", f"--to={tmp_path / 'model'}"]) == 0
    one, _ = score(new_patient, tmp_path / "one", f"--run={finished}")
    index = read_table(finished / "stage2/test.parquet").index
    np.testing.assert_allclose(
        one.loc[index, COLUMNS], mean_over_folds(finished), rtol=0, atol=1e-12
    )
    two, _ = score(new_patient, tmp_path / "two", f"--model={tmp_path / 'model'}")
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert not (tmp_path / "model" / "probes.safetensors").exists()


@pytest.mark.slow
def test_a_packed_model_needs_nothing_but_the_program(rich, model, new_patient, tmp_path):
    """Another process, in a folder with a copy of the program, the model and the studies."""
    here = score(new_patient, tmp_path / "here", f"--model={model}")[0]
    for name in ("ct", "features", "pipeline", "report", "stage1_cnn", "stage2_stack"):
        shutil.copytree(
            ROOT / name, tmp_path / "fresh" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "run.py", tmp_path / "fresh")
    shutil.copytree(model, tmp_path / "fresh" / "model")
    shutil.copytree(new_patient, tmp_path / "fresh" / "data")
    words = [sys.executable, "run.py", "score", "--data=data", "--model=model", "--to=out"]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, cwd=tmp_path / "fresh", env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pd.testing.assert_frame_equal(
        read_table(tmp_path / "fresh/out/slices.parquet"), here, check_exact=True
    )


@pytest.mark.slow
def test_studies_of_another_competition(model, tmp_path):
    """Whole studies with every trap of the example data."""
    write_competition(tmp_path / "data", studies=6, seed=11, size=64, slices=(5, 9))
    slices, studies = score(tmp_path / "data", tmp_path / "out", f"--model={model}")
    assert len(studies) == 6 and slices[COLUMNS].notna().all(axis=None)
    assert pd.read_csv(tmp_path / "out" / "quarantine.csv")["path"].str.endswith(".csv").sum() == 2


def test_structured_reports_hold_the_scores_and_no_other_file_the_identifiers(
    model, new_patient, tmp_path, capsys
):
    sr = pytest.importorskip("highdicom.sr", reason="highdicom is not installed")
    uid = {}

    def foreign(value):
        return uid.setdefault(str(value), f"1.2.826.77.{len(uid) + 1}")

    tags = dict.fromkeys(["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"], foreign)
    tags |= {"PatientID": "MRN 4711", "PatientName": "DOE^JANE", "BurnedInAnnotation": "YES"}
    data = rewritten(
        new_patient, tmp_path / "data", SOPClassUID="1.2.840.10008.5.1.4.1.1.2", **tags
    )
    out = tmp_path / "out"
    slices, studies = score(data, out, f"--model={model}", "--dicom-sr")
    assert "names and identifiers" in capsys.readouterr().out
    (path,) = (out / "dicom-sr").iterdir()
    report = sr.srread(path)
    assert path.stem == studies.index[0] and report.PatientName == "DOE^JANE"
    names = pd.read_csv(out / "names.csv", index_col=0)
    assert report.StudyInstanceUID == names["study_uid"].iloc[0]
    groups = {
        group.tracking_identifier: group.get_measurements()[0]
        for group in report.content.get_image_measurement_groups()
    }
    for label in LABELS:
        assert groups[f"{label}, study"].value == studies[label].iloc[0]
        first = groups[f"{label}, slice 1"]
        (image,) = first.referenced_images
        assert first.value == slices[label].max()
        assert image.referenced_sop_instance_uid == names.loc[slices[label].idxmax(), "sop_uid"]
    for other in (path for path in out.iterdir() if path.is_file()):
        held = other.read_bytes()
        assert b"MRN 4711" not in held and b"DOE^JANE" not in held, other.name
        assert (b"1.2.826.77" in held) == (other.name == "names.csv"), other.name
    assert read_json(out / "studies.json")["studies"][0]["probabilities"] == {
        label: studies[label].iloc[0] for label in LABELS
    }
    assert "burned into the pixels" in (out / "page.html").read_text()
    assert "burned into the pixels" in (out / "remarks.csv").read_text()
