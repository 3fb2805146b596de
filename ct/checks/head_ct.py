"""Whether a series is an axial CT series of a head, by its tags and by its pixels."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ct.checks.training_ranges import AREAS, FACTS
from ct.privacy.defined_terms import HEADS, UNKNOWN

MAX_AXIAL_DEG = 45.0  # slices further from axial are coronal or sagittal
# an area outside its training range by this factor is of another part of the body
AREA_FACTOR = 2.0


class Remark(NamedTuple):
    """A peculiarity of a series, and its consequence."""

    refuses: bool  # the series must not be scored
    what: str
    means: str


def head_tag_remarks(acquisition: pd.DataFrame, row: pd.Series) -> list[Remark]:
    """Return the Remarks where one series is not an axial CT series of a head.

    acquisition: the series' rows as returned by read_acquisition; row: its row of series_facts
    """
    remarks = []
    modality, part = acquisition["modality"].iloc[0], acquisition["body_part"].iloc[0]
    if modality != "CT":
        texts = {"": "the modality is missing", UNKNOWN: "the modality is not a known one"}
        what = texts.get(modality, f"the modality is {modality}, not CT")
        means = "the CNNs need Hounsfield units, which only CT has"
        remarks.append(Remark(bool(modality), what, means))
    if acquisition["image_type"].str.upper().str.contains("LOCALIZER").any():
        remarks.append(Remark(True, "a localizer", "a projection through the body, not a slice"))
    if part and not any(head in part for head in HEADS):
        what = "not a known body part" if part == UNKNOWN else part
        means = "the CNNs were trained on heads only"
        remarks.append(Remark(True, f"BodyPartExamined is {what}", means))
    if row["tilt_deg"] > MAX_AXIAL_DEG:
        what = f"the slices lie {row['tilt_deg']:.0f} degrees from axial"
        means = "the CNNs were trained on axial slices, not on coronal or sagittal ones"
        remarks.append(Remark(True, what, means))
    return remarks


def head_area_remarks(row: pd.Series, ranges: Mapping[str, Any]) -> list[Remark]:
    """Return the Remarks on areas so far outside training that the series is not of a head."""
    remarks = []
    for name in AREAS:
        low, high = ranges.get(name, (-np.inf, np.inf))
        if row[name] < low / AREA_FACTOR or row[name] > high * AREA_FACTOR:
            what = FACTS[name].outside(row[name], low, high)
            remarks.append(Remark(True, what, "probably not a head"))
    return remarks
