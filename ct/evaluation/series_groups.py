"""The groups that an evaluation reports, and how evaluated series lie to the training data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ct.checks.training_ranges import FACTS, series_facts

SPACINGS = ((2.0, "below 2 mm"), (4.0, "2 to 4 mm"), (6.0, "4 to 6 mm"), (np.inf, "6 mm and more"))
COUNTS = ((20, "below 20"), (40, "20 to 39"), (60, "40 to 59"), (np.inf, "60 and more"))
UNKNOWN = "unknown"
ACQUIRED = ("kernel", "manufacturer")  # columns of read_acquisition, where it has them


def series_groups(slices: pd.DataFrame, acquisition: pd.DataFrame) -> pd.DataFrame:
    """Return the groups of each slice's series: spacing, number of slices, kernel, manufacturer.

    slices: slice table; acquisition: as returned by read_acquisition, indexed like `slices`
    """
    keys = pd.MultiIndex.from_frame(slices[["study_id", "series_id"]])
    facts = series_facts(slices)
    groups = {
        "spacing": [_bin(value, SPACINGS) for value in facts["step_mm"]],
        "slices": [_bin(value, COUNTS) for value in facts["slices"]],
    }
    table = pd.DataFrame(groups, index=facts.index).reindex(keys).set_axis(slices.index)
    for name in ACQUIRED:
        if name in acquisition:
            table[name] = acquisition[name].reindex(slices.index).replace("", UNKNOWN)
    return table


def _bin(value: float, bins: tuple[tuple[float, str], ...]) -> str:
    """Return the name of the first bin whose upper bound is above the value."""
    return next((name for bound, name in bins if value < bound), UNKNOWN)


def range_table(
    slices: pd.DataFrame, thickness: pd.Series, training: Mapping[str, Any]
) -> pd.DataFrame:
    """Return a row for each fact of ct.checks.training_ranges: both ranges, and series outside.

    slices: slice table; thickness: mm of each slice, NaN where unknown; training: as returned by
    training_ranges
    """
    facts = series_facts(slices)
    keys = [slices["study_id"], slices["series_id"]]
    facts["thickness_mm"] = thickness.reindex(slices.index).groupby(keys, sort=False).median()
    rows = []
    for name, fact in FACTS.items():
        values = facts[name].dropna()
        if name not in training or values.empty:
            continue
        low, high = training[name]
        rows.append(
            {
                "fact": name,
                "title": fact.title,
                "unit": fact.unit.strip(),
                "training_low": low,
                "training_high": high,
                "low": values.min(),
                "median": values.median(),
                "high": values.max(),
                "series": len(values),
                "series_outside": int(((values < low) | (values > high)).sum()),
            }
        )
    return pd.DataFrame(rows)
