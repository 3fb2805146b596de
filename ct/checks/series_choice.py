"""Choose the one series of a study that is read: the rules, the choice, and its reasons.

A hospital's study holds several reconstructions of one head: thick and thin slices, soft and bone
kernels, before and after a contrast agent, reformats, localizers. The models know plain axial
slices of a soft kernel. CRITERIA rank the series, the most important first.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.privacy.series_words import BONE, LUNG, SHARP, SOFT

GROUP = ["study_id", "patient_id"]  # one series is chosen of each
KERNEL_RANKS = {SOFT: 0, "": 1, SHARP: 2, BONE: 3, LUNG: 4}
# mm; a series that covers less than half of it, where another one covers more, is only a part
HEAD_MM = 140.0
THIN_SHARE = 2 / 3  # of the training spacing; slices that are closer become slabs
READ, PASSED_OVER, REFUSED = "read", "passed over", "refused"


class Spacing(NamedTuple):
    """Distances of slices in the training data, mm."""

    low: float
    high: float
    typical: float


# of the competition's data, where no model decides: 1,365 of 1,480 studies have 5 mm
USUAL_SPACING = Spacing(2.5, 5.0, 5.0)


class Criterion(NamedTuple):
    """One rule of the choice."""

    rank: Callable[[pd.DataFrame, Spacing], Any]  # of each series; a lower one is better
    reason: Callable[[pd.Series, Spacing], str]  # why a series with a higher rank is passed over


def _spacing_rank(series: pd.DataFrame, training: Spacing) -> NDArray[np.int64]:
    """Return 0 for a spacing in the training range, 1 for thinner slices, 2 for thicker ones.

    Thinner ones become slabs of the training spacing; nothing makes thicker ones thinner.
    """
    step = series["step_mm"]
    thick = is_outside(step, training) & (step > training.high)
    return np.select([is_thin(step, training), thick], [1, 2], 0)


def is_thin(step_mm: Any, training: Spacing) -> Any:
    """Return whether slices become slabs of the training spacing; for one distance or for (n,).

    They do where they are closer than in training, and at least three of them make two slabs: a
    mean of slices at nearly the training spacing would only blur them.
    """
    return (step_mm < training.low * 0.99) & (step_mm <= training.typical * THIN_SHARE)


def is_outside(step_mm: Any, training: Spacing) -> Any:
    """Return whether a distance of slices is outside the training range; for one or for (n,)."""
    return (step_mm < training.low * 0.99) | (step_mm > training.high * 1.01)


def _distance(values: pd.Series, typical: float) -> pd.Series:
    """Return how far values are from the typical one, as a ratio, 0 where unknown or no length."""
    return (np.log(values.where(values > 0) / typical).abs().fillna(0)).round(1)


CRITERIA = (
    Criterion(lambda s, _: s["unfit"] != "", lambda row, _: row["unfit"]),
    Criterion(lambda s, _: ~s["labelled"], lambda row, _: "no labels"),
    Criterion(
        lambda s, _: ~s["kind"].isin(("", "reformat")), lambda row, _: f"a {row['kind']} series"
    ),
    Criterion(
        lambda s, _: s["part"],
        lambda row, _: f"covers {row['extent_mm']:.0f} mm, only a part of a head",
    ),
    Criterion(lambda s, _: s["contrast"], lambda row, _: "a contrast agent was given"),
    Criterion(
        lambda s, _: s["kernel"].map(KERNEL_RANKS),
        lambda row, _: f"{row['kernel']} kernel" if row["kernel"] else "unknown kernel",
    ),
    Criterion(
        lambda s, _: s["derived"] | (s["kind"] == "reformat"),
        lambda row, _: "derived images, not original ones",
    ),
    Criterion(
        _spacing_rank,
        lambda row, t: (
            f"slices {row['step_mm']:.3g} mm apart, training {t.low:.3g} to {t.high:.3g} mm"
        ),
    ),
    Criterion(
        lambda s, t: _distance(s["step_mm"], t.typical),
        lambda row, t: f"slices {row['step_mm']:.3g} mm apart, farther from {t.typical:.3g} mm",
    ),
    Criterion(
        lambda s, t: _distance(s["thickness_mm"], t.typical),
        lambda row, t: (
            f"slices {row['thickness_mm']:.3g} mm thick, farther from {t.typical:.3g} mm"
        ),
    ),
    Criterion(lambda s, _: -s["slices"], lambda row, _: f"fewer slices, {row['slices']}"),
)
COPY = "a copy of the series that is read, or a repeated scan: same kind, spacing and number"


def choose_series(
    series: pd.DataFrame, training: Spacing = USUAL_SPACING, anyway: bool = False
) -> pd.DataFrame:
    """Return the status (READ, PASSED_OVER, REFUSED) and the reason of each series.

    series: indexed by (study_id, series_id), as returned by ct.checks.series_table.series_table
    training: distances of slices that the models know; anyway: no series is refused

    One series of each study and patient is read. Where none of them is an axial CT series of a
    head, all are refused, or with `anyway` the first is read. The result depends on neither the
    order of the rows nor on names, except between series that no criterion tells apart.
    """
    table = series.reset_index()
    longest = table["extent_mm"].where(table["unfit"] == "").groupby([table[g] for g in GROUP])
    enough = np.minimum(longest.transform("max").fillna(0), HEAD_MM) / 2
    table = table.assign(part=table["extent_mm"].fillna(0) < enough)
    ranks = pd.DataFrame(
        {number: np.asarray(c.rank(table, training), float) for number, c in enumerate(CRITERIA)}
    )
    order = np.lexsort([table["series_id"], *ranks.to_numpy().T[::-1]])
    status, reason = np.full(len(table), "", object), np.full(len(table), "", object)
    for rows in table.iloc[order].groupby(GROUP, sort=False).groups.values():
        first, others = rows[0], rows[1:]
        refused = bool(table.at[first, "unfit"]) and not anyway
        status[rows] = REFUSED if refused else PASSED_OVER
        for row in rows if refused else others:
            worse = np.flatnonzero(ranks.loc[row] > ranks.loc[first])
            reason[row] = (
                table.at[row, "unfit"]
                if refused
                else CRITERIA[worse[0]].reason(table.loc[row], training)
                if len(worse)
                else COPY
            )
        if not refused:
            status[first] = READ
            reason[first] = _merits(table.loc[first], len(rows))
    return pd.DataFrame({"status": status, "reason": reason}, index=series.index)


def _merits(row: pd.Series, count: int) -> str:
    """Return why a series is read. count: of the study's series"""
    if count == 1:
        return "the only series"
    parts = ["axial" if not row["unfit"] else row["unfit"]]
    parts.append("contrast agent" if row["contrast"] else "no contrast agent")
    parts += [f"{row['kernel']} kernel"] if row["kernel"] else []
    parts += [row["kind"]] if row["kind"] else []
    parts += ["derived"] if row["derived"] else []
    parts += [f"slices {row['step_mm']:.3g} mm apart"] if row["step_mm"] > 0 else []
    return ", ".join(parts)
