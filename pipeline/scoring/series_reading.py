"""Which series of new studies are read, and which of them as slabs of the training spacing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ct.checks.domain_shift import Finding
from ct.checks.head_ct import head_area_remarks
from ct.checks.series_choice import (
    PASSED_OVER,
    READ,
    REFUSED,
    Spacing,
    choose_series,
    is_thin,
)
from ct.checks.series_table import KEYS, series_table, training_spacing
from ct.checks.training_ranges import AREAS
from ct.dicom.hounsfield import read_hu
from ct.errors import InputError
from ct.pixel_cache.slab_plan import IN_PLANE, Member, slab_table
from ct.pixel_cache.slice_measures import measure_slice
from ct.slices import SERIES
from ct.sources.file_reader import read_each
from ct.sources.source import Source

EACH = "all"  # --series=all: each series is a study of its own
SAMPLED_SLICES = 7  # of a series, to see whether it is a head
NOT_ASKED = "another series was asked for (--series)"


def as_own_studies(headers: pd.DataFrame) -> pd.DataFrame:
    """Return a header table in which each series of a study of several is a study of its own."""
    several = headers.groupby("study_id")["series_id"].transform("nunique") > 1
    names = headers["study_id"] + "-" + headers["series_id"]
    return headers.assign(study_id=headers["study_id"].mask(several, names))


def choose_of_studies(
    headers: pd.DataFrame,
    acquisition: pd.DataFrame,
    source: Source,
    training: Mapping[str, Any],
    asked: str | None,
    anyway: bool,
) -> pd.DataFrame:
    """Return a row a series with what it is, whether it is read, and why.

    headers: slice table without PIXEL_COLUMNS, with `asked` (bool, whether --series names the
    slice's series) and `competition` (ct.privacy.pseudonyms.of_competition); acquisition: of the
    same rows; training: ranges, as returned by training_ranges; asked: --series, or None for the
    choice

    Returns the columns of ct.checks.series_table.series_table, `status` and `reason`, indexed by
    (study_id, series_id). Raises InputError where no series is the one that was asked for.
    """
    table = series_table(headers, acquisition)
    several = table.groupby(["study_id", "patient_id"])["slices"].transform("size") > 1
    for key in table.index[several & (table["unfit"] == "")]:
        rows = headers[(headers["study_id"] == key[0]) & (headers["series_id"] == key[1])]
        table.loc[key, "unfit"] = _no_head(rows, source, training)
    groups = headers.groupby(KEYS, sort=False)
    named = groups["asked"].any().reindex(table.index)
    if asked not in (None, EACH) and not named.any():
        raise InputError(
            f"--series={asked}: no file has this SeriesInstanceUID; give another, or a name of the "
            "file series.csv that `score` writes without --series"
        )
    candidates = table[named] if named.any() else table
    choice = choose_series(candidates, training_spacing(training), anyway).reindex(table.index)
    choice.loc[choice["status"].isna()] = [PASSED_OVER, NOT_ASKED]
    kept = groups["competition"].all().reindex(table.index) & ~named.any()
    passed_over = kept & (choice["status"] == PASSED_OVER)
    choice.loc[passed_over, "status"] = np.where(
        table.loc[passed_over, "unfit"] == "", READ, REFUSED
    )
    choice.loc[passed_over, "reason"] = "a series of the competition"
    return table.drop(columns="labelled").join(choice)


def _no_head(rows: pd.DataFrame, source: Source, training: Mapping[str, Any]) -> str:
    """Return why the pixels of one series are not of a head, "" where they may be.

    A few slices are measured. One that does not decode decides nothing.
    """
    chosen = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, SAMPLED_SLICES).round().astype(int))]
    measures = []
    decoded = read_each(read_hu, source.select(chosen["path"].tolist()))
    for (pixels, *_), spacing in zip(decoded, chosen["pixel_spacing_mm"], strict=True):
        if pixels is not None and not np.isnan(spacing):
            measures.append(measure_slice(pixels[0], spacing)[1:3])
    if not measures:
        return ""
    largest = pd.Series(np.max(measures, axis=0), index=list(AREAS))
    return next((remark.what for remark in head_area_remarks(largest, training)), "")


def with_slabs(
    headers: pd.DataFrame, acquisition: pd.DataFrame, series: pd.DataFrame, training: Spacing
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Replace the slices of thin series by slabs of the training spacing.

    headers: slice table of the series that are read, with IN_PLANE and `competition`; acquisition:
    of the same rows; series: as returned by `choose_of_studies`

    Returns (slice table, acquisition, slab of each slice that is in one). Where there are slabs,
    the slice table has `members` for ct.pixel_cache.writer.write_cache.
    """
    tables, slab_of = [], [pd.Series(dtype=object)]
    for key, rows in headers.groupby(list(SERIES), sort=False):
        thin = is_thin(series.at[key[:2], "step_mm"], training) and not rows["competition"].all()
        if thin and not rows["mixed_orientation"].any():
            thickness = float(series.at[key[:2], "thickness_mm"])
            slabs, of_slice = slab_table(rows, rows[list(IN_PLANE)], training.typical, thickness)
            tables.append(slabs)
            slab_of.append(of_slice)
        else:
            tables.append(rows)
    slabs_by_slice = pd.concat(slab_of)
    if slabs_by_slice.empty:
        return headers, acquisition, slabs_by_slice
    table = pd.concat(tables)
    single = [(Member(path, 1.0, 0.0, 0.0),) for path in table["path"]]
    alone = pd.Series(single, index=table.index)
    table["members"] = table["members"].where(table["members"].notna(), alone)
    acquisition = acquisition.loc[table.index].copy()
    acquisition.loc[slabs_by_slice.unique(), "thickness_mm"] = training.typical
    return table, acquisition, slabs_by_slice


def slab_findings(
    headers: pd.DataFrame, table: pd.DataFrame, slab_of: pd.Series, training: Spacing
) -> list[Finding]:
    """Return the Findings on series that were averaged into slabs.

    headers, table: before and after `with_slabs`
    """
    slabs = table.loc[slab_of.unique()].groupby(KEYS, sort=False).size()
    thin = headers.loc[slab_of.index]
    step = thin["gap_below_mm"].where(thin["gap_below_mm"] > 0).groupby([thin[k] for k in KEYS])
    findings = []
    for (study, name), count in slabs.items():
        what = (
            f"slices {step.median()[study, name]:.3g} mm apart were averaged into {count} slabs of "
            f"{training.typical:.3g} mm"
        )
        means = "the models know slices this far apart; each slice has its slab's probabilities"
        findings.append(Finding(study, name, False, what, means))
    return findings
