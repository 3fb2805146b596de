"""The figures of an evaluation: of each label, and of groups of slices or studies."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.evaluation.calibration_line import calibration_bins, calibration_line
from ct.evaluation.operating_points import POINTS, Point
from ct.evaluation.patient_draws import (
    Interval,
    PatientDraws,
    draw_patients,
    drawn_aucs,
    interval_of,
    mean,
    rate,
)
from ct.labels import LABELS, WEIGHTS
from ct.metrics import FEWEST_PATIENTS, auc, log_loss

HALF = "half"  # the operating point at a probability of .5


class Evaluated(NamedTuple):
    """Labelled slices, or labelled studies, with their probabilities.

    truth:    (n, 6) 0 or 1, columns LABELS
    probs:    (n, 6) probabilities, the same columns and index
    patients: (n,)
    groups:   (n, g) text, a column a kind of group
    """

    truth: pd.DataFrame
    probs: pd.DataFrame
    patients: NDArray[np.object_]
    groups: pd.DataFrame


def figures(
    evaluated: Evaluated, points: Mapping[str, Mapping[str, Point]] | None, seed: int = 0
) -> dict[str, Any]:
    """Return the counts, the weighted log loss and the figures of each label.

    points: {label: {name: operating point}} of the model, None where it has none
    """
    y, p = (table.to_numpy(np.float64) for table in (evaluated.truth, evaluated.probs))
    draws = draw_patients(evaluated.patients, seed)
    labels: dict[str, Any] = {}
    for j, label in enumerate(LABELS):
        labels[label] = label_figures(y[:, j], p[:, j], draws)
        thresholds = {name: (points or {}).get(label, {}).get(name, {}) for name in POINTS}
        reached = {
            name: point_figures(y[:, j], p[:, j], point["threshold"], draws)
            for name, point in {**thresholds, HALF: {"threshold": 0.5}}.items()
            if "threshold" in point
        }
        labels[label]["operating_points"] = reached
    return {
        "rows": len(y),
        "patients": draws.counts.shape[1],
        "weighted_log_loss": mean(log_loss(y, p) @ WEIGHTS, draws),
        "labels": labels,
    }


def label_figures(y: NDArray[Any], p: NDArray[Any], draws: PatientDraws) -> dict[str, Any]:
    """Return the figures of one label: counts, AUC, log loss, calibration.

    y: (n,) 0 or 1; p: (n,) probabilities. What is undefined is None.
    """
    line = calibration_line(y, p)
    return {
        "positives": int(y.sum()),
        "auc": auc_interval(y, p, draws),
        "log_loss": mean(log_loss(y, p), draws),
        "calibration": {
            "slope": line[0] if line else None,
            "intercept": line[1] if line else None,
            "expected": float(p.mean()),
            "observed": float(y.mean()),
            "bins": calibration_bins(y, p),
        },
    }


def auc_interval(y: NDArray[Any], p: NDArray[Any], draws: PatientDraws) -> Interval | None:
    """Return the AUC with its interval over patients; None where y has one class.

    It has no interval where one patient alone has positives, or one alone has negatives.
    """
    area = auc(y, p)
    if area is None:
        return None
    if min(draws.patients(y == value) for value in (0, 1)) < FEWEST_PATIENTS:
        return {"value": area, "low": None, "high": None}
    return interval_of(area, drawn_aucs(y, p, draws))


def point_figures(
    y: NDArray[Any], p: NDArray[Any], threshold: float, draws: PatientDraws
) -> dict[str, Any]:
    """Return sensitivity and specificity at a threshold, with intervals, and the four counts."""
    reached, positive = p >= threshold, y == 1
    return {
        "threshold": threshold,
        "sensitivity": rate(reached, positive, draws),
        "specificity": rate(~reached, ~positive, draws),
        "true_positives": int((reached & positive).sum()),
        "false_negatives": int((~reached & positive).sum()),
        "true_negatives": int((~reached & ~positive).sum()),
        "false_positives": int((reached & ~positive).sum()),
    }


def group_table(evaluated: Evaluated, seed: int = 0) -> pd.DataFrame:
    """Return a row for each kind of group, group and label: counts, AUC and log loss."""
    rows = []
    for kind, column in evaluated.groups.items():
        for group in sorted(column.unique()):
            chosen = (column == group).to_numpy()
            y, p = (
                table.to_numpy(np.float64)[chosen] for table in (evaluated.truth, evaluated.probs)
            )
            draws = draw_patients(evaluated.patients[chosen], seed)
            for j, label in enumerate(LABELS):
                row = {"by": kind, "group": group, "label": label, "rows": len(y)}
                row |= {"patients": draws.counts.shape[1], "positives": int(y[:, j].sum())}
                area = auc_interval(y[:, j], p[:, j], draws)
                rows.append(
                    row
                    | _columns("auc", area)
                    | _columns("log_loss", mean(log_loss(y[:, j], p[:, j]), draws))
                )
    names = ["by", "group", "label", "rows", "patients", "positives"]
    names += [*_columns("auc", None), *_columns("log_loss", None)]
    return pd.DataFrame(rows, columns=names)


def figure_table(result: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row a label of `figures`: counts, AUC, log loss and the line of calibration."""
    rows = []
    for label, values in result["labels"].items():
        line = {key: values["calibration"][key] for key in ("slope", "intercept")}
        shares = {key: values["calibration"][key] for key in ("expected", "observed")}
        rows.append(
            {"label": label, "rows": result["rows"], "positives": values["positives"]}
            | _columns("auc", values["auc"])
            | _columns("log_loss", values["log_loss"])
            | line
            | shares
        )
    return pd.DataFrame(rows)


def _columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Return {name, name_low, name_high}."""
    values: Mapping[str, Any] = interval or {}
    return {
        name: values.get("value"),
        f"{name}_low": values.get("low"),
        f"{name}_high": values.get("high"),
    }
