"""Small slice tables for the tests."""

import numpy as np
import pandas as pd

from ct.labels import LABELS
from ct.slices import PIXEL_COLUMNS


def slice_table(*series, **columns):
    """Return a slice table of several series; each is one study of one patient.

    series:  (split, study, positions in mm) each
    columns: {name: value or array (n,)}, which replace the default values
    """
    rows = []
    for number, (split, study, positions) in enumerate(series):
        for place, position in enumerate(positions):
            rows.append(
                {
                    "slice_id": f"ID_{number:03x}{place:03x}",
                    "split": split,
                    "patient_id": f"P{study}",
                    "study_id": f"S{study}",
                    "series_id": f"R{study}",
                    "place": place,
                    "position_mm": float(position),
                    "series_slices": len(positions),
                    "gap_below_mm": position - positions[place - 1] if place else np.nan,
                    "gap_above_mm": positions[place + 1] - position
                    if place + 1 < len(positions)
                    else np.nan,
                    "tilt_deg": 15.0,
                    **dict.fromkeys(PIXEL_COLUMNS, 1.0),
                    **dict.fromkeys(LABELS, 0.0 if split == "train" else np.nan),
                }
            )
    return pd.DataFrame(rows).set_index("slice_id").assign(**columns)


def random_table(rng, studies=12, slices=9):
    """Return a slice table with gaps, half steps, duplicate positions and one-slice series."""
    series = []
    for study in range(studies):
        count = 1 if study % 5 == 4 else int(rng.integers(2, slices + 1))
        steps = rng.choice([0.0, 2.5, 5.0, 15.0], size=count, p=[0.1, 0.3, 0.5, 0.1])
        series.append(("train", study, (rng.uniform(-500, 500) + np.cumsum(steps)).round(3)))
    return slice_table(*series)
