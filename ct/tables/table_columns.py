"""Check and convert the columns of a table that a user brings."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.config import suggestion
from ct.errors import InputError, printable


def require_columns(table: pd.DataFrame, names: Iterable[str], where: str) -> None:
    """Raise InputError for the first of the columns `names` that a table lacks.

    where: the flag that names the table, for the message
    """
    for name in names:
        if name not in table:
            raise InputError(f"{where} lacks the column {name}{suggestion(name, list(table))}")


def text_column(column: pd.Series) -> pd.Series:
    """Return a column as text; a missing value becomes ""."""
    return column.astype(object).where(column.notna(), "").astype(str)


def require_text(column: pd.Series, name: str, where: str) -> None:
    """Raise InputError for the first row of a text column that is blank. name: of the column."""
    if (blank := (column.str.strip() == "").to_numpy(bool)).any():
        raise InputError(f"{where}: row {int(np.argmax(blank)) + 1} has no {name}")


def fold_numbers(column: pd.Series, where: str) -> NDArray[np.float64]:
    """Return a column of fold numbers as float64 (n,), NaN where the cell is empty.

    Raises InputError unless the numbers are 0 ... K-1, without a gap, and K is at least 2.
    """
    text = column.astype(str).str.strip()
    fold = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    if (bad := np.isnan(fold) & ~text.isin(["", "nan", "None", "<NA>"]).to_numpy(bool)).any():
        raise InputError(
            f"{where}: fold {printable(repr(text[bad].iloc[0]))} is not a number; "
            "folds are numbered 0, 1, ..."
        )
    present = np.unique(fold[~np.isnan(fold)])
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        numbers = ", ".join(f"{number:g}" for number in present[:8])
        raise InputError(
            f"{where}: the folds are {numbers or 'empty'}; "
            "they should be numbered 0 to K-1, and be at least two"
        )
    return fold
