"""A few series of train slice by slice: thumbnails, labels and probabilities."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.labels import LABELS, SUBTYPES, WEIGHTS
from ct.metrics import log_loss
from report.figures.series_strip import SHOWN_SLICES, has_lane, lane, montage
from report.run_artifacts import Artifacts


def example_studies(
    art: Artifacts, thumbnails: Callable[[pd.Index], NDArray[np.floating]] | None
) -> list[dict[str, Any]]:
    """Return the strips of the example series.

    thumbnails: function from slice ids to pictures (n, size, size), None without pixels
    """
    return [_strip(art, reason, ids, thumbnails) for reason, ids in example_series(art)]


def example_series(art: Artifacts) -> list[tuple[str, list[str]]]:
    """Choose up to six series of train. Returns (reason, slice ids in order) of each.

    The series with the most slices of each of the three most common subtypes; one without a bleed
    and of median loss; the one on which the stages differ most; the one with the greatest loss.
    """
    if art.best is None:
        return []
    rows = art.labelled.join(art.best.add_prefix("p_"))
    rows = rows[rows[[f"p_{label}" for label in LABELS]].notna().all(axis=1)]
    if rows.empty:
        return []
    p = art.best.loc[rows.index, list(LABELS)]
    rows = rows.assign(loss=log_loss(rows[list(LABELS)].to_numpy(), p.to_numpy()) @ WEIGHTS)
    if art.final is not None and art.calibrated is not None:
        difference = np.abs(p - art.calibrated.loc[rows.index, list(LABELS)])
        rows = rows.assign(difference=difference.to_numpy() @ WEIGHTS)
    reasons = _choose(rows)
    of_series = art.slices[art.slices["series_id"].isin(reasons)].groupby("series_id", sort=False)
    return [(reason, list(of_series.get_group(series).index)) for series, reason in reasons.items()]


def _choose(rows: pd.DataFrame) -> dict[str, str]:
    """Return {series: reason} of up to six series, in the order of the page.

    rows: labelled slices with `loss` and, where both stages are there, their `difference`
    """
    by_series = rows.groupby("series_id", sort=True)
    positives, loss = by_series[list(LABELS)].sum(), by_series["loss"].mean()
    chosen: dict[str, tuple[int, str]] = {}  # series -> (place on the page, reason)

    def add(place: int, candidates: pd.Series, reason: str) -> None:
        """Choose the first candidate that is not chosen yet."""
        left = candidates[~candidates.index.isin(chosen)]
        if len(left):
            chosen[left.index[0]] = (place, reason)

    worst = loss.sort_values(ascending=False, kind="stable")
    add(6, worst, f"the greatest loss of all: {worst.iloc[0]:.3f} on average")
    if "difference" in rows:
        difference = by_series["difference"].mean().sort_values(ascending=False, kind="stable")
        add(5, difference, "the two stages differ most here")
    common = positives[list(SUBTYPES)].sum().sort_values(ascending=False, kind="stable")
    for place, label in enumerate(common[common > 0].index[:3]):
        most = positives[label].sort_values(ascending=False, kind="stable")
        add(place, most[most > 0], f"many slices with {label} bleeding")
    negative = loss[positives["any"] == 0].sort_values(kind="stable")
    add(4, negative.iloc[len(negative) // 2 :], "no bleeding")
    return {series: chosen[series][1] for series in sorted(chosen, key=lambda s: chosen[s][0])}


def _strip(
    art: Artifacts,
    reason: str,
    ids: list[str],
    thumbnails: Callable[[pd.Index], NDArray[np.floating]] | None,
) -> dict[str, Any]:
    """Return one strip: its thumbnails, and a lane for `any` and each label of `has_lane`."""
    step = -(-len(ids) // SHOWN_SLICES)
    rows = art.slices.loc[ids[::step]]
    truth, predictions = art.labels_and_predictions(art.compared, rows)
    lanes = []
    for j, label in enumerate(LABELS):
        of_label = {kind: p[:, j] for kind, p in predictions.items()}
        if label == "any" or has_lane(truth[:, j], of_label.values()):
            lanes.append((label, lane(label, truth[:, j], of_label)))
    return {
        "study": rows["study_id"].iloc[0],
        "reason": reason,
        "fold": rows["fold"].iloc[0],
        "step": step,
        "slices": len(ids),
        "width": len(rows),
        "lanes": lanes,
        "labelled": [label for j, label in enumerate(LABELS) if j and (truth[:, j] == 1).any()],
        "picture": montage(thumbnails(rows.index)) if thumbnails else None,
    }
