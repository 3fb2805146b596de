"""Read untrusted tables: csv (plain, .gz, .zip; UTF-8 or UTF-16) and parquet, limited in size.

Each error is one line.
"""

import csv
import gzip
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import IO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ct.errors import InputError, printable, reason_of
from ct.sources.decompression_limit import max_unpacked_bytes
from ct.system.machine_faults import raise_fault

BYTE_ORDER_MARKS = {  # at the start of a text -> its encoding, longer ones first
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}  # other than commas
# a first line by which a writer gives Excel the separator
SEPARATOR_LINE = re.compile(r'"?sep=([^\r\n])"?(?:\r\n?|\n)', re.IGNORECASE)
FIRST_LINE = 1 << 20  # bytes in which the first line of a csv must end
MOST_COLUMNS = 4096
# a parquet file may have FEW_CELLS cells plus CELLS_PER_BYTE for each of its bytes; a bomb of
# repeated values has far more
FEW_CELLS = 10_000_000
CELLS_PER_BYTE = 16
# what the libraries raise for a damaged file
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    OverflowError,
    EOFError,
    RuntimeError,
    NotImplementedError,
)
UNPACKING = (*DAMAGE, zlib.error, struct.error, zipfile.BadZipFile)
Binary = IO[bytes] | io.BufferedIOBase  # a file that is open for reading bytes

GZIP = b"\x1f\x8b"
ZIP, EMPTY_ZIP = b"PK\x03\x04", b"PK\x05\x06"


def read_table_file(path: str | Path, flag: str) -> pd.DataFrame:
    """Read the table that --`flag` names: csv (also .csv.gz and .csv.zip) as text, or parquet.

    Raises InputError where there is none, or it cannot be read; see `read_csv_file` and
    `read_parquet_file`.
    """
    path, where = Path(path), f"--{flag}={path}"
    if not path.is_file():
        raise InputError(f"{where} does not exist or is no file; it names a csv or parquet table")
    if path.suffix in (".parquet", ".pq"):
        return read_parquet_file(path, where)
    with open(path, "rb") as file:
        return read_csv_file(file, where)


def read_csv_file(file: Binary, where: str, kind: str = "csv or parquet table") -> pd.DataFrame:
    """Read a csv as text, empty cells "": plain, gzipped, or the only file of a zip archive.

    file: open for reading bytes; where: the flag or path, and kind: the expected content, for the
    message

    Excel's first line `sep=,` is no row. Raises InputError where the file is no csv, is damaged,
    unpacks to too many bytes, is not separated by commas, has a column twice, or rows with more
    cells than the header; MachineFault where the disk fails.
    """
    file = _unpacked(file, where)
    start = file.read(FIRST_LINE)
    file.seek(0)
    encoding = next(
        (name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8-sig"
    )
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
    empty, and are no columns. Raises InputError where the cells hold something: whether the first
    or the last of them has no name is unknown.
    """
    read = partial(
        pd.read_csv, dtype=str, keep_default_na=False, encoding=encoding, skiprows=skipped
    )
    table: pd.DataFrame = read(file)
    if isinstance(table.index, pd.RangeIndex):
        return table
    names, surplus = len(table.columns), table.index.nlevels
    if surplus > names or (table.iloc[:, -surplus:] != "").any(axis=None):
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


def _unpacked(file: Binary, where: str) -> Binary:
    """Return the file, or the content of a gzip or zip file, at its start.

    Raises InputError where it is damaged or unpacks to too many bytes; MachineFault where the disk
    fails.
    """
    magic = file.read(4)
    packed = file.seek(0, io.SEEK_END)
    file.seek(0)
    most = max_unpacked_bytes(packed)
    try:
        if magic[:2] == GZIP:
            with gzip.GzipFile(fileobj=file) as stream:
                data = stream.read(most + 1)
        elif magic in (ZIP, EMPTY_ZIP):
            with zipfile.ZipFile(file) as archive:
                data = _only_member(archive, where).read(most + 1)
        else:
            return file
    except UNPACKING as error:
        raise_fault(error, where)
        raise InputError(
            f"{where} is damaged, it cannot be unpacked ({reason_of(error)}); download it again"
        ) from None
    if len(data) > most:
        raise InputError(
            f"{where} unpacks to more than {most >> 20} MB from {packed} bytes, too many for a csv"
        )
    return io.BytesIO(data)


def _only_member(archive: zipfile.ZipFile, where: str) -> IO[bytes]:
    """Open the only file of a zip archive, except for the extra files of a Mac.

    Raises InputError where there is not exactly one.
    """
    members = [
        info
        for info in archive.infolist()
        if not info.is_dir() and not info.filename.startswith(("__MACOSX", "."))
    ]
    if len(members) != 1:
        raise InputError(
            f"{where} is a zip archive of {len(members)} files; unpack it, and name the csv in it"
        )
    return archive.open(members[0])


def read_parquet_file(path: str | Path, where: str) -> pd.DataFrame:
    """Read a parquet table: numbers and text as they are, all other values as text.

    where: the flag or path, for the message

    pandas' metadata is not read: a named index is a column like the others. Raises InputError where
    the file is no parquet table, is damaged, has a column twice, or has far more cells than bytes.
    """
    data = Path(path).read_bytes()  # later errors are faults of the content, not of the disk
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
