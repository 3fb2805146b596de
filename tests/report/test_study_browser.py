"""Data of the study browser: chosen studies, and pixels, predictions and maps of each slice."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ct.errors import InputError
from ct.labels import LABELS
from ct.storage.atomic_write import discard
from ct.storage.file_formats import write_array, write_json
from report import shown_studies, write_study
from report.hu_png import HU, encode, slice_png
from report.run_artifacts import read_run
from report.sections.greatest_losses import greatest_losses
from report.sections.studies_to_browse import browser, choose_studies

pytest_plugins = "report_fixtures"


def pixels(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_a_byte_stands_for_the_nearest_hu():
    hu = np.arange(-2000, 4000, dtype=np.int16)
    back = HU[encode(hu)]
    assert len(HU) == 256 and (np.diff(HU) > 0).all()
    assert (back[(hu >= -20) & (hu < 120)] == hu[(hu >= -20) & (hu < 120)]).all()
    nearest = HU[np.abs(hu[:, None] - HU).argmin(axis=1)]
    assert (np.abs(back - hu) == np.abs(nearest - hu)).all()


def test_a_picture_keeps_its_sides_and_is_averaged_down():
    hu = np.full((64, 64), 40, np.int16)
    hu[5, 60] = 90  # near the top, at the right
    assert (HU[pixels(slice_png(hu))] == hu).all()
    large = np.full((512, 512), -1000, np.int16)
    large[:, ::2] = 1000
    assert (
        pixels(slice_png(large)).shape == (256, 256) and abs(HU[pixels(slice_png(large))]).max() < 2
    )


def test_studies_are_chosen_up_to_the_limit(report_run):
    art = read_run(report_run)
    chosen = choose_studies(art, 80)
    assert sum((art.slices["study_id"] == study).sum() for study in chosen) == 80  # 10 studies of 8
    worst = greatest_losses(art, chosen)["studies"][0]
    assert worst["study"] in chosen and worst["shown"]
    assert "drawn at random" in chosen.values() and list(chosen) == list(
        choose_studies(art, 80)
    ) == shown_studies(report_run, 80)
    assert (
        set(choose_studies(art, 10**6)) == set(art.slices["study_id"])
        and choose_studies(art, 7) == {}
    )


def test_the_greatest_losses(report_run):
    art = read_run(report_run)
    table = greatest_losses(art, {})
    y, p = (
        art.labelled[list(LABELS)].to_numpy(),
        art.final.loc[art.labelled.index, list(LABELS)].to_numpy(),
    )
    each = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    loss = each @ np.array([2, 1, 1, 1, 1, 1]) / 7
    first = table["slices"][0]
    assert first["slice"] == art.labelled.index[loss.argmax()] and first["loss"] == pytest.approx(
        loss.max()
    )
    assert first["label"] == LABELS[each[loss.argmax()].argmax()] and not first["shown"]
    assert table["studies"][0]["share"] == pytest.approx(
        loss.reshape(-1, 8).sum(axis=1).max() / loss.sum()
    )


def test_each_slice_has_its_own_numbers(report_run):
    """Out of fold on train, combined on test; the pixels are those of the slice's row."""
    art = read_run(report_run)
    for split, table in (("train", art.final), ("test", art.final_test)):
        rows = art.slices[art.slices["split"] == split]
        study = rows["study_id"].iloc[-1]
        data = browser(art, report_run, {study: "why"})
        (shown,) = data["studies"]
        assert [kind for kind, _ in data["kinds"]] == ["calibrated", "final"]
        assert shown["slices"] == list(rows.index[-8:]) and shown["about"].startswith(split)
        np.testing.assert_allclose(
            shown["p"][1], table.loc[shown["slices"], list(LABELS)], atol=6e-5
        )
        assert (shown["truth"][0] == [None] * 6) == (split == "test")
        row = art.slices.index.get_loc(shown["slices"][2])
        assert (HU[pixels(shown["pictures"][2])] == row % 80).all()


def test_without_pixels_there_are_only_curves(report_run):
    discard(report_run.pixels)
    art = read_run(report_run)
    assert browser(art, report_run, choose_studies(art, 8))["studies"][0]["pictures"] is None


def test_maps_must_be_of_the_same_slices(report_run):
    art = read_run(report_run)
    study = art.slices["study_id"].iloc[0]
    ids = list(art.slices.index[art.slices["study_id"] == study])
    maps = np.random.default_rng(0).integers(0, 256, (8, 6, 3, 2)).astype(np.uint8)
    facts, array = report_run.gradcam_maps("vgg", study)
    write_array(array, maps)
    write_json(facts, {"slices": ids, "folds": [1], "from": "the CNN of fold 1", "layer": "layer4"})
    (of_cnn,) = browser(art, report_run, {study: ""})["studies"][0]["maps"]
    assert (
        of_cnn["shape"] == [3, 2]
        and base64.b64decode(of_cnn["data"]) == maps.tobytes()
        and of_cnn["model"] == "vgg"
    )
    write_json(facts, {"slices": ids[::-1], "folds": [1], "from": "", "layer": ""})
    with pytest.raises(ValueError, match="other slices"):
        browser(art, report_run, {study: ""})


def test_the_page_of_one_study(report_run):
    study = read_run(report_run).slices["study_id"].iloc[3]
    path = write_study(report_run, study)
    assert (
        path == report_run.root / "studies" / f"{study}.html"
        and f"<h1>{study}</h1>" in path.read_text()
    )
    with pytest.raises(InputError, match="--study=../x: the run has no such study"):
        write_study(report_run, "../x")
