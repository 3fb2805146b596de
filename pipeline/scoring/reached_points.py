"""Which operating points the probabilities of `score` reach: tables, and rows for its page."""

from pathlib import Path
from typing import Any

import pandas as pd

from ct.evaluation.operating_points import POINTS, point_table, reached_points
from ct.labels import LABELS
from ct.tables.spreadsheet import write_sheet
from pipeline.scoring.scoring_model import ScoringModel

SHORT = {"sensitivity": "sens.", "specificity": "spec."}


def write_reached_tables(
    folder: Path, model: ScoringModel, slices: pd.DataFrame, studies: pd.DataFrame
) -> None:
    """Write operating_points.csv, slices_reached.csv and studies_reached.csv.

    slices, studies: indexed tables with LABELS, NaN where unknown. An older model has no operating
    points: nothing is written.
    """
    points = model.stage2.get("operating_points")
    if not points:
        return
    write_sheet(folder / "operating_points.csv", point_table(points), index=False)
    for name, table in (("slices", slices), ("studies", studies)):
        write_sheet(folder / f"{name}_reached.csv", reached_points(table, points[name]))


def reached_of_studies(model: ScoringModel, studies: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return {study: {label: its reached operating points in words}}, {} without thresholds.

    studies: as returned by score_tables.study_table. A label without a threshold is left out.
    """
    points = (model.stage2.get("operating_points") or {}).get("studies", {})
    with_threshold = {
        label: [name for name in POINTS if "threshold" in points[label][name]]
        for label in LABELS
        if points
    }
    labels = [label for label, names in with_threshold.items() if names]
    scored = studies[studies["status"] == "scored"]
    if not labels or scored.empty:
        return {}
    rows = reached_points(scored, points).to_dict("index")
    return {
        str(study): {
            label: ", ".join(_words(n) for n in with_threshold[label] if row[f"{label}_{n}"] == 1)
            for label in labels
        }
        for study, row in rows.items()
    }


def points_in_words(model: ScoringModel) -> list[dict[str, Any]]:
    """Return the operating points of studies: label, name in words, and the values of the point."""
    points = (model.stage2.get("operating_points") or {}).get("studies", {})
    return [
        {"label": label, "name": _words(name), **points[label][name]}
        for label in LABELS
        for name in POINTS
        if points and "threshold" in points[label][name]
    ]


def _words(name: str) -> str:
    """Return the name of a point as a page prints it: "sens. 95 %"."""
    rate, percent = name.split("_")
    return f"{SHORT[rate]} {percent} %"
