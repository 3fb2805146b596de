"""A file that does not belong to its series is set apart; the series is kept."""

import numpy as np
import pandas as pd
import pytest

from ct.checks.stray_slices import stray_reasons
from ct.slices import ORIENTATION

AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)
TILTED = (1, 0, 0, 0, np.cos(np.radians(25)), -np.sin(np.radians(25)))


def tables(n=8, **changes):
    """(headers, acquisition) of one series; changes: {column: {row: value}}."""
    headers = pd.DataFrame({"study_id": "S", "series_id": "R", "split": "test"}, index=range(n))
    headers = headers.assign(rows=512, cols=512)
    headers[list(ORIENTATION)] = np.tile(AXIAL, (n, 1)).astype(float)
    acquisition = pd.DataFrame({"modality": "CT", "image_type": "ORIGINAL"}, index=range(n))
    for column, values in changes.items():
        for row, value in values.items():
            if column == "orientation":
                headers.loc[row, list(ORIENTATION)] = np.array(value, float)
            else:
                (headers if column in headers else acquisition).loc[row, column] = value
    return headers.set_axis([f"i{k}" for k in range(n)]), acquisition


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rows": {3: 128}}, "128 x 512 pixels, most of the series: 512 x 512 pixels"),
        ({"orientation": {3: SAGITTAL}}, "another orientation"),
        ({"modality": {3: "SR"}}, "modality SR, most of the series: modality CT"),
        ({"modality": {3: ""}}, "modality missing"),
        ({"image_type": {3: "ORIGINAL\\PRIMARY\\LOCALIZER"}}, "a localizer"),
    ],
)
def test_one_slice_of_another_kind(changes, text):
    reasons = stray_reasons(*tables(**changes))
    assert list(reasons.index[reasons != ""]) == ["i3"] and text in reasons["i3"]


def test_none_in_a_series_of_one_kind_or_where_most_do_not_agree():
    assert (stray_reasons(*tables()) == "").all()
    assert (stray_reasons(*tables(orientation={3: TILTED})) == "").all()  # a mixed tilt is real
    halves = {"rows": dict.fromkeys(range(3), 256)}
    assert (stray_reasons(*tables(**halves)) == "").all()
    assert (stray_reasons(*tables(n=1)) == "").all()


def test_series_are_judged_one_by_one():
    headers, acquisition = tables(rows={3: 128})
    assert (stray_reasons(headers.assign(series_id=list("RRRQRRRR")), acquisition) == "").all()
