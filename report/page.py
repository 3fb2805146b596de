"""Write the report of a run, and the page of one study: artifacts -> sections -> template."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ct.errors import InputError
from ct.labels import LABELS
from ct.run_dir import RunDir
from ct.storage.file_formats import write_text
from report.rendering import render
from report.run_artifacts import KINDS, Artifacts, read_run, thumbnail_reader
from report.sections.class_balance import balance, prevalence
from report.sections.cost_and_provenance import cost, provenance
from report.sections.data_quality import data_quality
from report.sections.example_studies import example_studies
from report.sections.feature_importance import importances
from report.sections.greatest_losses import greatest_losses
from report.sections.label_scores import ablation, label_scores
from report.sections.learning_and_tuning import learning, tuning
from report.sections.reliability_roc_confusion import confusion, curves, reliability
from report.sections.studies_to_browse import browser, choose_studies
from report.sections.summary import summary
from report.study_browser import BROWSER_SLICES

# variable of the templates -> function that returns its value from the artifacts alone
SECTIONS: Mapping[str, Callable[[Artifacts], Any]] = {
    "summary": summary,
    "label_scores": label_scores,
    "ablation": ablation,
    "reliability": reliability,
    "curves": curves,
    "confusion": confusion,
    "learning": learning,
    "tuning": tuning,
    "importances": importances,
    "balance": balance,
    "prevalence": prevalence,
    "data": data_quality,
    "cost": cost,
    "provenance": provenance,
}


def write_report(
    run: RunDir,
    progress: Callable[[str], object] = lambda section: None,
    browser_slices: int = BROWSER_SLICES,
) -> Path:
    """Write the report of a run as one HTML file that needs no other file, and return its path.

    progress: called with the name of each section as it begins; browser_slices: in the study
    browser at most

    Raises InputError where recipe.yaml, slices.parquet or ingest.json is missing. Where the files
    of later stages are missing, the page says so.
    """
    progress("reading the run")
    art = read_run(run)
    context = {"art": art, "labels": LABELS, "name": _run_name(art, run), **_common_values(art)}
    for section, function in SECTIONS.items():
        progress(section)
        context[section] = function(art)
    progress("studies")
    context["example_studies"] = example_studies(art, thumbnail_reader(run, art))
    progress("browser")
    shown = choose_studies(art, browser_slices)
    context["shown"] = shown
    context["greatest_losses"] = greatest_losses(art, shown)
    context["browser"] = browser(art, run, shown)
    write_text(run.report, render("report.html", context))
    return run.report


def write_study(run: RunDir, study: str) -> Path:
    """Write the page of one study and return its path.

    Raises InputError where the run has no such study.
    """
    art = read_run(run)
    if study not in set(art.slices["study_id"]):
        raise InputError(
            f"--study={study}: the run has no such study; slices.parquet lists them in study_id"
        )
    context = {
        "name": _run_name(art, run),
        "study": study,
        "browser": browser(art, run, {study: ""}),
    }
    write_text(run.study_page(study), render("study.html", context))
    return run.study_page(study)


def shown_studies(run: RunDir, slices: int = BROWSER_SLICES) -> list[str]:
    """Return the ids of the studies in the study browser of a run's report."""
    return list(choose_studies(read_run(run), slices))


def _run_name(art: Artifacts, run: RunDir) -> str:
    return art.recipe.get("name", run.root.name)


def _common_values(art: Artifacts) -> dict[str, Any]:
    """Return the values that several templates use. kinds, compared: [(kind, its name)]."""
    return {
        "kinds": [(kind, KINDS[kind]) for kind in KINDS if getattr(art, kind) is not None],
        "compared": [(kind, KINDS[kind]) for kind in art.compared],
        "has_final": art.final is not None,
        "stage_two_missing": "Stage two has not run yet.",
    }
