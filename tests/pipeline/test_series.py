"""Of a study of several series one is read, by `score` and by `ingest`; thin ones as slabs."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import error_line
from several_series import Head

import run
from ct.checks.series_table import training_spacing
from ct.labels import KAGGLE_ORDER, LABELS
from ct.storage.file_formats import read_table
from pipeline.scoring import slice_scores
from pipeline.scoring.packed_model import model_of_folder
from pipeline.stage_data.ingest_counts import describe
from pipeline.stage_data.own_series import thin_series

COLUMNS = list(LABELS)


@pytest.fixture(scope="module")
def model(finished, tmp_path_factory):
    """The packed model of the finished run, whose training slices are 4.5 to 5.5 mm apart."""
    folder = tmp_path_factory.mktemp("packed") / "model"
    assert run.main(["export-model", f"--run={finished}", f"--to={folder}"]) == 0
    return folder


@pytest.fixture
def head(competition):
    return Head(competition / "stage_2_train")


def score(model, data, *words):
    """The tables of a score, by name."""
    to = data.with_name(f"{data.name}-scores{len(words)}")
    shutil.rmtree(to, ignore_errors=True)
    assert run.main(["score", f"--model={model}", f"--data={data}", f"--to={to}", *words]) == 0
    tables = {path.stem: read_table(path) for path in to.glob("*.parquet")}
    tables["page"] = (to / "page.html").read_text()
    for name in ("series", "remarks", "quarantine", "names"):
        tables[name] = pd.read_csv(to / f"{name}.csv", keep_default_na=False)
    return tables


def of_study(tables):
    return tables["studies"][COLUMNS].to_numpy()[0]


def names_by_folder(tables):
    """{folder of the files: name of its series}."""
    names = tables["names"]
    return dict(zip(names["path"].str.split("/").str[-2], names["series_id"], strict=True))


def test_the_thick_soft_series_is_scored_and_its_numbers_are_its_own(model, head, tmp_path):
    head.write_thick(tmp_path / "alone/thick")
    shutil.copytree(tmp_path / "alone/thick", tmp_path / "all/thick")
    head.write_thin(tmp_path / "all/thin")
    head.write_others(tmp_path / "all")
    alone, tables = score(model, tmp_path / "alone"), score(model, tmp_path / "all")
    np.testing.assert_allclose(of_study(tables), of_study(alone), rtol=0, atol=1e-6)
    names, series = names_by_folder(tables), tables["series"].set_index("series_id")
    assert series.at[names["thick"], "status"] == "read"
    reasons = {name: series.at[names[name], "reason"] for name in names}
    assert reasons.pop("thin").endswith(" mm apart, training 4.5 to 5.5 mm")
    assert reasons == {
        "thick": "axial, no contrast agent, soft kernel, slices 5.5 mm apart",
        "bone": "bone kernel",
        "contrast": "a contrast agent was given",
        "localizer": "a localizer",
    }
    assert (series["status"] == "read").sum() == 1
    assert len(tables["slices"]) == len(head.hu) and "slabs" not in tables
    assert set(tables["slices"]["series_id"]) == {names["thick"]}
    for text in ("Passed over:", "bone kernel", names["thick"]):
        assert text in tables["page"]
    assert "Passed over:" not in alone["page"] and "Kopf" not in tables["page"]
    assert not tables["remarks"]["what"].str.contains("contrast|localizer|series, training").any()


def test_without_the_thick_one_the_thin_one_is_scored_as_slabs(model, head, tmp_path, capsys):
    head.write_thick(tmp_path / "thick/a")
    head.write_thin(tmp_path / "thin/thin")
    head.write_others(tmp_path / "thin")
    thick, tables = score(model, tmp_path / "thick"), score(model, tmp_path / "thin")
    assert "slabs" in capsys.readouterr().out
    assert np.abs(of_study(tables) - of_study(thick)).max() < 0.02
    slices, slabs = tables["slices"], tables["slabs"]
    positions, _ = head.thin(1.0)
    count, extent_mm = len(positions), np.ptp(positions[:, 2]) + 1
    assert len(slices) == count == tables["studies"]["scored_slices"].iloc[0]
    assert len(slabs) >= 3 and abs(len(slabs) - extent_mm / 5) < 1
    assert slabs["position_mm"].diff()[1:].between(4.9, 5.1).all()
    assert slices["place"].tolist() == list(range(count))
    for slab in slabs.itertuples():
        own = slices[slices["place"].between(slab.first_place, slab.last_place)]
        assert (own[COLUMNS].to_numpy() == np.array([getattr(slab, c) for c in COLUMNS])).all()
    covered = sum(slab.last_place - slab.first_place + 1 for slab in slabs.itertuples())
    assert covered == count
    assert tables["remarks"]["what"].str.contains(f"averaged into {len(slabs)} slabs").sum() == 1
    assert not tables["remarks"]["what"].str.contains("slice spacing|slice thickness").any()


def test_a_file_of_a_thin_series_that_does_not_decode_is_in_the_quarantine(model, head, tmp_path):
    head.write_thin(tmp_path / "d/thin")
    path = tmp_path / "d/thin/0007.dcm"
    path.write_bytes(path.read_bytes()[:-500])
    tables = score(model, tmp_path / "d")
    assert tables["quarantine"]["path"].tolist() == ["thin/0007.dcm"]
    assert tables["slices"]["readable"].tolist().count(False) == 1
    assert tables["slices"][COLUMNS].notna().all(axis=None)
    (what,) = tables["remarks"]["what"][tables["remarks"]["what"].str.contains("do not decode")]
    assert what.startswith(f"1 of {len(tables['slices'])} slices do not decode")


def test_a_thin_series_says_how_many_of_its_slices_do_not_decode(model, head, tmp_path, capsys):
    head.write_thin(tmp_path / "d/thin")
    files = sorted((tmp_path / "d/thin").iterdir())
    for number, path in enumerate(files):
        if number % 5:  # of each slab one slice is left
            path.write_bytes(path.read_bytes()[:-500])
    tables = score(model, tmp_path / "d")
    broken = len(files) - len(files[::5])
    text = f"{broken} of {len(files)} slices do not decode"
    assert tables["remarks"]["what"].str.startswith(text).sum() == 1
    assert text in tables["page"] and text in capsys.readouterr().out
    for path in files:
        path.write_bytes(path.read_bytes()[:-500])
    to = tmp_path / "none"
    assert run.main(["score", f"--model={model}", f"--data={tmp_path / 'd'}", f"--to={to}"]) == 1
    assert f"{len(files)} of {len(files)} slices do not decode" in (to / "page.html").read_text()


def test_all_series_or_one(model, head, tmp_path, capsys):
    head.write_thick(tmp_path / "d/thick")
    others = head.write_others(tmp_path / "d")
    every = score(model, tmp_path / "d", "--series=all")
    names = names_by_folder(every)
    assert sorted(every["studies"].index) == sorted(f"study-1-{name}" for name in names.values())
    status = every["studies"]["status"]
    assert (status == "scored").sum() == 3 and status[f"study-1-{names['localizer']}"] == "refused"
    one = score(model, tmp_path / "d", f"--series={others['bone']}", "--device=cpu")
    assert set(one["slices"]["series_id"]) == {names["bone"]}
    expected = every["studies"].loc[f"study-1-{names['bone']}", COLUMNS]
    np.testing.assert_allclose(of_study(one), expected.to_numpy(float), rtol=0, atol=1e-6)
    by_name = score(model, tmp_path / "d", f"--series={names['bone']}")
    np.testing.assert_array_equal(of_study(by_name), of_study(one))
    capsys.readouterr()
    words = [f"--model={model}", f"--data={tmp_path / 'd'}", f"--to={tmp_path / 'x'}"]
    assert run.main(["score", *words, "--series=1.2.3"]) == 1
    assert "--series=1.2.3: no file has this SeriesInstanceUID" in error_line(capsys)


def test_a_stray_file_is_set_apart_and_its_series_is_read(model, head, tmp_path):
    uid = head.write_thick(tmp_path / "d/thick")
    head.write(
        tmp_path / "d/stray",
        head.positions[:1],
        head.hu[:1],
        SeriesInstanceUID=uid,
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
    )
    tables = score(model, tmp_path / "d")
    assert tables["quarantine"]["path"].tolist() == ["stray/0000.dcm"]
    assert "set apart from its series: another orientation" in tables["quarantine"]["reason"][0]
    assert len(tables["slices"]) == len(head.hu)


@pytest.mark.parametrize("part", ["KOPF", "SCHÄDEL", "TETE", "CABEZA", "NEURO", "DOE"])
def test_a_head_in_another_language_is_scored(model, head, tmp_path, part):
    head.write(tmp_path / "d/a", BodyPartExamined=part, SpecificCharacterSet="ISO_IR 100")
    tables = score(model, tmp_path / "d")
    assert tables["studies"]["status"].tolist() == ["scored"]
    assert tables["remarks"]["what"].str.contains("BodyPart").any() == (part == "DOE")
    assert "DOE" not in tables["page"]


def test_what_is_refused_names_the_way_out(model, head, tmp_path, capsys):
    head.write(tmp_path / "d/a", BodyPartExamined="CHEST")
    words = [f"--model={model}", f"--data={tmp_path / 'd'}", f"--to={tmp_path / 'x'}"]
    assert run.main(["score", *words]) == 1
    assert "BodyPartExamined is CHEST" in (out := capsys.readouterr().out) and "--anyway" in out
    assert run.main(["score", *words[:2], f"--to={tmp_path / 'y'}", "--anyway"]) == 0


@pytest.fixture
def own_data(competition, tmp_path):
    """Own data in Kaggle's layout: two patients to train on, one to predict, of two series each."""
    folder, rows = tmp_path / "own", {"stage_2_train": [], "stage_2_test": []}
    for number, split in enumerate(["stage_2_train"] * 2 + ["stage_2_test"]):
        head = Head(competition / "stage_2_train", number, patient=f"MRN{number}")
        head.write_thick(folder / split / f"{number}/soft")
        head.write(folder / split / f"{number}/bone", noise=40, ConvolutionKernel="H60s")
    import pydicom

    for split, ids in rows.items():
        for path in sorted((folder / split).rglob("*.dcm")):
            if split == "stage_2_train" or path.parent.name == "soft":
                ids.append(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        name = "stage_2_train" if split == "stage_2_train" else "stage_2_sample_submission"
        lines = [f"{uid}_{label},{n % 2}" for n, uid in enumerate(ids) for label in KAGGLE_ORDER]
        (folder / f"{name}.csv").write_text("\n".join(["ID,Label", *lines]) + "\n")
    return folder


def ingested(data, folder, *words):
    assert run.main(["new", f"--run={folder}", "--recipe=micro", f"--data={data}", *words]) == 0
    assert run.main(["ingest", f"--run={folder}", "--workers=1"]) == 0
    return read_table(folder / "slices.parquet")


def test_ingest_chooses_a_series_of_own_studies(own_data, tmp_path, capsys):
    slices = ingested(own_data, tmp_path / "r")
    assert "series not read" in capsys.readouterr().out
    assert (slices.groupby("study_id")["series_id"].nunique() == 1).all() and len(slices) == 15
    table = pd.read_csv(tmp_path / "r/series.csv")
    assert table["status"].tolist().count("read") == 3
    read = table[table["status"] == "read"]
    assert set(read["series_id"]) == set(slices["series_id"]) and set(read["kernel"]) == {"soft"}
    passed_over = table[table["status"] != "read"]
    # the sample names no slice of the test study's bone series; both train series have labels
    assert set(passed_over["reason"]) == {"bone kernel", "no labels"}
    counts = json.loads((tmp_path / "r/ingest.json").read_text())
    assert counts["series_passed_over"] == 3
    assert "receipts" and "MRN" not in (tmp_path / "r/series.csv").read_text()
    everything = ingested(own_data, tmp_path / "all", "--series=all")
    assert len(everything) == 30 and not (tmp_path / "all/series.csv").exists()


def test_series_of_much_thinner_slices_are_counted():
    assert thin_series(pd.Series([5, 4.8, 1, 2.3, np.nan, 10])) == 2
    assert thin_series(pd.Series([1.0, 1.2, 0.9])) == thin_series(pd.Series([], dtype=float)) == 0
    counts = dict.fromkeys(["train_slices", "train_studies", "test_slices", "test_studies"], 1)
    counts |= {"contradictory_labels": [], "patients_in_both_sets": [], "thin_series": 2}
    assert any(line.startswith("2 series with slices less than half") for line in describe(counts))


def test_ingest_prefers_the_labelled_series(own_data, tmp_path):
    """Labels of the bone series alone: it is read, and no label is asked of the other one."""
    import pydicom

    kept = {
        pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID
        for path in own_data.rglob("bone/*.dcm")
    }
    lines = (own_data / "stage_2_train.csv").read_text().splitlines()
    lines = [lines[0], *(line for line in lines[1:] if line.rsplit("_", 1)[0] in kept)]
    (own_data / "stage_2_train.csv").write_text("\n".join(lines) + "\n")
    slices = ingested(own_data, tmp_path / "r")
    train = slices[slices["split"] == "train"]
    assert len(train) == 10 and train[COLUMNS].notna().all(axis=None)
    table = pd.read_csv(tmp_path / "r/series.csv")
    assert set(table[(table["split"] == "train") & (table["status"] == "read")]["kernel"]) == {
        "bone"
    }


def test_nothing_changes_for_the_competition(finished):
    assert not (finished / "series.csv").exists()
    assert "series_passed_over" not in json.loads((finished / "ingest.json").read_text())


@pytest.mark.parametrize("apart", [1, 2])
def test_neighbours_of_stage_two_keep_the_training_distance(
    model, head, tmp_path, monkeypatch, apart
):
    """Slices twice as far apart as in training: a step is less than a place."""
    tables, build = [], slice_scores.build_features

    def recorded(slices, *args, **kwargs):
        tables.append(slices)
        return build(slices, *args, **kwargs)

    monkeypatch.setattr(slice_scores, "build_features", recorded)
    head.write(tmp_path / "in", head.positions[::apart], head.hu[::apart])
    words = [f"--model={model}", f"--data={tmp_path / 'in'}", f"--to={tmp_path / 'out'}"]
    assert run.main(["score", *words]) == 0
    if apart == 1:
        assert "step_places" not in tables[0]
        return
    typical = training_spacing(model_of_folder(str(model)).stage2["training"]).typical
    step = tables[0]["gap_below_mm"].median()
    assert 0 < typical < step
    np.testing.assert_allclose(tables[0]["step_places"], typical / step, rtol=1e-6)
