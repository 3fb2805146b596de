"""Tables of people one does not know: csv (plain, .gz, .zip, UTF-8 or UTF-16) and parquet, bounded,
each fault one line.
"""

import csv
import gzip
import io
import struct
import zipfile
import zlib
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ct.errors import InputError, printable, reason_of
from ct.sources.decompression_limit import max_unpacked_bytes
from ct.system.machine_faults import raise_fault

MARKS = {  # at a text's beginning -> its encoding, longer ones first
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
FIRST_LINE = 1 << 20  # bytes; within them a csv's first line ends
MOST_COLUMNS = 4096
# that any parquet file may have; beyond them so many a byte, since repeated values take no room
FEW_CELLS = 10_000_000
CELLS_A_BYTE = 16
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


def read_table_file(path: str | Path, flag: str) -> pd.DataFrame:
    """Read the table that --`flag` names: csv (also .csv.gz and .csv.zip) as text, or parquet.

    Raises InputError where there is none, or it does not read; see `read_csv_file` and
    `read_parquet_file`.
    """
    path, where = Path(path), f"--{flag}={path}"
    if not path.is_file():
        raise InputError(f"{where} does not exist or is no file; it names a csv or parquet table")
    if path.suffix in (".parquet", ".pq"):
        return read_parquet_file(path, where)
    with open(path, "rb") as file:
        return read_csv_file(file, where)


def read_csv_file(
    file: io.BufferedIOBase, where: str, kind: str = "csv or parquet table"
) -> pd.DataFrame:
    """Read a csv, all of it text, empty cells "": as it is, or packed by gzip, or as the only file
    of a zip archive.

    file: open, of bytes; where: the flag or path, and kind: what it should be, for the message

    Raises InputError where it is no csv, is damaged, unpacks to more than any csv of its size, or
    has a column twice.
    """
    file = _unpacked(file, where)
    begin = file.read(FIRST_LINE)
    file.seek(0)
    encoding = next((name for mark, name in MARKS.items() if begin.startswith(mark)), "utf-8-sig")
    try:
        if len(begin) == FIRST_LINE and b"\n" not in begin:
            raise InputError(f"{where} is no {kind}: its first line has no end")
        names = _first_names(begin.decode(encoding, errors="ignore"))
        if len(names) > MOST_COLUMNS:
            raise InputError(f"{where} is no {kind}: it has more than {MOST_COLUMNS} columns")
        _refuse_twice(names, where)
        return pd.read_csv(file, dtype=str, keep_default_na=False, encoding=encoding)
    except UnicodeDecodeError:
        raise InputError(
            f"{where} is no {kind}: it is no UTF-8 text, nor marked as UTF-16; save it as UTF-8"
        ) from None
    except (
        ValueError,
        OverflowError,
        csv.Error,
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
    ) as error:
        raise InputError(f"{where} is no {kind}: {reason_of(error)}") from None


def _first_names(text):
    lines = text.splitlines()
    return next(csv.reader(lines[:1]), []) if lines else []


def _refuse_twice(names, where):
    """Raise InputError where two columns have one name."""
    seen = set()
    for name in names:
        if name and name in seen:
            raise InputError(
                f"{where} has the column {printable(name)} twice; give every column a name of its own"
            )
        seen.add(name)


def _unpacked(file, where):
    """Return a file of bytes without gzip's or zip's packing, at its beginning. Raises InputError,
    MachineFault.
    """
    magic = file.read(4)
    packed = file.seek(0, io.SEEK_END)
    file.seek(0)
    most = max_unpacked_bytes(packed)
    try:
        if magic[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=file) as archive:
                raw = archive.read(most + 1)
        elif magic[:2] == b"PK" and magic[2:] in (
            b"\x03\x04",
            b"\x05\x06",
        ):  # with files, or without any
            with zipfile.ZipFile(file) as archive:
                raw = _only_member(archive, where).read(most + 1)
        else:
            return file
    except UNPACKING as error:
        raise_fault(error, where)
        raise InputError(
            f"{where} is damaged, it cannot be unpacked ({reason_of(error)}); download it again"
        ) from None
    if len(raw) > most:
        raise InputError(
            f"{where} unpacks to more than {most >> 20} MB from {packed} bytes, which no csv does"
        )
    return io.BytesIO(raw)


def _only_member(archive, where):
    """Open the only file of a zip archive, those that a Mac's archiver leaves behind apart. Raises
    InputError.
    """
    names = [
        info
        for info in archive.infolist()
        if not info.is_dir() and not info.filename.startswith(("__MACOSX", "."))
    ]
    if len(names) != 1:
        raise InputError(
            f"{where} is a zip archive of {len(names)} files; unpack it, and name the csv in it"
        )
    return archive.open(names[0])


def read_parquet_file(path: str | Path, where: str) -> pd.DataFrame:
    """Read a parquet table; a named index is a column like others, lists are their text, and
    pandas' own notes are not read.

    Raises InputError where it is none, is damaged, has a column twice, or far more cells than
    bytes.
    """
    raw = Path(path).read_bytes()  # what fails from here on is the file's fault, not the disk's
    try:
        file = pq.ParquetFile(pa.BufferReader(raw))
        facts, names = file.metadata, list(file.schema_arrow.names)
        if len(names) > MOST_COLUMNS or facts.num_rows * len(
            names
        ) > FEW_CELLS + CELLS_A_BYTE * len(raw):
            raise InputError(
                f"{where} claims {facts.num_rows} rows of {len(names)} columns in {len(raw)} bytes; it is damaged"
            )
        _refuse_twice(names, where)
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


def _plain(column):
    """Return a column of numbers or text; whatever else it holds becomes its text, true and false
    become 1 and 0.
    """
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
    return pa.chunked_array(
        [
            pa.array(
                [None if value is None else str(value) for value in column.to_pylist()], pa.string()
            )
        ]
    )
