"""The page that `score` writes: probabilities of the studies, remarks, and curves along z."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.labels import LABELS
from ct.storage.file_formats import write_text
from ct.windows import apply_window, window_bounds
from report.figures.series_strip import SHOWN_SLICES, has_lane, lane, montage
from report.rendering import render
from report.study_browser import BROWSER_SLICES, browser_data, browser_study

SHOWN_STUDIES = 40  # with a strip of their slices; the others have only a row in the table


@dataclass(frozen=True)
class ScoredStudies:
    """The content of the page.

    studies:   table indexed by study with `status`, `slices`, `scored_slices` and LABELS, NaN where
               it is refused
    slices:    slice table of the scored studies in order, LABELS are the final probabilities
    stage_one: mean of the CNNs, a table indexed like `slices`
    remarks:   table with study_id, series_id, refuses, what, means
    read_hu:   function from rows of `slices` to HU (n, S, S)
    reached:   {study: {label: the operating points that it reaches, in words}}; {} where the model
               has no thresholds
    points:    the operating points of studies: label, name, threshold, sensitivity, specificity
    series:    table with study_id, series_id, status and reason; shown of studies of several
    left_out:  number of files that are no slices of these studies: they are in the quarantine
    """

    studies: pd.DataFrame
    slices: pd.DataFrame
    stage_one: pd.DataFrame
    remarks: pd.DataFrame
    read_hu: Callable[..., NDArray[np.int16]]
    reached: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    points: Sequence[Mapping[str, Any]] = ()
    series: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["study_id"]))
    left_out: int = 0


def write_scored_page(path: Path, name: str, scored: ScoredStudies) -> None:
    """Write the page as one HTML file that needs no other file. name: of the model's recipe."""
    remarks = {
        study: rows.to_dict("records")
        for study, rows in scored.remarks.groupby("study_id", sort=False)
    }
    series = {
        study: rows.to_dict("records")
        for study, rows in scored.series.groupby("study_id", sort=False)
    }
    order = scored.studies.sort_values(["any", "slices"], ascending=False, kind="stable")
    rows = [
        {
            "study": study,
            **row,
            "remarks": remarks.get(study, []),
            "choice": of_study if len(of_study := series.get(study, [])) > 1 else [],
        }
        for study, row in order.to_dict("index").items()
    ]
    slices = dict(iter(scored.slices.groupby("study_id", sort=False)))
    likeliest = [study for study in order.index if study in slices]
    shown = _within_limit(likeliest, slices)
    context = {
        "name": name,
        "labels": LABELS,
        "rows": rows,
        "scored": len(slices),
        "left_out": scored.left_out,
        "reached": scored.reached,
        "points": scored.points,
        "shown": shown,
        "browser": browser_data(
            ["raw", "final"],
            [_browser_study(scored, slices[study]) for study in shown],
            labelled=False,
            explained=False,
        ),
        "strips": [_strip(scored, slices[study]) for study in likeliest[:SHOWN_STUDIES]],
    }
    write_text(path, render("scored_studies.html", context))


def _within_limit(studies: Sequence[str], slices: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the first studies that fit into BROWSER_SLICES slices; always at least one."""
    counts = np.cumsum([len(slices[study]) for study in studies])
    return list(studies[: max(1, int((counts <= BROWSER_SLICES).sum()))])


def _browser_study(scored: ScoredStudies, rows: pd.DataFrame) -> dict[str, Any]:
    """Return one study for the study browser. rows: its slices."""
    numbers = scored.slices.index.get_indexer(rows.index)
    return browser_study(
        rows.drop(columns=list(LABELS)),  # probabilities here, labels in a slice table
        [scored.stage_one, scored.slices],
        lambda place: scored.read_hu([numbers[place]])[0],
    )


def _strip(scored: ScoredStudies, rows: pd.DataFrame) -> dict[str, Any]:
    """Return one study's thumbnails, and a lane for `any` and each label of `has_lane`.

    rows: its slices, from the lowest to the highest
    """
    numbers = scored.slices.index.get_indexer(rows.index)
    step = -(-len(rows) // SHOWN_SLICES)
    rows, unknown = rows.iloc[::step], np.full(-(-len(rows) // step), np.nan)
    lanes = []
    for label in LABELS:
        probabilities = rows[label].to_numpy()
        if label == "any" or has_lane(unknown, [probabilities]):
            lanes.append((label, lane(label, unknown, {"final": probabilities})))
    pictures = apply_window(scored.read_hu(numbers[::step]), *window_bounds("brain"))
    return {
        "study": rows["study_id"].iloc[0],
        "step": step,
        "width": len(rows),
        "lanes": lanes,
        "picture": montage(pictures),
    }
