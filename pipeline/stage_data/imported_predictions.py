"""Predictions of an imported model, matched with the slices and folds of a run."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.errors import InputError, number_of
from ct.labels import LABELS
from ct.privacy.pseudonyms import pseudonym
from ct.seeds import derive_seed
from ct.storage.file_formats import read_table
from ct.tables.spreadsheet import read_sheet
from pipeline.run_context import Run

COLUMNS = list(LABELS)
Probabilities = NDArray[np.float64]


def by_slice(run: Run, table: pd.DataFrame, rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return predictions indexed by the slice ids of the run.

    table: as returned by read_predictions; rows: train or test slices of the run; where: the flag
    and its file, for messages

    Left out are quarantined slices and, if the run uses only part of the train slices, those that
    it does not use. Raises InputError for slices that are not in `rows`.
    """
    key, quarantine = run.pseudonym_key(), read_sheet(run.dir.quarantine)
    slice_ids = [pseudonym(name, key, "slice") for name in table["slice_id"]]
    table = table.set_index(pd.Index(slice_ids, name="slice_id"))
    unknown = ~table.index.isin(rows.index)
    if where.startswith("--test") or run.recipe.data.train_slices is None:
        foreign = unknown & ~table.index.isin(quarantine["slice_id"])
        if foreign.any():
            split = rows["split"].iloc[0] if len(rows) else "test"
            raise InputError(
                f"{where}: {number_of(foreign.sum(), 'row')} of slices that are no {split} slices "
                f"of the run, the first {table['slice_id'][foreign].iloc[0]}; leave them out"
            )
    return table[~unknown].drop(columns="slice_id")


def refuse_missing(missing: pd.Index, where: str) -> None:
    """Raise InputError where a table lacks slices of the run."""
    if len(missing):
        raise InputError(
            f"{where} lacks {number_of(len(missing), 'slice')} of the run, the first {missing[0]}; "
            "every slice needs a row"
        )


def probabilities_by_fold(
    run: Run, table: pd.DataFrame, test: pd.DataFrame, k_folds: int, where: str
) -> Probabilities:
    """Return the predictions of the test slices, (K, m, 6); (1, m, 6) for a table without folds.

    table: as returned by read_predictions; test: test slices of the run; k_folds: of the model;
    where: the flag and its file, for messages

    Raises InputError for a wrong number of folds, and for repeated and missing slices.
    """
    predictions = by_slice(run, table, test, where)
    has_folds = "fold" in predictions
    fold = predictions["fold"].to_numpy(int) if has_folds else np.zeros(len(predictions), int)
    count = k_folds if has_folds else 1
    if fold.max(initial=-1) + 1 > count:
        raise InputError(
            f"{where} has {number_of(fold.max() + 1, 'fold')}, "
            f"but the out-of-fold predictions have {count}; give {count}"
        )
    row = test.index.get_indexer(predictions.index)
    if (twice := pd.Series(fold * len(test) + row).duplicated().to_numpy()).any():
        in_fold = f" in fold {fold[twice][0]}" if has_folds else ""
        raise InputError(
            f"{where}: slice {predictions.index[twice][0]} occurs twice{in_fold}; every slice has "
            "one row (in each fold)"
        )
    probabilities = np.full((count, len(test), len(LABELS)), np.nan)
    probabilities[fold, row] = predictions[COLUMNS].to_numpy()
    readable = test["readable"].to_numpy(bool)
    for k in range(count):
        missing = test.index[readable & np.isnan(probabilities[k, :, 0])]
        refuse_missing(missing, f"{where}, fold {k}," if count > 1 else where)
    return probabilities


def run_folds(run: Run, train: pd.DataFrame) -> pd.Series:
    """Return the run's folds, a Series {group: fold}.

    train: train slices with the column `group`. Folds of an older version may split a group; then
    the group gets the first of its folds.
    """
    fold = read_table(run.dir.folds)["fold"].reindex(train.index)
    return fold.groupby(train["group"].to_numpy(object), sort=False).first()


def complete_folds(groups: pd.Series, own_fold: pd.Series, seed: int) -> pd.Series:
    """Return the fold of every train slice, int8; a group without one gets a seeded random fold.

    groups: of the train slices, as in fold_groups, indexed by slice id; own_fold: {group: fold} of
    a model; seed: of the recipe
    """
    k_folds, fold = int(own_fold.max()) + 1, own_fold.to_dict()
    for group in groups[~groups.isin(own_fold.index)].unique():
        fold[group] = derive_seed(seed, "fold", group) % k_folds
    return groups.map(fold).astype(np.int8).rename("fold")


def tables_by_fold(
    per_fold: Probabilities,
    test: pd.DataFrame,
    fold: pd.Series,
    k_folds: int,
    renumbering: dict[int, int],
) -> tuple[list[Probabilities], list[str]]:
    """Return the table of test predictions of each fold, or one table for all folds; and notes.

    per_fold: as returned by probabilities_by_fold, (1 or K of the model, m, 6); test: test slices
    with the column `group`; fold: {group: fold} of the model; k_folds: of the run; renumbering:
    {fold of the model: fold of the run}, {} where they are the same

    A patient who is also in train has, in every table, the prediction of the one fold's model that
    was not trained on the patient.
    """
    notes = []
    own_fold = test["group"].map(fold)
    in_train = np.flatnonzero(own_fold.notna())
    if len(per_fold) > 1:
        per_fold[:, in_train] = per_fold[own_fold.iloc[in_train].to_numpy(int), in_train]
        if len(per_fold) == k_folds:
            order = np.argsort([renumbering.get(k, k) for k in range(k_folds)])
            return list(per_fold[order]), []
        notes.append(
            f"its test predictions are of {len(per_fold)} folds, the run has {k_folds}: their "
            "mean is used"
        )
    elif len(in_train):
        notes.append(
            f"{number_of(len(in_train), 'test slice')} of patients who are also in train; in one "
            "table for all folds they are not kept apart"
        )
    if len(test):
        notes.append(
            "every stacker reads the same table of test predictions, which is smoother than the "
            "out-of-fold predictions that it was fitted on"
        )
    return [per_fold.mean(axis=0)], notes


def fold_renumbering(fold: pd.Series, of_run: pd.Series) -> dict[int, int] | None:
    """Return {fold of the model: fold of the run} if both split the patients in the same way.

    fold, of_run: {group: fold}. None where the splits differ.
    """
    pairs = pd.DataFrame({"model": fold, "run": of_run}).dropna().drop_duplicates()
    if pairs["model"].duplicated().any() or pairs["run"].duplicated().any():
        return None
    return dict(zip(pairs["model"].astype(int), pairs["run"].astype(int), strict=True))
