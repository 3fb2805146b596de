"""How the CNNs were trained, and how stage two's settings were searched for."""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from ct.labels import LABELS
from report.figures.training_curves import learning_panel, search_panel
from report.path_removal import without_folders
from report.run_artifacts import Artifacts
from report.sections.label_scores import folds_by_reason

HEADINGS = {  # setting, in the order of the page -> its heading
    "scope": "features",
    "learning_rate": "rate",
    "num_leaves": "leaves",
    "min_data_in_leaf": "rows a leaf",
    "feature_fraction": "share of features",
    "bagging_fraction": "share of rows",
    "lambda_l2": "L2",
}


def learning(art: Artifacts) -> list[tuple[str, Markup | None]]:
    """Return (CNN, panel of its learning curves) of each CNN that was trained in some fold."""
    return [(cnn, learning_panel(cnn, folds)) for cnn, folds in art.curves.items() if folds]


def tuning(art: Artifacts) -> dict[str, Any]:
    """Return the values of the section on tuning; {} without a search, or without its trials.

    "panels":      (label, panel of the best gain so far)
    "headings":    of the settings
    "importances": (heading, [(share or None, width in %) of each label]) of each setting
    "unknown":     (label, folds, reason) of searches without importances
    "chosen":      rows as returned by `_chosen`
    """
    if art.trials is None or art.configs is None:
        return {}
    panels, unknown, chosen = [], [], []
    for label in LABELS:
        trials = art.trials[art.trials["label"] == label]
        if len(trials):
            panels.append((label, search_panel(label, best_so_far(trials))))
        reasons = art.tuning.get(label, {}).get("why", {})
        unknown += [(label, *pair) for pair in folds_by_reason(reasons.items())]
        chosen += _chosen(label, art.configs.get(label, []))
    return {
        "panels": panels,
        "headings": list(HEADINGS.values()),
        "importances": _importances(art.tuning),
        "unknown": unknown,
        "chosen": chosen,
    }


def best_so_far(trials: pd.DataFrame) -> dict[int, tuple[list[int], list[float]]]:
    """Return {fold: (number of each trial, best gain up to it)} of one label's trials.

    A pruned trial does not count: its loss is the mean of only some inner folds.
    """
    curves = {}
    for fold, rows in trials.sort_values("trial").groupby("fold"):
        loss = rows["loss"].where(rows["state"] == "complete", np.inf).cummin()
        curves[int(fold)] = rows["trial"].tolist(), (-loss).tolist()
    return curves


def _importances(
    tuning: dict[str, Any],
) -> list[tuple[str, list[tuple[float | None, float]]]]:
    """Return (heading, [(share or None, width in %) of each label]) of each setting.

    [] where no label has any.
    """
    shares = [tuning.get(label, {}).get("importances", {}) for label in LABELS]
    largest = max((value for of_label in shares for value in of_label.values()), default=0)
    if largest <= 0:
        return []
    rows = []
    for setting, heading in HEADINGS.items():
        cells = [
            (of_label.get(setting), 100 * of_label.get(setting, 0) / largest) for of_label in shares
        ]
        rows.append((heading, cells))
    return rows


def _chosen(label: str, folds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each choice of settings of a label, with the folds that made it.

    settings: as text, () where the label was not tuned; gain: mean on the inner folds, None where
    it was not tuned; why: why the choice is not used, or ""
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for fold in folds:
        params, why = fold.get("params") or {}, without_folders(fold["why"])
        settings = tuple(_text(params[name]) for name in HEADINGS) if params else ()
        # of tuned folds only whether they are used matters: the reasons hold different numbers
        group = (settings, fold["rounds"], fold.get("trials"), bool(why) if settings else why)
        row = rows.setdefault(
            group,
            {
                "label": label,
                "settings": settings,
                "rounds": fold["rounds"],
                "why": why,
                "trials": fold.get("trials"),
                "folds": [],
                "gains": [],
            },
        )
        row["folds"].append(str(fold["fold"]))
        if params:
            row["gains"].append(fold["inner_calibrated"] - fold["inner_loss"])
    for row in rows.values():
        row["gain"] = float(np.mean(row["gains"])) if row["gains"] else None
    return list(rows.values())


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
