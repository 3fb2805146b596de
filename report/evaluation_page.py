"""The page that `evaluate` writes: figures with intervals, curves, groups, training ranges."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ct.evaluation.label_figures import Evaluated
from ct.labels import LABELS
from ct.storage.file_formats import write_text
from report.figures.probability_curves import reliability_panel, roc_panel
from report.rendering import render

POINT_NAMES = {
    "sensitivity_95": "sensitivity 95 %",
    "sensitivity_90": "sensitivity 90 %",
    "specificity_90": "specificity 90 %",
    "specificity_95": "specificity 95 %",
    "half": "probability of 50 %",
}
LEFT_OUT = {  # key of the counts -> in words
    "unlabelled_studies": "studies without labels",
    "incomplete_labels": "rows of the labels without all six",
    "unmatched_labels": "rows of the labels that name nothing of the data",
    "unclear_studies": "studies whose labels are unclear: a row names several, or rows differ",
    "labels_without_a_scored_slice": "labelled slices that were not scored",
    "partly_labelled_studies": "studies with unlabelled slices, not in the figures of studies",
    "labels_without_predictions": "labels without predictions",
    "predictions_without_labels": "predictions without labels",
}


def write_evaluation_page(
    path: Path,
    name: str,
    levels: Mapping[str, Evaluated],
    values: Mapping[str, Any],
    groups: Mapping[str, pd.DataFrame],
) -> None:
    """Write the page as one HTML file that needs no other file.

    name: of the model's recipe; levels: {"slices" or "studies": Evaluated}; values: of
    evaluation.json; groups: {level: as returned by group_table}
    """
    context = {
        "name": name,
        "labels": LABELS,
        "levels": {
            level: {
                "result": values[level],
                "curves": [_panels(evaluated, label, level) for label in LABELS],
                "groups": _group_rows(groups[level]),
            }
            for level, evaluated in levels.items()
        },
        "point_names": POINT_NAMES,
        "notes": values["notes"],
        "left_out": [(LEFT_OUT[key], n) for key, n in values["left_out"].items() if n],
        "ranges": values["training_ranges"],
    }
    write_text(path, render("evaluation.html", context))


def _panels(evaluated: Evaluated, label: str, level: str) -> dict[str, Any]:
    """Return the reliability and ROC panels of one label. level: slices or studies"""
    truth = evaluated.truth[label].to_numpy(np.float64)
    predictions = {"final": evaluated.probs[label].to_numpy(np.float64)}
    return {
        "label": label,
        "reliability": reliability_panel(label, truth, predictions, level),
        "roc": roc_panel(label, truth, predictions),
    }


def _group_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of `any`, with None where a figure is undefined."""
    rows = table[table["label"] == "any"].astype(object)
    records: list[dict[str, Any]] = rows.where(rows.notna(), None).to_dict("records")
    return records
