"""Domain shift: how a new series differs from the training data, and what that means for its score.

Each difference is a Finding. A series that is not of a head (ct/checks/head_ct.py) is refused.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ct.checks.head_ct import Remark, head_area_remarks, head_tag_remarks
from ct.checks.patient_position import position_remarks
from ct.checks.series_geometry import wide_gaps
from ct.checks.training_ranges import AREAS, FACTS, series_facts
from ct.slices import SPACINGS_MM

TOLERANCE = 0.01  # relative, at the ends of a range: tags are rounded
NO_LOWER_BOUND = ("tilt_deg",)  # less tilt than in training does no harm


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
            *head_tag_remarks(acquisitions[key], row),
            *_tag_remarks(tables[key], acquisitions[key]),
            *position_remarks(acquisitions[key]),
            *_gap_remarks(tables[key]),
        ]
        if not any(remark.refuses for remark in remarks):
            names = ["pixel_spacing_mm", "step_mm", "thickness_mm", "slices", "tilt_deg"]
            if row["slices"] == 1:  # has a remark already
                names.remove("slices")
            remarks += _range_remarks(row, ranges, names)
        findings += [Finding(study, series, *remark) for remark in remarks]
    return findings


def pixel_findings(
    slices: pd.DataFrame, ranges: Mapping[str, Any], members: pd.DataFrame | None = None
) -> list[Finding]:
    """Return the Findings from the pixels, in the order of the series.

    slices: slice table; ranges: as returned by training_ranges; members: the slices that are
    averaged into those of `slices`, with study_id, series_id and readable
    """
    facts, readable = series_facts(slices), _decoded(slices)
    averaged = _decoded(slices.iloc[:0] if members is None else members)
    findings = []
    for (study, series), row in facts.iterrows():
        usable = readable.loc[(study, series), "sum"]
        is_averaged = (study, series) in averaged.index
        decoded, count = (averaged if is_averaged else readable).loc[(study, series)]
        remarks = []
        if decoded < count:
            what = f"{count - decoded} of {count} slices do not decode (reasons: quarantine.csv)"
            means = "they are predicted from their neighbours"
            if is_averaged:
                means = "slabs are averages of the others, or predicted from their neighbours"
            if not usable:
                means = "no slice can be scored"
            remarks.append(Remark(not usable, what, means))
        if usable:
            remarks += head_area_remarks(row, ranges)
        if not any(remark.refuses for remark in remarks):
            remarks += _range_remarks(row, ranges, AREAS)
        findings += [Finding(study, series, *remark) for remark in remarks]
    return findings


def _decoded(slices: pd.DataFrame) -> pd.DataFrame:
    """Return how many slices of each series decode, `sum`, of how many, `size`."""
    return slices.groupby(["study_id", "series_id"], sort=False)["readable"].agg(["sum", "size"])


def _tag_remarks(slices: pd.DataFrame, acquisition: pd.DataFrame) -> list[Remark]:
    """Return the Remarks on tags of one series that can make predictions worse."""
    dicom = acquisition["dicom"].to_numpy(bool)
    low, high = SPACINGS_MM
    no_rescale = slices[["slope", "intercept"]].isna().any(axis=1) & dicom
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
            ~dicom,
            "NIfTI, which has no DICOM header",
            "modality, body part, contrast agent and scanner are unknown; "
            "features of the scanner are missing",
        ),
        (
            acquisition["burned_in"],
            "text is burned into the pixels (BurnedInAnnotation is YES)",
            "page.html shows the pixels, and a name in them, too",
        ),
        (
            acquisition["recognizable"],
            "the person can be recognized (RecognizableVisualFeatures is YES)",
            "a face can be rebuilt from the slices, which page.html shows",
        ),
        (
            no_rescale,
            "RescaleSlope or RescaleIntercept is missing, or no number",
            "stored values are used as Hounsfield units",
        ),
        (
            slices["pixel_spacing_mm"].isna(),
            f"PixelSpacing is missing, or no length from {low:g} to {high:g} mm",
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
