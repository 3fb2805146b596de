"""Where the loss comes from: the studies and slices with the greatest out-of-fold loss."""

from collections.abc import Container
from typing import Any

import numpy as np
import pandas as pd

from ct.labels import LABELS, WEIGHTS
from ct.metrics import log_loss
from report.run_artifacts import Artifacts

WORST_STUDIES, WORST_SLICES = 8, 12  # rows of the tables


def slice_losses(art: Artifacts) -> pd.DataFrame:
    """Return study_id, loss of each label and weighted `loss` of the labelled, predicted slices."""
    if art.best is None:
        return pd.DataFrame(columns=["study_id", *LABELS, "loss"])
    p = art.best.reindex(art.labelled.index)[list(LABELS)].dropna()
    rows = art.labelled.loc[p.index]
    losses = log_loss(rows[list(LABELS)].to_numpy(np.float64), p.to_numpy(np.float64))
    table = pd.DataFrame(losses, p.index, list(LABELS))
    return table.assign(study_id=rows["study_id"], loss=losses @ WEIGHTS)


def greatest_losses(art: Artifacts, shown: Container[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the studies and slices with the greatest loss; {} where nothing is scored.

    "studies": study, slices, mean loss, share of the whole loss, shown; "slices": slice, study,
    loss, the label with the greatest loss, shown. shown: ids of the studies in the browser
    """
    table = slice_losses(art)
    if table.empty:
        return {}
    whole, by_study = table["loss"].sum() or 1, table.groupby("study_id")["loss"]
    studies = pd.DataFrame(
        {"slices": by_study.size(), "mean": by_study.mean(), "share": by_study.sum() / whole}
    )
    studies = studies.sort_values("share", ascending=False, kind="stable").head(WORST_STUDIES)
    slices = table.sort_values("loss", ascending=False, kind="stable").head(WORST_SLICES)
    worst_label = slices[list(LABELS)].idxmax(axis=1)
    return {
        "studies": [
            {"study": study, **row, "shown": study in shown}
            for study, row in studies.to_dict("index").items()
        ],
        "slices": [
            {
                "slice": slice_id,
                "study": row["study_id"],
                "loss": row["loss"],
                "label": worst_label[slice_id],
                "shown": row["study_id"] in shown,
            }
            for slice_id, row in slices.to_dict("index").items()
        ],
    }
