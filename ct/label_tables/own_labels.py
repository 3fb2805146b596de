"""Read label tables of the user's own: long or wide, csv or parquet, in nearly any form.

A label table has a row for each row of the file, or several of them, with the columns LABELS
(float32, NaN where unknown) and the columns of keys, text, which name a slice, a series or a study.
A table of probabilities (float64) has the same forms.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.errors import InputError, printable
from ct.label_tables.label_columns import (
    ICH,
    SLICE_KINDS,
    key_kinds,
    label_columns,
    label_of_name,
    require_subtypes,
)
from ct.labels import LABELS, SUBTYPES
from ct.tables.table_columns import text_column
from ct.tables.untrusted_table import read_table_file

WORDS = {  # for labels; numbers that equal 0 or 1 are labels, too
    **dict.fromkeys(("true", "t", "yes", "y", "positive"), 1.0),
    **dict.fromkeys(("false", "f", "no", "n", "negative"), 0.0),
    **dict.fromkeys(("", "nan", "na", "n/a", "none"), float("nan")),
}
# of a long table
VALUE_COLUMNS = (
    *("label", "value", "present", "target", "y"),
    *("hemorrhage", "probability", "prediction"),
)
# (column, its name, the flag) -> its values (n,); raises InputError for the first wrong one
Parse = Callable[[pd.Series, str, str], NDArray[np.floating]]


def read_own_labels(path: Path | str, names: Mapping[str, str]) -> pd.DataFrame:
    """Read a label table, long or wide, with keys of slices, series or studies.

    names: {label: name of it in the table}, as the recipe's `labels` gives them

    Returns a label table. `any` is the maximum of the subtypes where its column lacks. Raises
    InputError where labels or keys are missing, a value is not 0 or 1, or rows contradict each
    other.
    """
    return _read_values(path, "labels", names, label_values)


def read_probabilities(path: Path | str) -> pd.DataFrame:
    """Read the table of --predictions: six probabilities a row, in the forms of a label table.

    A row whose six cells are empty, such as that of a slice without pixels, is left out. Raises
    InputError where keys or probabilities are missing or wrong.
    """
    where = f"--predictions={path}"
    table = _read_values(path, "predictions", {}, probability_values)
    values = table[list(LABELS)]
    table = table[values.notna().any(axis=1)]
    if table.empty:
        raise InputError(f"{where} has no rows with probabilities")
    if (bad := values.loc[table.index].isna().to_numpy()).any():
        row, j = np.argwhere(bad)[0]
        raise InputError(
            f"{where}: {LABELS[j]} of row {table.index[row] + 1} is missing; give all six"
        )
    return table.reset_index(drop=True)


def _read_values(
    path: Path | str, flag: str, names: Mapping[str, str], parse: Parse
) -> pd.DataFrame:
    """Read a table of one value for each label. Without a column `any` it is the maximum."""
    where = f"--{flag}={path}"
    table = read_table_file(path, flag)
    if table.empty:
        raise InputError(f"{where} has no rows; it should have one for each slice or study")
    table = table.set_axis([str(name) for name in table.columns], axis=1)
    columns = label_columns(table.columns, names, where)
    if not set(columns) & set(SUBTYPES):
        table = _wide(table, names, parse, where)
        columns = {label: label for label in LABELS if label in table}
    require_subtypes(columns, table.columns, where)
    if parse is probability_values and "any" not in columns:
        raise InputError(f"{where} has no column any; the probability of any bleed is one of six")
    keys = key_kinds([name for name in table.columns if name not in columns.values()])
    if not keys:
        raise InputError(f"{where} has no column that names a slice or a file, such as file")
    labels = {label: parse(table[name], name, where) for label, name in columns.items()}
    return label_table({name: text_column(table[name]).str.strip() for name in keys}, labels)


def label_table(
    keys: Mapping[str, pd.Series], labels: Mapping[str, NDArray[np.floating]]
) -> pd.DataFrame:
    """Return a label table. keys: {column: text (n,)}; labels: {label: (n,)}, `any` may lack."""
    columns: dict[str, NDArray[np.floating]] = {**labels}
    if "any" not in columns:
        columns["any"] = np.max([columns[label] for label in SUBTYPES], axis=0)
    text = {name: pd.Series(column.to_numpy(object), dtype=str) for name, column in keys.items()}
    return pd.DataFrame(text | {label: columns[label] for label in LABELS})


def label_values(column: pd.Series, name: str, where: str) -> NDArray[np.float32]:
    """Return a column as 0, 1 or NaN, (n,): of WORDS, or numbers in any form, such as 1.00.

    Raises InputError for the first other value.
    """
    text = text_column(column).str.strip().str.lower()
    is_word = text.isin(WORDS).to_numpy(bool)
    numbers = pd.to_numeric(text.mask(is_word), errors="coerce").to_numpy(np.float64)
    values = np.where(is_word, text.map(WORDS).to_numpy(np.float64), numbers)
    # before the rounding to float32, which makes 1 of 0.99999999
    if (bad := ~is_word & (values != 0) & (values != 1)).any():
        row = int(np.argmax(bad))
        raise InputError(
            f"{where}: {printable(name)} of row {row + 1} is {printable(repr(text.iloc[row]))}; "
            "labels are 0 or 1, or empty"
        )
    return values.astype(np.float32)


def probability_values(column: pd.Series, name: str, where: str) -> NDArray[np.float64]:
    """Return a column as probabilities, NaN where it is empty, (n,). Raises as label_values."""
    text = text_column(column).str.strip()
    values = pd.to_numeric(column.where(text != ""), errors="coerce").to_numpy(np.float64)
    if (bad := ~((values >= 0) & (values <= 1)) & (text != "").to_numpy(bool)).any():
        row = int(np.argmax(bad))
        raise InputError(
            f"{where}: {printable(name)} of row {row + 1} is {printable(repr(text.iloc[row]))}; "
            "a probability lies in [0, 1]"
        )
    return values


def names_slices(table: pd.DataFrame) -> bool:
    """Return whether the keys of a label table may name slices, and not studies alone."""
    kinds = key_kinds([name for name in table.columns if name not in LABELS])
    return any(kind in SLICE_KINDS for kind in kinds.values())


def _wide(table: pd.DataFrame, names: Mapping[str, str], parse: Parse, where: str) -> pd.DataFrame:
    """Return a long table as a wide one: the columns of keys, and those of LABELS it has.

    A long table has a row for each label: a column with its name, or ids that end in it, such as
    ID_0123abcd_any, and a column of values.
    """
    label, ids, rest = _long_parts(table, names, where)
    value = _value_column(rest, parse, where)
    values = parse(rest[value], value, where)
    keys = rest.drop(columns=value)
    if ids is not None:
        keys = keys.assign(**{str(ids.name): ids})
    codes = keys.groupby(list(keys), sort=False, dropna=False).ngroup().to_numpy()
    first = ~pd.Series(codes).duplicated().to_numpy()
    wide = keys[first].reset_index(drop=True)
    for each in pd.unique(label):
        rows = label == each
        column = np.full(len(wide), np.nan, values.dtype)
        column[codes[rows]] = values[rows]
        if (bad := (column[codes[rows]] != values[rows]) & ~np.isnan(values[rows])).any():
            row = int(np.flatnonzero(rows)[bad][0]) + 1
            raise InputError(
                f"{where}: row {row} contradicts another row, {each} has two values; "
                "remove the wrong row"
            )
        wide[each] = column
    return wide


def _long_parts(
    table: pd.DataFrame, names: Mapping[str, str], where: str
) -> tuple[NDArray[np.object_], pd.Series | None, pd.DataFrame]:
    """Return (label of each row, ids without it where they end in it, the other columns)."""
    known = {name: label for label, name in names.items()}

    def labels_of(texts: pd.Series) -> NDArray[np.object_]:
        found = {text: known.get(text) or label_of_name(text) for text in pd.unique(texts)}
        if ICH in found.values():
            other = "any" if "intraparenchymal" in found.values() else "intraparenchymal"
            found = {text: other if label == ICH else label for text, label in found.items()}
        return texts.map(found).to_numpy(object)

    for name in table.columns:
        text = text_column(table[name]).str.strip()
        if not pd.isna(labels := labels_of(text)).any():
            return labels, None, table.drop(columns=name)
        parts = text.str.rpartition("_")
        if (parts[1] == "_").all() and not pd.isna(labels := labels_of(parts[2])).any():
            return labels, parts[0].rename(name), table.drop(columns=name)
    raise InputError(
        f"{where} has no columns of the subtypes ({', '.join(SUBTYPES)}, or EDH, IPH, IVH, SAH, "
        f"SDH); it has {printable(', '.join(table.columns))}; name them in the recipe, "
        "`labels: {epidural: COLUMN}`"
    )


def _value_column(table: pd.DataFrame, parse: Parse, where: str) -> str:
    """Return the column with the values of a long table."""
    by_name = {name.lower(): name for name in table.columns}
    if known := [by_name[name] for name in VALUE_COLUMNS if name in by_name]:
        return known[0]
    fitting = [name for name in table.columns if _parses(table[name], parse)]
    if len(fitting) > 1:  # such as a column of sex that is F everywhere
        fitting = [name for name in fitting if table[name].nunique() > 1]
    if len(fitting) == 1:
        return fitting[0]
    raise InputError(
        f"{where} has a row for each label, but no column of values called label or value; it has "
        f"{printable(', '.join(table.columns))}"
    )


def _parses(column: pd.Series, parse: Parse) -> bool:
    try:
        parse(column, "", "")
    except InputError:
        return False
    return True
