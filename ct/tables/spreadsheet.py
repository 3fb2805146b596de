"""Tables for spreadsheet programs: csv files whose cells are text, never formulas.

Spreadsheet programs run a cell as a formula where it starts with = + - @ (or their wide forms), a
tab or a line break. File names and remarks in these tables are untrusted (OWASP, "CSV injection").
Such a cell gets an apostrophe in front, which spreadsheet programs read as "this is text";
`read_sheet` removes it. Numbers stay numbers.
"""

import csv
import os
import re
from pathlib import Path
from typing import TextIO

import pandas as pd

# also after apostrophes, so that `read_sheet` can undo it
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def write_sheet(path: Path, table: pd.DataFrame, index: bool = True, private: bool = False) -> None:
    """Write a table as csv.

    index:   write the index as the first column
    private: create a new file that only its owner can read
    """
    safe = table.assign(**{name: _without_formulas(column) for name, column in table.items()})
    safe.index = _without_formulas(safe.index.to_series()).array
    safe.index.name = table.index.name
    quoting = csv.QUOTE_NONNUMERIC if _has_carriage_return(safe) else csv.QUOTE_MINIMAL
    with _open(path, private) as file:
        safe.to_csv(file, index=index, quoting=quoting)


def read_sheet(path: Path) -> pd.DataFrame:
    """Read the csv of `write_sheet`, without an index; all cells are text, an empty one is ""."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    return table.assign(**{name: column.map(_original) for name, column in table.items()})


def _open(path: Path, private: bool) -> TextIO:
    """Open a csv for writing; a private one must be new, so that it is private from the start."""

    def create_private(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_EXCL, 0o600)

    opener = create_private if private else None
    return open(path, "w", encoding="utf-8", errors="backslashreplace", newline="", opener=opener)


def _without_formulas(column: pd.Series) -> pd.Series:
    """Return a column in which no text starts like a formula; other values stay."""
    if pd.api.types.is_numeric_dtype(column):  # bool, too
        return column
    return column.map(
        lambda cell: f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell
    )


def _has_carriage_return(table: pd.DataFrame) -> bool:
    """Return whether a cell holds a carriage return.

    Readers end a row there, but pandas' writer does not quote such a cell.
    """
    texts = (column for _, column in table.items() if not pd.api.types.is_numeric_dtype(column))
    return any(isinstance(cell, str) and "\r" in cell for column in texts for cell in column)


def _original(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
