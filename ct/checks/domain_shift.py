"""Domain shift: how a new series differs from the training data, and what that means for its score.

Each difference is a Finding. Some Findings refuse a series: it is not an axial CT series of a head.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ct.checks.series_geometry import wide_gaps
from ct.checks.training_ranges import AREAS, FACTS, series_facts
from ct.privacy.defined_terms import HEADS, UNKNOWN

TOLERANCE = 0.01  # relative, at the ends of a range: tags are rounded
MAX_AXIAL_DEG = 45.0  # slices further from axial are coronal or sagittal
NO_LOWER_BOUND = ("tilt_deg",)  # less tilt than in training does no harm
# an area outside its training range by this factor is of another part of the body
AREA_FACTOR = 2.0


class Remark(NamedTuple):
    """A difference from the training data, and its consequence."""

    refuses: bool  # the series must not be scored
    what: str
    means: str


class Finding(NamedTuple):
    """A Remark about one series."""

    study_id: str
    series_id: str
    refuses: bool
    what: str
    means: str


def header_findings(
    slices: pd.DataFrame, acquisition: pd.DataFrame, ranges: Mapping[str, Any]
) -> list[Finding]:
    """Return the Findings that need no pixels, in the order of the series.

    slices: slice table without PIXEL_COLUMNS; acquisition: as returned by read_acquisition, indexed
    like `slices`; ranges: as returned by training_ranges
    """
    keys = [slices["study_id"], slices["series_id"]]
    facts, by_series = series_facts(slices), acquisition.groupby(keys, sort=False)
    facts["thickness_mm"] = by_series["thickness_mm"].median()
    acquisitions = dict(iter(by_series))
    tables = dict(iter(slices.groupby(keys, sort=False)))
    findings = []
    for (study, series), row in facts.iterrows():
        key = (study, series)
        remarks = [
            *_image_remarks(acquisitions[key], row),
            *_tag_remarks(tables[key], acquisitions[key]),
            *_gap_remarks(tables[key]),
        ]
        if not any(remark.refuses for remark in remarks):
            names = ["pixel_spacing_mm", "step_mm", "thickness_mm", "slices", "tilt_deg"]
            if row["slices"] == 1:  # has a remark already
                names.remove("slices")
            remarks += _range_remarks(row, ranges, names)
        findings += [Finding(study, series, *remark) for remark in remarks]
    return findings


def pixel_findings(slices: pd.DataFrame, ranges: Mapping[str, Any]) -> list[Finding]:
    """Return the Findings from the pixels, in the order of the series.

    slices: slice table; ranges: as returned by training_ranges
    """
    facts = series_facts(slices)
    readable = slices.groupby(["study_id", "series_id"], sort=False)["readable"]
    readable = readable.agg(["sum", "size"])
    findings = []
    for (study, series), row in facts.iterrows():
        decoded, count = readable.loc[(study, series)]
        remarks = []
        if decoded < count:
            what = f"{count - decoded} of {count} slices do not decode (reasons: quarantine.csv)"
            means = (
                "they are predicted from their neighbours" if decoded else "no slice can be scored"
            )
            remarks.append(Remark(decoded == 0, what, means))
        if decoded:
            remarks += _body_part_remarks(row, ranges)
        if not any(remark.refuses for remark in remarks):
            remarks += _range_remarks(row, ranges, AREAS)
        findings += [Finding(study, series, *remark) for remark in remarks]
    return findings


def _image_remarks(acquisition: pd.DataFrame, row: pd.Series) -> list[Remark]:
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


def _tag_remarks(slices: pd.DataFrame, acquisition: pd.DataFrame) -> list[Remark]:
    """Return the Remarks on tags of one series that can make predictions worse."""
    no_rescale = slices[["slope", "intercept"]].isna().any(axis=1)
    texts = [  # rows that have it, what, means
        (
            acquisition["contrast"],
            "a contrast agent was given",
            "enhanced vessels and membranes can resemble blood",
        ),
        (
            acquisition["lossy"],
            "the pixels were compressed with loss",
            "fine differences between tissues may be lost",
        ),
        (
            no_rescale,
            "RescaleSlope or RescaleIntercept is missing",
            "stored values are used as Hounsfield units",
        ),
        (
            slices["pixel_spacing_mm"].isna(),
            "PixelSpacing is missing",
            "the size of the head is unknown",
        ),
        (
            slices["mixed_orientation"],
            "slices of different orientation",
            "the order of the slices is uncertain",
        ),
    ]
    return [Remark(False, what, means) for rows, what, means in texts if rows.any()]


def _gap_remarks(slices: pd.DataFrame) -> list[Remark]:
    """Return the Remarks on one series with missing slices, shared positions or a single slice."""
    gaps = slices["gap_below_mm"].to_numpy(np.float64)[1:]
    if not len(gaps):
        return [Remark(False, "a single slice", "neighbour features are missing")]
    remarks, wide = [], wide_gaps(slices)[1:]
    if wide.any():
        count = f"{wide.sum()} gap{'s' if wide.sum() > 1 else ''}"
        what = f"{count} between slices, the largest {gaps[wide].max():.1f} mm"
        remarks.append(Remark(False, what, "slices seem to be missing"))
    if (gaps == 0).any():
        what = f"at least {(gaps == 0).sum() + 1} slices share a position"
        remarks.append(Remark(False, what, "perhaps two scans in one series"))
    return remarks


def _body_part_remarks(row: pd.Series, ranges: Mapping[str, Any]) -> list[Remark]:
    """Return the Remarks on areas so far outside training that the series is not of a head."""
    remarks = []
    for name in AREAS:
        low, high = ranges.get(name, (-np.inf, np.inf))
        if row[name] < low / AREA_FACTOR or row[name] > high * AREA_FACTOR:
            what = FACTS[name].outside(row[name], low, high)
            remarks.append(Remark(True, what, "probably not a head"))
    return remarks


def _range_remarks(row: pd.Series, ranges: Mapping[str, Any], names: Iterable[str]) -> list[Remark]:
    """Return the Remarks on the facts `names` of one series that are outside the training range."""
    remarks = []
    for name in names:
        low, high = ranges.get(name, (-np.inf, np.inf))
        below = row[name] < low * (1 - TOLERANCE) and name not in NO_LOWER_BOUND
        if below or row[name] > high * (1 + TOLERANCE):
            what = FACTS[name].outside(row[name], low, high)
            remarks.append(Remark(False, what, FACTS[name].means))
    return remarks
