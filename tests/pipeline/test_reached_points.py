"""`score` lists which operating points are reached; models of older versions have none."""

import copy
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from test_packed_model import assert_refused, pack_again

import run
from ct.evaluation.operating_points import POINTS
from ct.labels import LABELS
from ct.storage.file_formats import read_json, read_table
from pipeline.scoring.packed_model import model_of_folder

FILES = ("operating_points.csv", "slices_reached.csv", "studies_reached.csv")
RATE = {"value": 0.9, "low": 0.8, "high": 0.95}


def point(threshold):
    return {"threshold": threshold, "sensitivity": RATE, "specificity": RATE}


def with_points(model, target, threshold):
    """A copy of a packed model that has thresholds, but none for epidural."""
    folder, stage2 = shutil.copytree(model, target), read_json(model / "stage2.json")
    of_label = {label: {name: point(threshold) for name in POINTS} for label in LABELS}
    of_label["epidural"] = {name: {"why": "0 patients with positives"} for name in POINTS}
    stage2["operating_points"] = {"slices": of_label, "studies": copy.deepcopy(of_label)}
    (folder / "stage2.json").write_text(json.dumps(stage2))
    pack_again(folder)
    return folder


@pytest.fixture(scope="module")
def scored(older_version, competition, tmp_path_factory):
    """The folders of `score` with an older model, and with the same model with thresholds."""
    folder = tmp_path_factory.mktemp("reached")
    models = {"older": older_version / "model"}
    models["newer"] = with_points(models["older"], folder / "model", 0.3)
    for name, model in models.items():
        words = [f"--data={competition / 'stage_2_test'}", f"--to={folder / name}"]
        assert run.main(["score", *words, f"--model={model}"]) == 0
    return folder


def test_an_older_model_writes_the_same_files_as_before(scored):
    assert not [name for name in FILES if (scored / "older" / name).exists()]
    assert "Operating points" not in (scored / "older" / "page.html").read_text()
    for path in (scored / "older").iterdir():
        if path.name != "page.html":
            assert path.read_bytes() == (scored / "newer" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("name", ["slices", "studies"])
def test_the_tables_list_what_is_reached(scored, name):
    table = read_table(scored / "newer" / f"{name}.parquet")
    reached = pd.read_csv(scored / "newer" / f"{name}_reached.csv", index_col=0)
    assert reached.index.equals(table.index) and list(reached) == [
        f"{label}_{point}" for label in LABELS for point in POINTS
    ]
    for label in set(LABELS) - {"epidural"}:
        expected = (table[label] >= 0.3).astype(int)
        np.testing.assert_array_equal(reached[f"{label}_specificity_90"], expected)
    assert reached.filter(like="epidural").isna().all(axis=None)
    sheet = pd.read_csv(scored / "newer" / "operating_points.csv")
    assert sheet.groupby(["level", "label"]).size().eq(4).all() and len(sheet) == 48
    assert set(sheet.loc[sheet["label"] == "epidural", "why"]) == {"0 patients with positives"}


def test_the_page_shows_them(scored):
    page = (scored / "newer" / "page.html").read_text()
    section = page.partition('id="points"')[2].partition("</section>")[0]
    studies = read_table(scored / "newer" / "studies.parquet")
    for label in set(LABELS) - {"epidural"}:
        words = "sens. 95 %, sens. 90 %, spec. 90 %, spec. 95 %"
        assert (words in section) == (studies[list(LABELS)].drop(columns="epidural") >= 0.3).any(
            axis=None
        ), label
    assert "90.00 %" in section and "epidural" not in section


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda points: points.pop("studies"), "studies: an operating point of any is missing"),
        (
            lambda points: points["slices"]["any"].pop("sensitivity_90"),
            "slices: an operating point of any is missing",
        ),
        (
            lambda points: points["slices"]["any"].update(sensitivity_90={"threshold": 0.5}),
            "a point has a threshold and both rates, or why it has none",
        ),
        (
            lambda points: points["slices"]["any"].update(sensitivity_90=point(1.5)),
            "threshold",
        ),
    ],
)
def test_points_that_cannot_be_are_refused(older_version, tmp_path, damage, message):
    folder = with_points(older_version / "model", tmp_path / "model", 0.5)
    assert model_of_folder(folder).stage2["operating_points"]
    values = json.loads((folder / "stage2.json").read_text())
    damage(values["operating_points"])
    (folder / "stage2.json").write_text(json.dumps(values))
    pack_again(folder)
    assert_refused(folder, message)


def test_export_model_packs_the_points_of_the_run(kept, tmp_path):
    assert run.main(["export-model", f"--run={kept}", f"--to={tmp_path / 'model'}"]) == 0
    points = model_of_folder(tmp_path / "model").stage2["operating_points"]
    card = (tmp_path / "model" / "README.md").read_text()
    assert read_json(tmp_path / "model" / "card.json")["operating_points"] == points
    why = points["studies"]["any"]["sensitivity_95"]["why"]  # of a handful of patients
    assert "are needed" in why and f"none: {why}" in card
