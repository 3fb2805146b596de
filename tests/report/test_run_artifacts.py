"""Artifacts of a run: predictions of stage one, and text without paths and names."""

import numpy as np
import pandas as pd
import pytest
from fabricated_run import FOLDS, MODELS
from parsed_page import page_of
from scipy.special import expit

from ct.averaging import mean_logits, to_logits
from ct.labels import LABELS
from ct.storage.file_formats import read_table
from report.path_removal import recipe_without_paths, without_folders
from report.run_artifacts import read_run

pytest_plugins = "report_fixtures"


def test_the_mean_of_the_cnns_is_of_logits(report_run):
    """A test patient who is also in train gets the mean of the patient's own fold alone."""
    art = read_run(report_run)
    two = [
        read_table(report_run.oof(model)).iloc[7].to_numpy(float).clip(1e-5, 1 - 1e-5)
        for model in MODELS
    ]
    odds = np.sqrt(two[0] / (1 - two[0]) * two[1] / (1 - two[1]))
    np.testing.assert_allclose(art.raw.iloc[7], odds / (1 + odds), rtol=1e-6)
    assert art.raw.iloc[3].isna().all()
    folds = []
    for k in range(FOLDS):
        tables = [read_table(report_run.fold(model, k) / "test.parquet") for model in MODELS]
        logits = {str(i): to_logits(table, 1e-5) for i, table in enumerate(tables)}
        mean = expit(mean_logits(logits))
        folds.append(pd.DataFrame(mean, tables[0].index, list(LABELS)))
    both = art.slices.index[
        (art.slices["split"] == "test") & (art.slices["patient_id"] == "ID_00000000")
    ]
    others = art.raw_test.index.difference(both)
    assert len(both) == 8
    pd.testing.assert_frame_equal(art.raw_test.loc[both], folds[0].loc[both])
    pd.testing.assert_frame_equal(art.raw_test.loc[others], sum(folds).loc[others] / FOLDS)


def test_only_the_scheme_of_a_database_url_is_shown():
    recipe = {"stage2": {"storage": "postgresql://me:secret@host/db"}}
    assert recipe_without_paths(recipe) == {"stage2": {"storage": "postgresql://…"}}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open /data/x/y.dcm", "cannot open …/y.dcm"),
        (r"C:\scans\new\y.dcm: no pixels", "…/y.dcm: no pixels"),
        ("train/y.dcm has 1/2 of it", "train/y.dcm has 1/2 of it"),
        ("half / whole, train/y.dcm", "half / whole, train/y.dcm"),
        ("cannot open /data/Smith John/a b/y.dcm", "cannot open …/y.dcm"),
        ("no file '/data/John O'Neill/y.dcm' there", "no file '…/y.dcm' there"),
        (r"D:\Smith John\y.dcm: no pixels", "…/y.dcm: no pixels"),
    ],
)
def test_absolute_paths_lose_their_folders(text, shown):
    """Relative paths and fractions stay."""
    assert without_folders(text) == shown


def test_a_reason_names_no_other_file_and_quotes_no_tag(report_run):
    """quarantine.csv holds the file that a copy equals and, in older runs, a tag's value."""
    rows = [
        "same SOPInstanceUID as stage_2_train/Jane Doe/a.dcm",
        "cannot be decoded: no value of 'Jane Doe'",
        "empty file",
    ]
    table = pd.DataFrame(
        {
            "path": "stage_2_train/Jane Doe/x",
            "slice_id": list("abc"),
            "split": "train",
            "kind": "header",
        }
    )
    table.assign(reason=rows).to_csv(report_run.quarantine, index=False)
    text, _ = page_of(report_run)
    assert (
        "Jane" not in text
        and "same SOPInstanceUID as another file" in text
        and "empty file" in text
    )
