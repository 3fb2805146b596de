"""The report of a fabricated run: whole pages, missing artifacts, text from outside."""

import re

import numpy as np
import pytest
from parsed_page import page_of
from test_content_security import check

from ct.errors import InputError
from ct.labels import LABELS
from ct.run_dir import RunDir
from ct.storage.atomic_write import discard
from ct.storage.file_formats import read_json, read_table, write_json, write_table
from report import write_report, write_study

pytest_plugins = "report_fixtures"


SECTIONS = [
    "summary",
    "labels",
    "studies",
    "study-browser",
    "calibration",
    "curves",
    "confusion",
    "learning",
    "tuning",
    "features",
    "folds",
    "test-set",
    "data",
    "cost",
    "provenance",
]


def test_the_policy_allows_only_the_pages_own_script_and_style(whole, report_run):
    check(whole[0])
    study = read_table(report_run.slices)["study_id"].iloc[0]
    check(write_study(report_run, study).read_text())


def test_the_page_is_whole(whole):
    """Every section once and in order, balanced tags, no skipped heading level, unique ids."""
    text, page, run = whole
    assert page.sections == SECTIONS
    assert page.lang == "en" and page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(
        after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False)
    )
    assert len(page.ids) == len(set(page.ids))
    assert set(page.scopes) <= {"row", "col", "colgroup"} and "row" in page.scopes
    assert (
        {link[1:] for link in page.links if link.startswith("#") and "=" not in link} - {"browser"}
        == set(SECTIONS) - {"summary"}
        <= set(page.ids)
    )
    assert "has not run" not in text and "Not a medical device" in text
    assert "out of fold: neither models nor settings were fitted on the scored patients" in text


def test_the_page_loads_nothing(whole):
    """Pictures and scripts are in the page, and pictures have an alternative text."""
    text, page, _ = whole
    assert all(link.startswith(("#", "data:image/jpeg;base64,")) for link in page.links)
    assert not re.search(
        r"<script[^>]+src|@import|url\(|fetch\(|https?://(?!www.w3.org/2000/svg)", text
    )
    assert page.images and all(image["alt"] for image in page.images)
    assert len(text) < 6e6


def test_text_from_outside_is_escaped(whole):
    """A reason that holds a script stays text."""
    text, page, _ = whole
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<b>in all" not in text
    assert page.row("stage_2_train/ID_6431af929.dcm")[1:] == [
        '<script>alert(1)</script> & "no header"',
        "train",
        "header",
    ]


def test_no_absolute_path_is_shown(whole):
    """Not of the data, of the run, of receipts or of reasons."""
    text, _, run = whole
    assert str(run.root.parent) not in text and "somebody" not in text and "/home" not in text
    assert (
        "source: rsna" in text
        and "labels: train.csv" in text
        and "…/x.dcm: 12 of 524288 bytes" in text
    )


def test_the_same_run_gives_the_same_bytes(report_run):
    """Progress names the sections as they begin."""
    names = []
    first = write_report(report_run, names.append).read_bytes()
    assert first == write_report(report_run).read_bytes()
    assert names[0] == "reading the run" and names[-1] == "browser"


def test_a_run_without_contributions(report_run):
    """A run of an earlier version, which also has no intervals of the losses."""
    (report_run.stage2 / "contributions.parquet").unlink()
    scores = read_json(report_run.stage2 / "scores.json")
    for score in (*scores["models"].values(), scores["calibrated"], scores["stage_two"]):
        del score["weighted"]["low"], score["weighted"]["high"]
    write_json(report_run.stage2 / "scores.json", scores)
    text, page = page_of(report_run)
    assert "By SHAP" not in text and "By gain" in text and page.sections == SECTIONS


def test_stage_one_alone(report_run):
    """The sections of stage two print a line instead; the others are complete."""
    discard(report_run.stage2)
    for stage in ("features", "tune", "stack", "submit"):
        report_run.receipt(stage).unlink()
    text, page = page_of(report_run)
    assert page.sections == SECTIONS
    assert text.count("Stage two has not run yet") >= 4 and "mean of the CNNs" in text
    assert page.images and "stage two</li>" not in text


def test_ingest_alone(report_run):
    """A run that has only ingested also has a page."""
    for path in (
        report_run.stage1,
        report_run.stage2,
        report_run.folds,
        report_run.pixels,
        report_run.root / "receipts",
    ):
        discard(path)
    text, page = page_of(report_run)
    assert page.sections == SECTIONS and not page.images
    for sentence in (
        "No out-of-fold predictions",
        "No learning curves",
        "folds have not been made",
        "No receipts",
    ):
        assert sentence in text


def test_an_empty_folder_is_refused(tmp_path):
    """The message names the missing file."""
    with pytest.raises(InputError, match="recipe.yaml is not there"):
        write_report(RunDir(tmp_path))


@pytest.mark.parametrize("content", ["", "path,slice_id,split,kind,reason\n"])
def test_an_empty_quarantine(report_run, content):
    report_run.quarantine.write_text(content)
    text, _ = page_of(report_run)
    assert "Empty: all files are readable." in text and "<b>0</b> files in quarantine" in text


def test_no_test_set_and_unlabelled_slices(report_run):
    """Train slices without labels count in no score."""
    table = read_table(report_run.slices)
    table.iloc[:5, table.columns.get_indexer(list(LABELS))] = np.nan
    write_table(report_run.slices, table[table["split"] == "train"])
    for path in report_run.root.rglob("*test.parquet"):
        path.unlink()
    text, page = page_of(report_run)
    assert "No predictions on a test set yet" in text and page.sections == SECTIONS
