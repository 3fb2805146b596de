"""The tables that `score` writes: slices, slabs, studies, series, remarks, names, quarantine."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ct.checks.domain_shift import Finding
from ct.labels import LABELS
from ct.storage.file_formats import write_table
from ct.tables.spreadsheet import write_sheet
from pipeline.scoring.scoring_model import ScoringModel, final_clip
from pipeline.scoring.study_reader import NewStudies
from stage2_stack.study_level import study_probabilities


def study_table(new: NewStudies, probabilities: pd.DataFrame, model: ScoringModel) -> pd.DataFrame:
    """Return a row a study: counts, status, LABELS (NaN where it is refused), and remarks.

    probabilities: of the slices and slabs, as returned by score_slices
    """
    groups = new.headers.groupby("study_id", sort=True)
    table = pd.DataFrame(
        {
            "patient_id": groups["patient_id"].first(),
            "series": groups["series_id"].nunique(),
            "slices": groups.size(),
            "scored_slices": slice_table(new, probabilities).groupby("study_id").size(),
        }
    )
    table["scored_slices"] = table["scored_slices"].fillna(0).astype(int)
    table["status"] = np.where(table["scored_slices"] > 0, "scored", "refused")
    of_slice = probabilities[list(LABELS)].to_numpy(np.float64)
    of_study = study_probabilities(
        probabilities["study_id"].to_numpy(object),
        of_slice,
        model.study_calibrations(),
        final_clip(model.recipe),
    )
    remarks = remark_table(new.findings)
    texts = remarks["what"] + " (" + remarks["means"] + ")"
    texts = texts.groupby(remarks["study_id"]).agg("; ".join)
    table = table.join(of_study)
    return table.assign(remarks=texts.reindex(table.index).fillna(""))


def slice_table(new: NewStudies, probabilities: pd.DataFrame) -> pd.DataFrame:
    """Return a row a slice: a slice of a thin series has the probabilities of its slab.

    probabilities: of the slices and slabs, as returned by score_slices
    """
    if new.slab_of.empty:
        return probabilities
    thin = new.headers.loc[new.slab_of.index]
    columns = [name for name in probabilities if name not in LABELS]
    broken = new.acquisition.loc[thin.index, "path"].isin(new.quarantine["path"])
    of_slice = thin.assign(readable=~broken)[columns].join(
        probabilities.loc[new.slab_of, list(LABELS)].set_axis(thin.index)
    )
    others = probabilities[~probabilities.index.isin(set(new.slab_of))]
    table = pd.concat([others, of_slice])
    return table.reindex(new.headers.index[new.headers.index.isin(table.index)])


def slab_table(new: NewStudies, probabilities: pd.DataFrame) -> pd.DataFrame:
    """Return a row a slab, with its slices' places: `first_place`, `last_place`.

    probabilities: as in `slice_table`
    """
    places = new.headers.loc[new.slab_of.index, "place"].groupby(new.slab_of.to_numpy())
    slabs = probabilities.loc[probabilities.index.isin(set(new.slab_of))]
    ends = pd.DataFrame({"first_place": places.min(), "last_place": places.max()})
    at = list(slabs).index(LABELS[0])
    columns = [*list(slabs)[:at], *ends, *LABELS]
    return slabs.join(ends)[columns].rename_axis("middle_slice_id")


def series_sheet(new: NewStudies) -> pd.DataFrame:
    """Return a row a series: what it is, whether it is read, and why."""
    columns = "status reason slices step_mm thickness_mm kernel kind contrast derived"
    table = new.series[columns.split()].round({"step_mm": 3, "thickness_mm": 3})
    return table.reset_index()


def remark_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """Return a row a Finding, sorted by study, with those that refuse first."""
    table = pd.DataFrame(findings, columns=list(Finding._fields))
    order = table.sort_values(["study_id", "refuses"], ascending=[True, False], kind="stable")
    return order.reset_index(drop=True)


def write_score_tables(
    folder: Path,
    new: NewStudies,
    probabilities: pd.DataFrame,
    studies: pd.DataFrame,
    remarks: pd.DataFrame,
) -> None:
    """Write the tables to `folder`; slabs.csv and slabs.parquet only where there are slabs.

    probabilities: of the slices and slabs, as returned by score_slices

    Only names.csv and quarantine.csv hold file names, which may be people's: the files are private.
    """
    tables = {"slices": slice_table(new, probabilities), "studies": studies}
    if not new.slab_of.empty:
        tables["slabs"] = slab_table(new, probabilities)
    for name, table in tables.items():
        write_table(folder / f"{name}.parquet", table)
        write_sheet(folder / f"{name}.csv", table)
    original_names = new.acquisition[["path", "sop_uid", "study_uid"]]
    names = new.headers[["study_id", "series_id"]].join(original_names)
    write_sheet(folder / "names.csv", names, private=True)
    write_sheet(folder / "series.csv", series_sheet(new), index=False)
    write_sheet(folder / "remarks.csv", remarks, index=False)
    write_sheet(folder / "quarantine.csv", new.quarantine, index=False, private=True)
