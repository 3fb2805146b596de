"""Reliability, ROC and precision-recall curves of one label."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from ct.metrics import reliability
from report.figures.svg import LINES, svg_panel, unit_axes

LOW = 0.02  # most slices are predicted below this; they are one dot of the reliability curve
SLICES_PER_DOT, MOST_DOTS = 40, 8  # of the others; fewer slices per dot are noise
POINTS = 120  # of a curve at most
QUARTERS = [0, 0.25, 0.5, 0.75, 1]  # ticks
Predictions = Mapping[str, NDArray[np.floating]]  # kind of prediction -> probabilities (n,)


@svg_panel
def reliability_panel(
    label: str, truth: NDArray[np.floating], predictions: Predictions, rows: str = "slices"
) -> tuple[Figure, str]:
    """Draw the reliability curves of one label.

    truth: (n,) 0 or 1; predictions: {kind: probabilities (n,)}; rows: what the rows are, in words.
    Those with NaN are left out.
    """
    figure, axes = unit_axes(
        "predicted", "observed", [0, 0.02, 0.1, 0.25, 0.5, 1], (np.sqrt, np.square)
    )
    axes.plot([0, 1], [0, 1], gid="chance", **LINES["chance"])
    ends = []
    for kind, p in predictions.items():
        known = np.isfinite(p)
        if known.any():
            predicted, observed = reliability_dots(truth[known], p[known])
            axes.plot(predicted, observed, marker="o", gid=kind, **LINES[kind])
            ends.append(
                f"{kind}: {predicted[-1]:.2f} predicted, {observed[-1]:.2f} observed "
                "in the highest group"
            )
    return figure, (
        f"Reliability of {label}: share of positive {rows} against predicted probability. "
        f"{'; '.join(ends)}"
    )


def reliability_dots(
    truth: NDArray[np.floating], p: NDArray[np.floating]
) -> list[NDArray[np.floating]]:
    """Return [mean prediction, share of positives] of each dot of a reliability curve.

    All rows under LOW are one dot, the others are split into equal groups.
    """
    low = p < LOW
    groups = int(np.clip((~low).sum() // SLICES_PER_DOT, 1, MOST_DOTS))
    first = reliability(truth[low], p[low], bins=1)
    others = reliability(truth[~low], p[~low], groups)
    return [np.concatenate([first[i], others[i]]) for i in (0, 1)]


@svg_panel
def roc_panel(
    label: str, truth: NDArray[np.floating], predictions: Predictions
) -> tuple[Figure, str] | None:
    """Draw the ROC curves of one label; None where the slices are all of one class.

    Arguments as in `reliability_panel`.
    """
    curves = _of_both_classes(truth, predictions)
    if not curves:
        return None
    figure, axes = unit_axes("false positive rate", "sensitivity", QUARTERS)
    axes.plot([0, 1], [0, 1], gid="chance", **LINES["chance"])
    points = []
    for kind, (y, p) in curves.items():
        false_positive, true_positive, _ = roc_curve(y, p)
        axes.plot(*_thinned(false_positive, true_positive), gid=kind, **LINES[kind])
        points.append(f"{kind}: {np.interp(0.1, false_positive, true_positive):.2f} at 0.1")
    alt = f"ROC curve of {label}: sensitivity against false positive rate. {'; '.join(points)}"
    return figure, alt


@svg_panel
def precision_recall_panel(
    label: str, truth: NDArray[np.floating], predictions: Predictions
) -> tuple[Figure, str] | None:
    """Draw precision against sensitivity of one label; None where all slices are of one class.

    Arguments as in `reliability_panel`.
    """
    points = []
    figure, axes = unit_axes("sensitivity", "precision", QUARTERS)
    for kind, (y, p) in _of_both_classes(truth, predictions).items():
        # without the last point (recall 0, precision 1), which scikit-learn adds
        precision, recall = (values[-2::-1] for values in precision_recall_curve(y, p)[:2])
        axes.plot([0, 1], [y.mean()] * 2, gid="chance", **LINES["chance"])
        axes.plot(*_thinned(recall, precision), gid=kind, **LINES[kind])
        points.append(f"{kind}: {np.interp(0.8, recall, precision):.2f} at 0.8")
    alt = f"Precision of {label} against sensitivity. {'; '.join(points)}"
    return (figure, alt) if points else None


def _of_both_classes(
    truth: NDArray[np.floating], predictions: Predictions
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Return {kind: (labels, probabilities)} without NaN; {} where one has a single class."""
    known = {kind: np.isfinite(p) for kind, p in predictions.items()}
    if not all(0 < truth[k].sum() < k.sum() for k in known.values()):
        return {}
    return {kind: (truth[k], predictions[kind][k]) for kind, k in known.items()}


def _thinned(xs: NDArray[Any], ys: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return at most POINTS points of a curve, evenly along its length.

    The points of a curve crowd near its corners.
    """
    length = np.concatenate([[0], np.cumsum(np.abs(np.diff(xs)) + np.abs(np.diff(ys)))])
    nearest = np.searchsorted(length, np.linspace(0, length[-1], POINTS))
    rows = np.unique(nearest.clip(0, len(length) - 1))
    return xs[rows], ys[rows]
