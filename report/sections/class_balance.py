"""Shares of positive slices: of each fold, and of train against the test predictions."""

from typing import Any

import numpy as np
import pandas as pd

from ct.labels import LABELS
from report.figures.dot_plot import Dot, dot_plot_panel
from report.run_artifacts import Artifacts


def balance(art: Artifacts) -> list[dict[str, Any]]:
    """Return size and shares of positives of each fold and, last, of all of train."""
    train = art.slices[(art.slices["split"] == "train") & art.slices["fold"].notna()]
    if train.empty:
        return []
    rows = [_fold_row(f"fold {int(k)}", of_fold) for k, of_fold in train.groupby("fold")]
    return [*rows, _fold_row("all of train", train)]


def _fold_row(name: str, slices: pd.DataFrame) -> dict[str, Any]:
    return {
        "name": name,
        "slices": len(slices),
        "patients": slices["patient_id"].nunique(),
        "shares": [float(share) for share in slices[list(LABELS)].mean()],
    }


def prevalence(art: Artifacts) -> dict[str, Any]:
    """Return the share of positives in train and the mean prediction on test, by label.

    {"rows": a row a label with "train" and each kind of prediction, "picture": a dot plot}; {}
    without test predictions.
    """
    train = art.labelled[list(LABELS)].mean()
    tables = {"raw": art.raw_test, "calibrated": art.calibrated_test, "final": art.final_test}
    means = {
        kind: table[list(LABELS)].mean()
        for kind, table in tables.items()
        if table is not None and len(table)
    }
    if not means:
        return {}
    rows, dots = [], []
    for label in LABELS:
        shares = {"train": float(train[label])}
        shares |= {kind: float(mean[label]) for kind, mean in means.items()}
        rows.append({"label": label, **shares})
        row = []
        for kind, share in shares.items():
            if np.isfinite(share):
                row.append(Dot(100 * share, "truth" if kind == "train" else kind))
        dots.append((label, row))
    alt = (
        "Share of positive slices in train and mean prediction on test, in percent; "
        "the numbers are in the table"
    )
    return {"rows": rows, "picture": dot_plot_panel(dots, "percent of slices", alt)}
