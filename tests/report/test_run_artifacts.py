"""Artifacts of a run: predictions of stage one, and text without paths and names."""

import numpy as np
import pandas as pd
import pytest
from fabricated_run import FOLDS, MODELS
from parsed_page import page_of
from scipy.special import expit

from ct.averaging import to_logits
from ct.storage.file_formats import read_json, read_table, write_yaml
from ct.yaml_file import read_yaml
from report.path_removal import recipe_without_paths, without_folders
from report.run_artifacts import read_run

pytest_plugins = "report_fixtures"


def logits_of(path, index=None):
    """The logits of a table of probabilities."""
    table = read_table(path)
    return to_logits(table if index is None else table.reindex(index), 1e-5)


def weights_of(run, fit):
    """The weights of the models in a fit, of any label."""
    fits = read_json(run.cnn_weights)
    return [fits[fit][model]["any"] for model in MODELS]


@pytest.mark.parametrize("kind", ["fitted", "of another run", "older", "equal by the recipe"])
def test_the_mean_of_the_cnns_is_that_of_stage_two(report_run, kind):
    """Of logits, with the weights that are fitted without the slice's fold.

    A test patient who is also in train gets the mean of the patient's own fold alone.
    """
    recipe = read_yaml(report_run.recipe)
    if kind == "of another run":
        write_yaml(report_run.recipe, recipe | {"folds": {"k": FOLDS + 1}})
    elif kind == "older":
        report_run.cnn_weights.unlink()
    elif kind == "equal by the recipe":
        write_yaml(report_run.recipe, recipe | {"features": {"cnn_weights": "equal"}})
    art = read_run(report_run)

    def weights(fit):
        return weights_of(report_run, fit) if kind == "fitted" else [0.5, 0.5]

    oof = [logits_of(report_run.oof(model), art.raw.index) for model in MODELS]
    fold = art.slices["fold"]
    for k in range(FOLDS):
        own = (fold[art.raw.index] == k).to_numpy()
        first, second = weights(f"without fold {k}")
        mean = expit(first * oof[0][own] + second * oof[1][own])
        np.testing.assert_allclose(art.raw[own], mean, rtol=1e-5)
        assert own.any()
    assert art.raw.iloc[3].isna().all() and art.raw.notna().all(axis=1).sum() == len(art.raw) - 1
    assert bool(art.cnn_weights) == (kind == "fitted")
    if kind == "of another run":
        return
    index, per_fold = art.raw_test.index, []
    for k in range(FOLDS):
        tables = [report_run.fold(model, k) / "test.parquet" for model in MODELS]
        per_fold.append([logits_of(path, index) for path in tables])
    both = fold[index].to_numpy() == 0
    assert both.sum() == 8 and (fold[index][~both] < 0).all()
    first, second = weights("without fold 0")
    mean = expit(first * per_fold[0][0] + second * per_fold[0][1])
    np.testing.assert_allclose(art.raw_test[both], mean[both], rtol=1e-5)
    first, second = weights("of all folds")
    means = [expit(first * each[0] + second * each[1]) for each in per_fold]
    np.testing.assert_allclose(art.raw_test[~both], np.mean(means, axis=0)[~both], rtol=1e-5)


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
