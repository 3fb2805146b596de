"""The tables that `score` writes: slices, studies, remarks, names and quarantine."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ct.checks.domain_shift import Finding
from ct.labels import LABELS
from ct.storage.file_formats import write_table
from ct.tables.spreadsheet import write_sheet
from pipeline.scoring.scoring_model import ScoringModel
from pipeline.scoring.study_reader import NewStudies
from stage2_stack.study_level import study_probabilities


def study_table(new: NewStudies, probabilities: pd.DataFrame, model: ScoringModel) -> pd.DataFrame:
    """Return a row a study: counts, status, LABELS (NaN where it is refused), and remarks.

    probabilities: of the slices, as returned by score_slices
    """
    groups = new.headers.groupby("study_id", sort=True)
    table = pd.DataFrame(
        {
            "patient_id": groups["patient_id"].first(),
            "series": groups["series_id"].nunique(),
            "slices": groups.size(),
            "scored_slices": probabilities.groupby("study_id").size(),
        }
    )
    table["scored_slices"] = table["scored_slices"].fillna(0).astype(int)
    table["status"] = np.where(table["scored_slices"] > 0, "scored", "refused")
    of_slice = probabilities[list(LABELS)].to_numpy(np.float64)
    of_study = study_probabilities(
        probabilities["study_id"].to_numpy(object),
        of_slice,
        model.study_calibrations(),
        model.recipe.features.clip,
    )
    remarks = remark_table(new.findings)
    texts = remarks["what"] + " (" + remarks["means"] + ")"
    texts = texts.groupby(remarks["study_id"]).agg("; ".join)
    table = table.join(of_study)
    return table.assign(remarks=texts.reindex(table.index).fillna(""))


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
    """Write the tables to `folder`.

    Only names.csv and quarantine.csv hold file names, which may be people's: the files are private.
    """
    for name, table in (("slices", probabilities), ("studies", studies)):
        write_table(folder / f"{name}.parquet", table)
        write_sheet(folder / f"{name}.csv", table)
    original_names = new.acquisition[["path", "sop_uid", "study_uid"]]
    names = new.headers[["study_id", "series_id"]].join(original_names)
    write_sheet(folder / "names.csv", names, private=True)
    write_sheet(folder / "remarks.csv", remarks, index=False)
    write_sheet(folder / "quarantine.csv", new.quarantine, index=False, private=True)
