"""Data of the study browser, read by study_browser.js: slices, probabilities, pictures, maps."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.labels import LABELS
from ct.windows import WINDOWS, window_bounds
from report.hu_png import HU, slice_png
from report.run_artifacts import KINDS

BROWSER_SLICES = 600  # on the page in all, unless the recipe sets it: 15 MB at 256 px
THRESHOLD = 0.5  # a labelled slice below it is a miss, an unlabelled one at or above it an alarm


def browser_data(
    kinds: Iterable[str], studies: list[dict[str, Any]], labelled: bool, explained: bool
) -> dict[str, Any]:
    """Return the data of the study browser as plain values.

    kinds: of KINDS, the last one is final; studies: as returned by `browser_study`; labelled:
    whether there are labels, and so errors to list; explained: whether Grad-CAM maps can be made
    """
    return {
        "labels": list(LABELS),
        "windows": [[name, *window_bounds(name)] for name in WINDOWS],
        "hu": HU.tolist(),
        "threshold": THRESHOLD,
        "kinds": [[kind, KINDS[kind]] for kind in kinds],
        "labelled": labelled,
        "explained": explained,
        "studies": studies,
    }


def browser_study(
    rows: pd.DataFrame,
    predictions: Iterable[pd.DataFrame],
    read_hu: Callable[[int], NDArray[np.int16]] | None = None,
    reason: str = "",
    about: str = "",
    maps: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return one study: a list a column, one entry a slice in order; None where unknown.

    rows: of the slice table, LABELS may be missing; predictions: tables of probabilities; read_hu:
    function from the number of a row to HU (S, S), None without pictures; reason: why the study is
    on the page; about: its split and fold; maps: of Grad-CAM
    """
    readable = rows["readable"].to_numpy(bool)
    pictures = None
    if read_hu is not None:
        pictures = [slice_png(read_hu(i)) if readable[i] else None for i in range(len(rows))]
    return {
        "id": rows["study_id"].iloc[0],
        "reason": reason,
        "about": about,
        "slices": list(rows.index),
        "series": pd.factorize(rows["series_id"])[0].tolist(),
        "mm": _plain(rows["position_mm"].to_numpy(np.float64), 1),
        "truth": _plain(rows.reindex(columns=list(LABELS)).to_numpy(np.float64), 0),
        "p": [
            _plain(table.reindex(rows.index)[list(LABELS)].to_numpy(np.float64), 4)
            for table in predictions
        ],
        "pictures": pictures,
        "maps": list(maps),
    }


def _plain(values: NDArray[np.floating], digits: int) -> list[Any]:
    """Return numbers as nested lists, rounded; None where NaN."""
    if values.ndim > 1:
        return [_plain(row, digits) for row in values]
    return [round(float(v), digits) if np.isfinite(v) else None for v in values]
