"""The stage `folds`: patient-grouped, label-balanced folds."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.errors import InputError, number_of
from ct.labels import LABELS
from ct.patient_folds import assign_folds, check_folds, extend_folds
from ct.storage.file_formats import read_table, write_table
from pipeline.receipt import Receipt
from pipeline.run_context import Run


def folds(run: Run, receipt: Receipt) -> None:
    """Assign the folds, or take those of the slice list or of the first imported model."""
    slices = read_table(run.dir.slices)
    paths = [path for path in (run.dir.listed_folds, run.dir.imported_folds) if path.exists()]
    if paths:
        fold = extend_folds(slices, read_table(paths[0])["fold"], run.recipe.folds.k)
        run.log("  as in the slice list or the imported model")
    else:
        fold = assign_folds(slices, run.recipe.folds.k, run.recipe.seed)
    check_folds(slices, fold)
    _check_labels(slices, fold)
    write_table(run.dir.folds, pd.DataFrame({"fold": fold}, index=slices.index))
    receipt.made = [run.dir.folds]
    train = slices.assign(fold=fold)[slices["split"] == "train"]
    for k, part in train.groupby("fold"):
        patients = part["patient_id"].nunique()
        shares = ", ".join(f"{label} {part[label].mean():.1%}" for label in LABELS)
        size = f"{number_of(patients, 'patient')}, {number_of(len(part), 'slice')}"
        run.log(f"  fold {k}: {size}, positive {shares}")


def _check_labels(slices: pd.DataFrame, fold: NDArray[np.integer]) -> None:
    """Raise InputError for a fold without labels: nothing could be chosen or scored on it."""
    labelled = ((slices["split"] == "train") & slices[list(LABELS)].notna().all(axis=1)).to_numpy()
    if empty := sorted(set(fold[fold >= 0]) - set(fold[labelled])):
        raise InputError(
            f"fold {empty[0]} has no slice with all six labels; give its patients another fold, or "
            "lower folds.k in recipe.yaml"
        )
