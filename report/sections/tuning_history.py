"""Fills the section on how stage two's settings were found: how far the trials got, what mattered,
what was taken.
"""

import numpy as np

from ct.labels import LABELS
from report import figures
from report.load import scrub

NAMES = {  # setting, in the order of the page -> its heading
    "scope": "features",
    "learning_rate": "rate",
    "num_leaves": "leaves",
    "min_data_in_leaf": "rows a leaf",
    "feature_fraction": "share of features",
    "bagging_fraction": "share of rows",
    "lambda_l2": "L2",
}


def tuning(art):
    """Return what the page says of the tuning; {} where there was none, or none that left its
    trials.

    "panels": (label, picture of the best so far); "headings": of the settings; "importances":
    (heading, [(share or None, width in %) of each label]) of each setting; "unsure": (label, folds,
    why) of searches that have none; "taken": as of _taken
    """
    if art.trials is None or art.configs is None:
        return {}
    by_label = art.trials.groupby("label", sort=False)
    panels = [
        (label, figures.history_panel(label, _best_so_far(by_label.get_group(label))))
        for label in LABELS
        if label in by_label.groups
    ]
    unsure = [
        (label, *reason)
        for label in LABELS
        for reason in _reasons(art.tuning.get(label, {}).get("why", {}).items())
    ]
    return {
        "panels": panels,
        "headings": list(NAMES.values()),
        "importances": _importances(art.tuning),
        "unsure": unsure,
        "taken": [row for label in LABELS for row in _taken(label, art.configs.get(label, []))],
    }


def _best_so_far(trials):
    """Return {fold: (number of each trial, best gain of all up to it)} of one label's trials.

    A pruned trial is no candidate: its loss is that of some inner folds alone.
    """
    curves = {}
    for fold, rows in trials.sort_values("trial").groupby("fold"):
        loss = rows["loss"].where(rows["state"] == "complete", np.inf).cummin()
        curves[int(fold)] = rows["trial"].tolist(), (-loss).tolist()
    return curves


def _importances(found):
    """Return (heading, [(share or None, width in %) of each label]) of each setting; [] where no
    label has any.
    """
    shares = {label: found.get(label, {}).get("importances", {}) for label in LABELS}
    top = max((value for each in shares.values() for value in each.values()), default=0)
    return [
        (heading, [(each.get(name), 100 * each.get(name, 0) / top) for each in shares.values()])
        for name, heading in NAMES.items()
        if top > 0
    ]


def _taken(label, folds):
    """Return a row for each choice of settings of a label: its folds, the settings as text, ()
    where it was not tuned, rounds, trials, mean inner gain, and why it is not used, or "".
    """
    rows = {}
    for found in folds:
        params, why = found.get("params") or {}, scrub(found["why"])
        settings = tuple(_text(params[name]) for name in NAMES) if params else ()
        key = (settings, found["rounds"], found.get("trials"), "doubt" if settings and why else why)
        row = rows.setdefault(
            key,
            {
                "label": label,
                "settings": settings,
                "rounds": found["rounds"],
                "why": why,
                "trials": found.get("trials"),
                "folds": [],
                "gains": [],
            },
        )
        row["folds"].append(str(found["fold"]))
        row["gains"] += [found["inner_calibrated"] - found["inner_loss"]] if params else []
    return [
        {**row, "gain": float(np.mean(row["gains"])) if row["gains"] else None}
        for row in rows.values()
    ]


def _reasons(why):
    """Return (fold numbers, reason) for each reason of {fold: reason}."""
    reasons = {}
    for fold, reason in why:
        reasons.setdefault(scrub(reason), []).append(str(fold))
    return [(", ".join(folds), reason) for reason, folds in reasons.items()]


def _text(value):
    return value if isinstance(value, str) else f"{value:.3g}"
