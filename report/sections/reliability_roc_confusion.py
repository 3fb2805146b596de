"""Quality of the out-of-fold probabilities: reliability, ROC, precision-recall, confusion."""

from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from ct.labels import LABELS, SUBTYPES
from ct.metrics import auc
from report.figures.probability_curves import (
    precision_recall_panel,
    reliability_panel,
    roc_panel,
)
from report.run_artifacts import KINDS, Artifacts
from report.study_browser import THRESHOLD


def reliability(art: Artifacts) -> list[tuple[str, Markup | None]]:
    """Return (label, reliability panel) of each label; [] without predictions."""
    truth, predictions = art.labels_and_predictions(KINDS)
    if not predictions:
        return []
    panels = []
    for j, label in enumerate(LABELS):
        of_label = {kind: p[:, j] for kind, p in predictions.items()}
        panels.append((label, reliability_panel(label, truth[:, j], of_label)))
    return panels


def curves(art: Artifacts) -> list[dict[str, Any]]:
    """Return a row a label: ROC and precision-recall panels, AUC and AP of each kind.

    All four are None where the slices are of one class.
    """
    truth, predictions = art.labels_and_predictions(art.compared)
    if not predictions:
        return []
    rows = []
    for j, label in enumerate(LABELS):
        y = truth[:, j]
        of_label = {kind: p[:, j] for kind, p in predictions.items()}
        row: dict[str, Any] = {
            "label": label,
            "roc": roc_panel(label, y, of_label),
            "precision": precision_recall_panel(label, y, of_label),
            "AUC": None,
            "AP": None,
        }
        if row["roc"]:
            known = [(y[np.isfinite(p)], p[np.isfinite(p)]) for p in of_label.values()]
            row["AUC"] = [auc(*pair) for pair in known]
            row["AP"] = [average_precision_score(*pair) for pair in known]
        rows.append(row)
    return rows


def confusion(art: Artifacts) -> list[tuple[str, list[tuple[str, int, list[float]]]]]:
    """Return the confusion of subtypes of each kind of prediction: [(kind, rows)].

    A row is (name, slices, shares of the columns), for the slices that are labelled with no bleed,
    with one subtype alone, or with several; no shares where there are no such slices. Columns: no
    bleed (`any` is predicted below THRESHOLD), else the subtype of the largest probability.
    """
    truth, predictions = art.labels_and_predictions(art.compared)
    labelled = _labelled_class(truth)
    tables = []
    for kind, p in predictions.items():
        known = np.isfinite(p).all(axis=1)
        largest = 1 + np.argmax(np.nan_to_num(p[:, 1:]), axis=1)
        predicted = np.where(p[:, 0] < THRESHOLD, 0, largest)
        rows = []
        for number, name in enumerate(("no bleed", *SUBTYPES, "several")):
            columns = predicted[known & (labelled == number)]
            counts = np.bincount(columns, minlength=len(LABELS))
            shares = [float(share) for share in counts / len(columns)] if len(columns) else []
            rows.append((name, len(columns), shares))
        tables.append((kind, rows))
    return tables


def _labelled_class(truth: NDArray[np.float64]) -> NDArray[np.integer]:
    """Return the class (n,) of labels (n, 6): 0 no bleed, 1 ... 5 one subtype, 6 several."""
    count = np.nansum(truth[:, 1:], axis=1)
    one_subtype = 1 + truth[:, 1:].argmax(axis=1)
    return np.where(count == 0, 0, np.where(count > 1, len(LABELS), one_subtype))
