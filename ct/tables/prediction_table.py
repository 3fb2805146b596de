"""Predictions of a model that was trained elsewhere: a csv or parquet table, wide or as Kaggle's,
read and checked.
"""

import numpy as np
import pandas as pd

from ct.errors import InputError, shown
from ct.labels import KAGGLE_ORDER, LABELS
from ct.tables.slice_list import given_folds, need_columns, read_given, texts

ID_COLUMNS = ("SOPInstanceUID", "slice_id")


def read_opinions(path, flag):
    """Read the predictions that --`flag` named.

    path: wide, one of ID_COLUMNS and the six LABELS; or long, `ID,Label` with six rows a slice;
    either with `fold` or without

    Returns a DataFrame, a row a slice, or a slice and fold: `slice_id` as the file has it, LABELS
    float64 in [0, 1], `fold` if given. Raises InputError that names the first row that does not
    fit.
    """
    where = f"--{flag}={path}"
    given = read_given(path, flag)
    if {"ID", "Label"} <= set(given):
        table = _from_long(given, where)
    else:
        column = next((name for name in ID_COLUMNS if name in given), ID_COLUMNS[0])
        need_columns(given, [column, *LABELS], where)
        table = given[[column, *LABELS, *(["fold"] if "fold" in given else [])]].rename(
            columns={column: "slice_id"}
        )
        table = table.assign(slice_id=texts(table["slice_id"]))
        if (bad := (table["slice_id"].str.strip() == "").to_numpy(bool)).any():
            raise InputError(f"{where}: row {int(np.argmax(bad)) + 1} has no {column}")
    said = table[list(LABELS)]
    table = table[
        (said.notna() & (said != "")).any(axis=1)
    ]  # a row that says nothing counts as none, as of slices without pixels
    if table.empty:
        raise InputError(f"{where} has no rows with probabilities")
    p = np.column_stack(
        [pd.to_numeric(table[label], errors="coerce").to_numpy(np.float64) for label in LABELS]
    )
    if (bad := ~((p >= 0) & (p <= 1))).any():  # NaN, too
        row, j = np.argwhere(bad)[0]
        value = table[LABELS[j]].iloc[row]
        what = f"{LABELS[j]} of slice {shown(table['slice_id'].iloc[row])} is {shown(repr(value))}"
        raise InputError(f"{where}: {what}; it should lie in [0, 1]")
    table = table.assign(**dict(zip(LABELS, p.T, strict=True)))
    if "fold" in table:
        table["fold"] = given_folds(table["fold"], where)
        if (bad := table["fold"].isna().to_numpy()).any():
            raise InputError(
                f"{where}: slice {shown(table['slice_id'][bad].iloc[0])} has no fold; give one to every row or to none"
            )
    return table.reset_index(drop=True)


def _from_long(given, where):
    """Turn `ID,Label` rows into one row a slice (and fold)."""
    ids, place = texts(given["ID"]), np.full(len(given), -1, np.int8)
    for j, label in enumerate(LABELS):
        place[ids.str.endswith(f"_{label}").to_numpy(bool)] = j
    if (bad := place < 0).any():
        raise InputError(
            f"{where}: row {shown(repr(ids[bad].iloc[0]))} does not end in one of {', '.join(KAGGLE_ORDER)}"
        )
    parts = [ids.str.replace("_[^_]*$", "", regex=True).rename("slice_id")]
    if "fold" in given:
        parts.append(given["fold"].astype(str))
    row, known = pd.factorize(parts[0] if len(parts) == 1 else parts[0] + "\n" + parts[1])
    first = np.flatnonzero(~pd.Series(row).duplicated().to_numpy())
    count = np.bincount(row * len(LABELS) + place, minlength=len(known) * len(LABELS))
    if (bad := count > 1).any():
        slice_id, j = (
            parts[0].iloc[first[np.argmax(bad) // len(LABELS)]],
            np.argmax(bad) % len(LABELS),
        )
        raise InputError(
            f"{where}: row {shown(slice_id)}_{LABELS[j]} occurs twice; every slice has six rows"
        )
    if (bad := count == 0).any():
        slice_id, j = (
            parts[0].iloc[first[np.argmax(bad) // len(LABELS)]],
            np.argmax(bad) % len(LABELS),
        )
        raise InputError(
            f"{where}: row {shown(slice_id)}_{LABELS[j]} is missing; every slice has six rows"
        )
    values = np.empty((len(known), len(LABELS)), object)
    values[row, place] = given["Label"].to_numpy(object)
    table = pd.concat([part.iloc[first].reset_index(drop=True) for part in parts], axis=1)
    return table.join(pd.DataFrame(values, columns=list(LABELS)))
