"""Whether a series is an axial CT series of a head, by its tags and by its pixels."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ct.checks.training_ranges import AREAS, FACTS
from ct.privacy.defined_terms import UNKNOWN, is_head
from ct.slices import MAX_AXIAL_DEG

# an area outside its training range by this factor is of another part of the body
AREA_FACTOR = 2.0
# RescaleType -> in words, where the pixels may be HU all the same
UNSURE_UNITS = {"US": "US, unspecified", "HU_MOD": "HU_MOD, modified HU", UNKNOWN: "no known unit"}


class Remark(NamedTuple):
    """A peculiarity of a series, and its consequence."""

    refuses: bool  # the series must not be scored
    what: str
    means: str


def head_tag_remarks(acquisition: pd.DataFrame, row: pd.Series) -> list[Remark]:
    """Return the Remarks where one series is not an axial CT series of a head.

    acquisition: the series' rows as returned by read_acquisition, each of which is judged; row: its
    row of series_facts
    """
    remarks = _modality_remarks(acquisition["modality"].value_counts(sort=True))
    localizer = acquisition["image_type"].str.contains("LOCALIZER")
    if localizer.any():
        remarks.append(_refused("a localizer", "a projection through the body, not a slice"))
    remarks += _unit_remarks(acquisition["unit"].value_counts(sort=True))
    remarks += _body_part_remarks(acquisition["body_part"].value_counts(sort=True))
    if row["tilt_deg"] > MAX_AXIAL_DEG:
        what = f"the slices lie {row['tilt_deg']:.0f} degrees from axial"
        means = "the CNNs were trained on axial slices, not on coronal or sagittal ones"
        remarks.append(_refused(what, means))
    return remarks


def _modality_remarks(slices: pd.Series) -> list[Remark]:
    """Return the Remark on the most frequent modality that is not CT. slices: of each modality."""
    other = [modality for modality in slices.index if modality != "CT"]
    if not other:
        return []
    texts = {"": "the modality is missing", UNKNOWN: "the modality is not a known one"}
    what = texts.get(other[0], f"the modality is {other[0]}, not CT")
    means = "the CNNs need Hounsfield units, which only CT has"
    return [_refused(what, means) if other[0] else Remark(False, what, means)]


def _unit_remarks(slices: pd.Series) -> list[Remark]:
    """Return the Remark on the most frequent unit that is not HU. slices: of each RescaleType

    Other quantities, such as a dual-energy scan's effective atomic numbers, refuse. An unspecified
    unit may be HU.
    """
    other = [unit for unit in slices.index if unit not in ("", "HU")]
    if not other:
        return []
    if other[0] in UNSURE_UNITS:
        what = f"RescaleType is {UNSURE_UNITS[other[0]]}"
        return [Remark(False, what, "the pixels are read as Hounsfield units")]
    means = "the pixels are not Hounsfield units, which the CNNs need"
    return [_refused(f"RescaleType is {other[0]}, not HU", means)]


def _body_part_remarks(slices: pd.Series) -> list[Remark]:
    """Return the Remark on the most frequent body part that is no head.

    slices: of each body part; none where a head is among them. A text that is no known body part
    does not refuse: it may be a head in another language.
    """
    parts = [part for part in slices.index if part]
    if not parts or any(map(is_head, parts)):
        return []
    if parts[0] == UNKNOWN:
        means = "the areas of brain and bone decide whether it is a head"
        return [Remark(False, "BodyPartExamined is not a known body part", means)]
    means = "the CNNs were trained on heads only"
    return [_refused(f"BodyPartExamined is {parts[0]}", means)]


def head_area_remarks(row: pd.Series, ranges: Mapping[str, Any]) -> list[Remark]:
    """Return the Remarks on areas so far outside training that the series is not of a head."""
    remarks = []
    for name in AREAS:
        low, high = ranges.get(name, (-np.inf, np.inf))
        if row[name] < low / AREA_FACTOR or row[name] > high * AREA_FACTOR:
            what = FACTS[name].outside(row[name], low, high)
            remarks.append(_refused(what, "probably not a head"))
    return remarks


def _refused(what: str, means: str) -> Remark:
    return Remark(True, what, f"{means}; --anyway reads it all the same")
