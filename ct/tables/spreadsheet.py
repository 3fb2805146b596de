"""Tables that people open in a spreadsheet program: csv files whose cells are text and never
formulas.

A cell that begins with = + - @ (or their wide forms), a tab or a line break is run by spreadsheet
programs as a formula, and file names and remarks come from strangers (OWASP, "CSV injection"). Such
a cell gets an apostrophe in front, which they take for "this is text"; `read_sheet` takes it away
again. Numbers stay numbers.
"""

import csv
import os
import re
from pathlib import Path

import pandas as pd

# behind apostrophes, too: so it can be undone
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def write_sheet(path: Path, table: pd.DataFrame, index: bool = True, private: bool = False) -> None:
    """Write a table as csv.

    index: with its index as the first column; private: a new file that its owner alone may read,
    from the start
    """
    safe = table.assign(**{name: _harmless(column) for name, column in table.items()})
    safe.index = _harmless(safe.index.to_series()).array
    safe.index.name = table.index.name
    with _open(path, private) as file:
        safe.to_csv(
            file, index=index, quoting=csv.QUOTE_NONNUMERIC if _breaks(safe) else csv.QUOTE_MINIMAL
        )


def read_sheet(path: Path) -> pd.DataFrame:
    """Read what `write_sheet` wrote, without an index; all of it is text, and an empty cell is ""
    (as in older files).
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    return table.assign(**{name: column.map(_as_it_was) for name, column in table.items()})


def _open(path, private):
    """Open a csv for writing; a private one is new, so that nobody else could read it at any
    moment.
    """
    opener = (lambda name, flags: os.open(name, flags | os.O_EXCL, 0o600)) if private else None
    return open(path, "w", encoding="utf-8", errors="backslashreplace", newline="", opener=opener)


def _harmless(column):
    """Return a column in which no text begins as a formula does; other values are as they were."""
    if pd.api.types.is_numeric_dtype(column):  # bool, too
        return column
    return column.map(
        lambda cell: f"'{cell}" if isinstance(cell, str) and FORMULA.match(cell) else cell
    )


def _breaks(table):
    """Return whether a cell holds a carriage return, which ends a row for readers and is no reason
    to quote for the writer.
    """
    texts = (column for _, column in table.items() if not pd.api.types.is_numeric_dtype(column))
    return any(isinstance(cell, str) and "\r" in cell for column in texts for cell in column)


def _as_it_was(cell):
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
