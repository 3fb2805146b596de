"""The stage `folds`: patient-grouped, label-balanced folds."""

import pandas as pd

from ct.labels import LABELS
from ct.patient_folds import assign_folds, check_folds, extend_folds
from ct.storage.file_formats import read_table, write_table


def folds(run, receipt):
    """Assign the folds, or take those that were given."""
    slices = read_table(run.dir.slices)
    given = next(
        (path for path in (run.dir.listed_folds, run.dir.imported_folds) if path.exists()), None
    )
    if given:
        fold = extend_folds(slices, read_table(given)["fold"], run.recipe.folds.k)
        run.log("  as they were given")
    else:
        fold = assign_folds(slices, run.recipe.folds.k, run.recipe.seed)
    check_folds(slices, fold)
    write_table(run.dir.folds, pd.DataFrame({"fold": fold}, index=slices.index))
    receipt.made = [run.dir.folds]
    train = slices.assign(fold=fold)[slices["split"] == "train"]
    for k, part in train.groupby("fold"):
        positive = ", ".join(f"{label} {part[label].mean():.1%}" for label in LABELS)
        run.log(
            f"  fold {k}: {part['patient_id'].nunique()} patients, {len(part)} slices, positive {positive}"
        )
