"""Read untrusted tables: csv (plain, .gz, .zip; UTF-8 or UTF-16) and parquet, limited in size.

Each error is one line.
"""

import csv
import io
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ct.errors import InputError, printable, reason_of
from ct.tables.packed_table import DAMAGE, Binary, unpacked
from ct.tables.table_kinds import PARQUET, encoding_of, other_kind

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}  # other than commas
# a first line by which a writer gives Excel the separator
SEPARATOR_LINE = re.compile(r'"?sep=([^\r\n])"?(?:\r\n?|\n)', re.IGNORECASE)
FIRST_LINE = 1 << 20  # bytes in which the first line of a csv must end
MOST_COLUMNS = 4096
# a parquet file may have FEW_CELLS cells plus CELLS_PER_BYTE for each of its bytes; a bomb of
# repeated values has far more
FEW_CELLS = 10_000_000
CELLS_PER_BYTE = 16
NO_PARQUET = (
    "no csv or parquet table: by its name it is parquet, by its first bytes not; "
    "download it again, or name a csv .csv"
)


def read_table_file(path: str | Path, flag: str) -> pd.DataFrame:
    """Read the table that --`flag` names: csv as text, or parquet, by the first bytes of the file.

    Either may be gzipped, or the only file of a zip archive. Raises InputError where there is none,
    or it cannot be read; see `read_csv_file` and `_read_parquet`.
    """
    path, where = Path(path), f"--{flag}={path}"
    if not path.is_file():
        raise InputError(f"{where} does not exist or is no file; it names a csv or parquet table")
    with open(path, "rb") as packed:
        file = unpacked(packed, where)
        start = file.read(FIRST_LINE)
        file.seek(0)
        if not start.startswith(PARQUET):
            if path.suffix.lower() in (".parquet", ".pq"):
                raise InputError(f"{where} is {other_kind(start) or NO_PARQUET}")
            return _read_csv(file, where, "csv or parquet table")
        data = file.read()  # later errors are faults of the content, not of the disk
    return _read_parquet(data, where)


def read_csv_file(file: Binary, where: str) -> pd.DataFrame:
    """Read a csv as text, empty cells "": plain, gzipped, or the only file of a zip archive.

    file: open for reading bytes; where: the flag or path, for the message

    Excel's first line `sep=,` is no row. Raises InputError where the file is no csv, is damaged,
    unpacks to too many bytes, is not separated by commas, has a column twice, or rows with more
    cells than the header; MachineFault where the disk fails.
    """
    return _read_csv(unpacked(file, where), where, "csv file")


def _read_csv(file: Binary, where: str, kind: str) -> pd.DataFrame:
    """Read an unpacked csv; see `read_csv_file`. kind: the expected content, for the message"""
    start = file.read(FIRST_LINE)
    file.seek(0)
    if other := other_kind(start):
        raise InputError(f"{where} is {other}")
    encoding = encoding_of(start)
    try:
        if len(start) == FIRST_LINE and b"\n" not in start:
            raise InputError(f"{where} is no {kind}: its first line has no end")
        text = start.decode(encoding, errors="ignore")
        separator = SEPARATOR_LINE.match(text)
        names = _column_names(text[separator.end() :] if separator else text)
        _require_commas(separator[1] if separator else ",", names, where)
        if len(names) > MOST_COLUMNS:
            raise InputError(f"{where} is no {kind}: it has more than {MOST_COLUMNS} columns")
        _refuse_repeated(names, where)
        return _read_rows(file, encoding, 1 if separator else 0, where)
    except UnicodeDecodeError:
        raise InputError(
            f"{where} is no {kind}: it is neither UTF-8 text nor marked as UTF-16; save it as UTF-8"
        ) from None
    except (
        ValueError,
        OverflowError,
        csv.Error,
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
    ) as error:
        raise InputError(f"{where} is no {kind}: {reason_of(error)}") from None


def _read_rows(file: Binary, encoding: str, skipped: int, where: str) -> pd.DataFrame:
    """Return the rows of a csv as text. skipped: lines above the header.

    Where its first row has more cells than the header, pandas takes the first columns as an index,
    and each name moves to another column. Separators at the end of the rows leave such cells, all
    empty, and are no columns. Raises InputError where the cells hold something, and where the first
    column is numbered as R's row names are: whether the first or the last of them has no name is
    unknown.
    """
    read = partial(
        pd.read_csv, dtype=str, keep_default_na=False, encoding=encoding, skiprows=skipped
    )
    table: pd.DataFrame = read(file)
    if isinstance(table.index, pd.RangeIndex):
        return table
    names, surplus = len(table.columns), table.index.nlevels
    numbered = surplus == 1 and list(table.index) == [str(i + 1) for i in range(len(table))]
    if numbered or surplus > names or (table.iloc[:, -surplus:] != "").any(axis=None):
        raise InputError(
            f"{where}: rows have {names + surplus} cells, the header {names}; "
            "give each column a name in the first line (in R by write.csv)"
        )
    file.seek(0)
    # without usecols pandas warns of the cells that are left out
    rows: pd.DataFrame = read(file, index_col=False, usecols=range(names))
    return rows


def _column_names(text: str) -> list[str]:
    """Return the cells of the first row, which may be below empty lines."""
    return next(csv.reader(io.StringIO(text.lstrip(), newline="")), [])


def _require_commas(separator: str, names: list[str], where: str) -> None:
    """Raise InputError where a csv is not separated by commas.

    separator: as its first line gives it; names: the cells of its header, read with commas
    """
    if separator == "," and len(names) == 1:
        separator = next((mark for mark in SEPARATORS if mark in names[0]), ",")
    if separator != ",":
        name = SEPARATORS.get(separator, printable(repr(separator)))
        raise InputError(f"{where} is separated by {name}; save it with commas")


def _refuse_repeated(names: Iterable[str], where: str) -> None:
    """Raise InputError where two columns have the same name."""
    unique: set[str] = set()
    for name in names:
        if name and name in unique:
            raise InputError(
                f"{where} has the column {printable(name)} twice; give each column its own name"
            )
        unique.add(name)


def _read_parquet(data: bytes, where: str) -> pd.DataFrame:
    """Read a parquet table: numbers and text as they are, all other values as text.

    data: of the file; where: the flag or path, for the message

    pandas' metadata is not read: a named index is a column like the others. Raises InputError where
    the file is no parquet table, is damaged, has a column twice, or has far more cells than bytes.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        rows, names = file.metadata.num_rows, list(file.schema_arrow.names)
        most_cells = FEW_CELLS + CELLS_PER_BYTE * len(data)
        if len(names) > MOST_COLUMNS or rows * len(names) > most_cells:
            raise InputError(
                f"{where} claims {rows} rows of {len(names)} columns in {len(data)} bytes; "
                "it is damaged"
            )
        _refuse_repeated(names, where)
        table = file.read()
        table.validate(full=True)
        columns = [_plain(column) for column in table.columns]
        return pa.table(dict(zip(names, columns, strict=True))).to_pandas(ignore_metadata=True)
    except MemoryError:
        raise InputError(
            f"{where} needs more memory than there is; it is damaged, or too large for this machine"
        ) from None
    except (*DAMAGE, pa.ArrowException) as error:
        raise InputError(f"{where} is no csv or parquet table: {reason_of(error)}") from None


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as numbers or text; true and false become 1 and 0, other types text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type))
    if pa.types.is_boolean(kind):
        return column.cast(pa.int8())
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        return column
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column
    texts = [None if value is None else str(value) for value in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])
