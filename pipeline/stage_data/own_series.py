"""Choose one series of each study of the user's own data, by ct.checks.series_choice.

The competition's own studies have one series each and are left as they are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ct.checks.series_choice import PASSED_OVER, choose_series
from ct.checks.series_table import KEYS, series_table
from ct.checks.shared_uids import separate_patients
from ct.checks.stray_slices import stray_reasons
from ct.dicom.acquisition import read_acquisition
from ct.privacy.pseudonyms import of_competition
from ct.slices import order_slices
from ct.sources.folder import Folder
from ct.sources.zip_archive import ZipArchive
from ct.system.parallel_jobs import run_jobs
from pipeline.stage_data.slice_selection import QUARANTINE_COLUMNS, Counts

CHUNK_FILES = 1024  # of one job
SHEET_COLUMNS = (
    "split study_id series_id status reason slices step_mm thickness_mm kernel kind contrast "
    "derived labelled"
)
THIN = 0.5  # of the usual distance of slices
NAMED = "the sample names its slices"


@dataclass(frozen=True)
class ChosenSeries:
    """The slices that are read, and what was left out.

    slices: header table of the series that are read; strays: rows for the quarantine; table: a row
    a series, or None where there is no series of the user's own
    """

    slices: pd.DataFrame
    strays: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=QUARANTINE_COLUMNS))
    table: pd.DataFrame | None = None
    counts: Counts = field(default_factory=dict)


def choose_own_series(
    slices: pd.DataFrame,
    source: Folder | ZipArchive,
    key: bytes,
    named: Callable[[], set[str]],
    processes: int,
) -> ChosenSeries:
    """Choose a series of each study that is not the competition's.

    slices: header table with `split`; key: of the pseudonyms; named: returns the ids of the slices
    that the labels or the sample name, a slow call; processes: that read headers

    A series with labels is preferred to one without. All test series whose slices the sample names
    are read. Raises MachineFault.
    """
    own = ~of_competition(slices, key)
    if not own.any():
        return ChosenSeries(slices)
    mine = slices[own]
    acquisition = _read_all(source, mine["path"].tolist(), processes).set_axis(mine.index)
    reasons = stray_reasons(mine, acquisition)
    stray = (reasons != "").to_numpy()
    strays = mine[stray].reset_index().assign(kind="header", reason=reasons[stray].to_numpy())
    ordered = order_slices(separate_patients(mine[~stray], key)[0])
    ordered = ordered.assign(named=ordered.index.isin(named()))
    table = _choice(ordered, acquisition.loc[ordered.index])
    passed_over = table[table["status"] == PASSED_OVER]
    left_out = ordered.index[
        pd.MultiIndex.from_frame(ordered[KEYS]).isin(passed_over.set_index(KEYS).index)
    ]
    counts = {
        "series_passed_over": len(passed_over),
        "strays": int(stray.sum()),
        "thin_series": thin_series(table.loc[table["status"] != PASSED_OVER, "step_mm"]),
    }
    return ChosenSeries(
        slices=slices[~slices.index.isin([*left_out, *mine.index[stray]])],
        strays=strays[QUARANTINE_COLUMNS],
        table=table,
        counts={name: count for name, count in counts.items() if count},
    )


def thin_series(steps_mm: pd.Series) -> int:
    """Return the number of series whose slices are much closer than usual. steps_mm: of each one

    They are read as they are. A model that was trained on both has a wide range of spacings, and
    `score` then makes no slabs.
    """
    return int((steps_mm < THIN * steps_mm.median()).sum())


def _read_all(source: Folder | ZipArchive, files: list[str], processes: int) -> pd.DataFrame:
    """Return `read_acquisition` of many files, on several processes."""

    def jobs() -> Iterator[tuple[Folder | ZipArchive, list[str]]]:
        for first in range(0, len(files), CHUNK_FILES):
            names = files[first : first + CHUNK_FILES]
            yield source.select(names), names

    return pd.concat(list(run_jobs(read_acquisition, jobs(), processes)))


def _choice(slices: pd.DataFrame, acquisition: pd.DataFrame) -> pd.DataFrame:
    """Return the choice, a row a series. slices: slice table with `named`, in order"""
    keys = [slices[name] for name in KEYS]
    groups = slices.groupby(keys, sort=False)
    table = series_table(slices, acquisition)
    table["labelled"] = groups["named"].any()
    table["split"] = groups["split"].first()
    # where none is of a head the first is read, as a study of one series is
    choice = choose_series(table, anyway=True)
    wanted = (
        (choice["status"] == PASSED_OVER) & (table["split"] == "test") & table["labelled"]
    ).to_numpy()
    choice["status"] = np.where(wanted, "read", choice["status"])
    choice["reason"] = np.where(wanted, NAMED, choice["reason"])
    return table.join(choice).reset_index()[SHEET_COLUMNS.split()]
