"""Predictions of a model trained elsewhere: a csv or parquet table, wide or in Kaggle's form."""

from pathlib import Path

import numpy as np
import pandas as pd

from ct.errors import InputError, printable
from ct.labels import LABELS, label_indices
from ct.tables.table_columns import fold_numbers, require_columns, require_text, text_column
from ct.tables.untrusted_table import read_table_file

ID_COLUMNS = ("SOPInstanceUID", "slice_id")


def read_predictions(path: Path | str, flag: str) -> pd.DataFrame:
    """Read the predictions of the table that --`flag` names.

    path: a wide table, with one of ID_COLUMNS and the six LABELS; or a long one, `ID,Label` with
    six rows per slice. Both may have a column `fold`.

    Returns a DataFrame with one row per slice, or per slice and fold: `slice_id` as in the file,
    LABELS float64 in [0, 1], `fold` if the table has it. Raises InputError that names the first row
    that is wrong.
    """
    where = f"--{flag}={path}"
    source = read_table_file(path, flag)
    if {"ID", "Label"} <= set(source):
        table = _from_long(source, where)
    else:
        table = _from_wide(source, where)
    cells = table[list(LABELS)]
    # a row of empty cells is left out, such as that of a slice without pixels
    table = table[(cells.notna() & (cells != "")).any(axis=1)]
    if table.empty:
        raise InputError(f"{where} has no rows with probabilities")
    p = np.column_stack(
        [pd.to_numeric(table[label], errors="coerce").to_numpy(np.float64) for label in LABELS]
    )
    if (bad := ~((p >= 0) & (p <= 1))).any():  # NaN, too
        row, j = np.argwhere(bad)[0]
        slice_id, value = table["slice_id"].iloc[row], table[LABELS[j]].iloc[row]
        raise InputError(
            f"{where}: {LABELS[j]} of slice {printable(slice_id)} is {printable(repr(value))}; "
            "it should lie in [0, 1]; give probabilities, 1 / (1 + exp(-x)) of a logit x"
        )
    table = table.assign(**dict(zip(LABELS, p.T, strict=True)))
    if "fold" in table:
        table["fold"] = fold_numbers(table["fold"], where)
        if (missing := table["fold"].isna().to_numpy()).any():
            raise InputError(
                f"{where}: slice {printable(table['slice_id'][missing].iloc[0])} has no fold; "
                "give one to every row or to none"
            )
    return table.reset_index(drop=True)


def _from_wide(source: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the columns slice_id, LABELS and, if there, fold of a wide table."""
    column = next((name for name in ID_COLUMNS if name in source), ID_COLUMNS[0])
    require_columns(source, [column, *LABELS], where)
    names = [column, *LABELS, *(["fold"] if "fold" in source else [])]
    table = source[names].rename(columns={column: "slice_id"})
    table = table.assign(slice_id=text_column(table["slice_id"]))
    require_text(table["slice_id"], column, where)
    return table


def _from_long(source: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return one row per slice (and fold) from `ID,Label` rows."""
    ids = text_column(source["ID"])
    label = label_indices(ids, where)
    keys = [ids.str.replace("_[^_]*$", "", regex=True).rename("slice_id")]
    if "fold" in source:
        keys.append(source["fold"].astype(str))
    row, unique = pd.factorize(keys[0] if len(keys) == 1 else keys[0] + "\n" + keys[1])
    first = np.flatnonzero(~pd.Series(row).duplicated().to_numpy())  # the first row of each slice
    count = np.bincount(row * len(LABELS) + label, minlength=len(unique) * len(LABELS))
    for bad, fault in ((count > 1, "occurs twice"), (count == 0, "is missing")):
        if bad.any():
            number, j = divmod(int(np.argmax(bad)), len(LABELS))
            slice_id = printable(keys[0].iloc[first[number]])
            raise InputError(
                f"{where}: row {slice_id}_{LABELS[j]} {fault}; every slice has six rows"
            )
    values = np.empty((len(unique), len(LABELS)), object)
    values[row, label] = source["Label"].to_numpy(object)
    table = pd.concat([key.iloc[first].reset_index(drop=True) for key in keys], axis=1)
    return table.join(pd.DataFrame(values, columns=list(LABELS)))
