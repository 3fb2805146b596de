"""One row for each series: what the choice of a series (series_choice.py) depends on."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ct.checks.head_ct import head_tag_remarks
from ct.checks.series_choice import USUAL_SPACING, Spacing
from ct.checks.training_ranges import TYPICAL_STEP, series_facts

KEYS = ["study_id", "series_id"]


def series_table(slices: pd.DataFrame, acquisition: pd.DataFrame) -> pd.DataFrame:
    """Return a row a series, indexed by (study_id, series_id), in the order of `slices`.

    slices: slice table without PIXEL_COLUMNS; acquisition: as returned by read_acquisition, indexed
    like `slices`

    Columns: patient_id; slices; step_mm, thickness_mm and extent_mm; kernel and kind, as in
    read_acquisition; contrast and derived (bool); unfit: why it is no axial CT series of a head, ""
    where it may be one; labelled, True.
    """
    keys = [slices[name] for name in KEYS]
    facts, by_series = series_facts(slices), acquisition.groupby(keys, sort=False)
    position = slices["position_mm"].groupby(keys, sort=False)
    unfit = []
    for key, rows in by_series:
        remarks = head_tag_remarks(rows, facts.loc[key])
        unfit.append(next((remark.what for remark in remarks if remark.refuses), ""))
    return pd.DataFrame(
        {
            "patient_id": slices.groupby(keys, sort=False)["patient_id"].first(),
            "slices": facts["slices"].astype(int),
            "step_mm": facts["step_mm"],
            "thickness_mm": by_series["thickness_mm"].median(),
            "extent_mm": position.max() - position.min() + facts["step_mm"].fillna(0),
            "kernel": by_series["kernel"].agg(_most_frequent),
            "kind": by_series["kind"].agg(_most_frequent),
            "contrast": by_series["contrast"].any(),
            "derived": by_series["image_type"].agg(_is_derived),
            "unfit": pd.Series(unfit, index=facts.index, dtype=object),
            "labelled": True,
        }
    )


def training_spacing(ranges: Mapping[str, Any]) -> Spacing:
    """Return the distances of the training slices. ranges: as returned by training_ranges.

    A model of an older version has no typical distance; the largest of its range is taken.
    """
    if "step_mm" not in ranges:
        return USUAL_SPACING
    low, high = ranges["step_mm"]
    return Spacing(low, high, ranges.get(TYPICAL_STEP, (high, high))[0])


def _most_frequent(values: pd.Series) -> str:
    return str(values.value_counts().index[0])


def _is_derived(image_types: pd.Series) -> bool:
    """Return whether most slices are DERIVED by the first value of ImageType (C.7.6.1.1.2)."""
    return bool(image_types.str.startswith("DERIVED").mean() > 0.5)
