"""Numbers that describe a series (spacing, tilt, areas), and their ranges in the training data."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

TAIL = 0.005  # share of the training series outside a range, at each end
AREAS = ("brain_cm2", "skull_cm2")
TYPICAL_STEP = "typical_step_mm"  # the median distance of the slices, as both ends of a range


class Fact(NamedTuple):
    """A number that describes a series, and the consequence of a value outside training."""

    title: str
    unit: str
    number_format: str
    means: str  # the consequence

    def outside(self, value: float, low: float, high: float) -> str:
        """Return the text about a value that is outside the training range."""
        value_text, low_text, high_text = (self.number_format.format(x) for x in (value, low, high))
        training = (
            f"value {low_text}" if low_text == high_text else f"range {low_text} to {high_text}"
        )
        return f"{self.title} {value_text}{self.unit}, training {training}{self.unit}"


OTHER_BODY_PART = "perhaps only a part of a head, or more than a head"
FACTS = {
    "pixel_spacing_mm": Fact(
        "pixel spacing", " mm", "{:.3g}", "the CNNs were trained on heads of another scale"
    ),
    "step_mm": Fact(
        "slice spacing",
        " mm",
        "{:.3g}",
        "neighbour features are outside the training range",
    ),
    "thickness_mm": Fact(
        "slice thickness",
        " mm",
        "{:.3g}",
        "thinner slices are noisier, thicker slices blur small bleeds",
    ),
    "slices": Fact(
        "number of slices", "", "{:.0f}", "whole-study features are outside the training range"
    ),
    "tilt_deg": Fact(
        "slice tilt", " degrees", "{:.0f}", "the CNNs were trained on slices of other angles"
    ),
    "brain_cm2": Fact("largest brain-like area", " cm2", "{:.0f}", OTHER_BODY_PART),
    "skull_cm2": Fact("largest bone area", " cm2", "{:.0f}", OTHER_BODY_PART),
}


def series_facts(slices: pd.DataFrame) -> pd.DataFrame:
    """Return the FACTS of each series except the thickness, indexed by (study_id, series_id).

    slices: slice table of one split. Areas are the largest of the series, distances its medians.
    NaN where unknown; areas are unknown without pixel spacing.
    """
    table = slices.assign(step=slices["gap_below_mm"].where(slices["gap_below_mm"] > 0))
    areas = list(AREAS)
    if set(areas) <= set(slices):
        # without pixel spacing they are in pixels
        table[areas] = table[areas].where(slices["pixel_spacing_mm"].notna())
    else:
        table = table.assign(**dict.fromkeys(areas, np.nan))
    groups = table.groupby(["study_id", "series_id"], sort=False)
    facts = {
        "pixel_spacing_mm": groups["pixel_spacing_mm"].median(),
        "step_mm": groups["step"].median(),
        "slices": groups["series_slices"].first(),
        "tilt_deg": groups["tilt_deg"].median(),
        "brain_cm2": groups["brain_cm2"].max(),
        "skull_cm2": groups["skull_cm2"].max(),
    }
    return pd.DataFrame(facts).astype(float)


def training_ranges(slices: pd.DataFrame) -> dict[str, Any]:
    """Return the ranges of the training series: {fact: [low, high]}, without unknown facts.

    slices: slice table of the training data. Both ends of a range are values of a series; a share
    of TAIL of the series lies beyond each end. TYPICAL_STEP is no range. "series" is the largest
    number of series in a study.
    """
    facts, ranges = series_facts(slices), {}
    for name, column in facts.items():
        values = column.dropna().to_numpy()
        if len(values):
            low = np.quantile(values, TAIL, method="lower")
            high = np.quantile(values, 1 - TAIL, method="higher")
            ranges[name] = [float(low), float(high)]
    if "step_mm" in ranges:  # the competition's files have no thickness; its slices are contiguous
        ranges["thickness_mm"] = ranges["step_mm"]
        ranges[TYPICAL_STEP] = [float(facts["step_mm"].median())] * 2
    return ranges | {"series": int(facts.groupby(level=0).size().max())}
