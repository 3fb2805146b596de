"""Tables that a user gives instead of images: read as they are, checked column by column. csv, also
packed, or parquet.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from ct.config import nearest
from ct.errors import InputError, shown
from ct.labels import LABELS
from ct.privacy.pseudonyms import pseudonym
from ct.slices import HEADER_COLUMNS, ORIENTATION, POSITION
from ct.tables.untrusted_table import read_csv_file, read_parquet_file

IDS = {
    "SOPInstanceUID": "slice_id",
    "PatientID": "patient_id",
    "StudyInstanceUID": "study_id",
    "SeriesInstanceUID": "series_id",
}
VECTORS = {"ImagePositionPatient": POSITION, "ImageOrientationPatient": ORIENTATION}
# of several values, as multi-valued windows have, the first; a column may lack, a cell be empty
NUMBERS = {
    "PixelSpacing": "pixel_spacing_mm",
    "Rows": "rows",
    "Columns": "cols",
    "RescaleSlope": "slope",
    "RescaleIntercept": "intercept",
    "BitsStored": "bits_stored",
    "PixelRepresentation": "pixel_representation",
    "WindowCenter": "window_center",
    "WindowWidth": "window_width",
}
SEVERAL = re.compile(r"[,\\]")  # between values: as Python writes a list, or as DICOM does
TEXT = pd.Series([""], dtype=str).dtype


def read_given(path, flag):
    """Read the table that --`flag` named: csv (also .csv.gz and .csv.zip), all of it text, or
    parquet, its index a column.

    Raises InputError where there is none, or it does not read.
    """
    path, where = Path(path), f"--{flag}={path}"
    if not path.is_file():
        raise InputError(f"{where} does not exist or is no file; it names a csv or parquet table")
    if path.suffix in (".parquet", ".pq"):
        return read_parquet_file(path, where)
    with open(path, "rb") as file:
        return read_csv_file(file, where)


def need_columns(table, names, where):
    """Raise InputError for the first of the columns `names` that a table lacks, with the nearest
    that it has.
    """
    for name in names:
        if name not in table:
            raise InputError(f"{where} lacks the column {name}{nearest(name, list(table))}")


def texts(column: pd.Series) -> pd.Series:
    """Return a column as text; where it has no value, ""."""
    return column.astype(object).where(column.notna(), "").astype(str)


def given_folds(column, where):
    """Return a column of fold numbers as float64 (n,), NaN where empty.

    Raises InputError unless the numbers are 0 ... K-1, each of them there and K at least 2.
    """
    text = column.astype(str).str.strip()
    fold = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    if (bad := np.isnan(fold) & ~text.isin(["", "nan", "None", "<NA>"]).to_numpy(bool)).any():
        raise InputError(
            f"{where}: fold {shown(repr(text[bad].iloc[0]))} is no number; folds are numbered 0, 1, ..."
        )
    found = np.unique(fold[~np.isnan(fold)])
    if len(found) < 2 or not np.array_equal(found, np.arange(len(found))):
        numbers = ", ".join(f"{number:g}" for number in found[:8])
        raise InputError(
            f"{where}: the folds are {numbers or 'empty'}; they should be numbered 0 to K-1, and be two at least"
        )
    return fold


def read_slice_list(path, key):
    """Read the slice list of a run without images.

    path: a table with the columns IDS, VECTORS and LABELS, one row a slice; labels are 0, 1 or, on
    a test slice, empty; NUMBERS and `fold` if given; key: bytes, of the pseudonyms

    Returns a DataFrame indexed by slice_id: HEADER_COLUMNS, POSITION, ORIENTATION, LABELS float32,
    and `fold` if given (float, NaN on test slices). Raises InputError that names the first slice
    that does not fit.
    """
    where = f"--slices={path}"
    given = read_given(path, "slices")
    need_columns(given, [*IDS, *VECTORS, *LABELS], where)
    if given.empty:
        raise InputError(f"{where} has no rows; it should have one a slice")
    names = {column: texts(given[column]) for column in IDS}
    ids = names["SOPInstanceUID"]
    for column, values in names.items():
        if (bad := (values.str.strip() == "").to_numpy(bool)).any():
            raise InputError(f"{where}: row {int(np.argmax(bad)) + 1} has no {column}")
    if (twice := ids.duplicated().to_numpy()).any():
        raise InputError(
            f"{where}: slice {shown(ids[twice].iloc[0])} occurs twice; every slice has one row"
        )
    columns = {
        IDS[name]: _pseudonyms(values, key, IDS[name].removesuffix("_id"))
        for name, values in names.items()
    }
    for column, parts in VECTORS.items():
        columns |= dict(
            zip(parts, _vectors(given[column], ids, column, len(parts), where).T, strict=True)
        )
    _refuse_planes(columns, ids, where)
    columns |= {
        ours: _first_numbers(given.get(column), len(given)) for column, ours in NUMBERS.items()
    }
    columns["pixel_spacing_mm"] = np.where(
        columns["pixel_spacing_mm"] > 0, columns["pixel_spacing_mm"], np.nan
    )
    y = _labels(given, ids, where)
    columns["split"] = np.where(np.isnan(y).all(axis=1), "test", "train")
    columns |= {
        "path": pd.array([""] * len(given), dtype=TEXT),
        "transfer_syntax": pd.array([""] * len(given), dtype=TEXT),
    }
    if "fold" in given:
        train = columns["split"] == "train"
        columns["fold"] = given_folds(given["fold"].astype(object).where(train, ""), where)
        if (bad := train & np.isnan(columns["fold"])).any():
            raise InputError(
                f"{where}: slice {shown(ids[bad].iloc[0])} has no fold; "
                "give one to every labelled slice, or leave out the column"
            )
    table = pd.DataFrame(columns).set_index("slice_id")
    table = table[
        [*HEADER_COLUMNS, *POSITION, *ORIENTATION, *(["fold"] if "fold" in table else [])]
    ]
    return table.join(pd.DataFrame(y, index=table.index, columns=list(LABELS)))


def _pseudonyms(names, key, kind):
    code, known = pd.factorize(names)
    return pd.array(
        np.array([pseudonym(name, key, kind) for name in known], object)[code], dtype=TEXT
    )


def _split(column, most):
    """Return the values of each cell, a DataFrame of text: "['1.0', '2.0']" and "1.0\\2.0" are two.

    What follows the first `most` values of a cell is one more: a cell of a million commas has no
    million columns.
    """
    bare = column.astype(str).str.replace(r"[\[\]()'\"\s]", "", regex=True)
    return bare.str.split(SEVERAL, n=most, expand=True, regex=True)


def _vectors(column, ids, name, count, where):
    """Return a column of `count` numbers a cell, float64 (n, count)."""
    parts = _split(column, count)
    values = (
        parts.reindex(columns=range(count))
        .apply(pd.to_numeric, errors="coerce")
        .to_numpy(np.float64)
    )
    too_many = (
        parts.reindex(columns=range(count, parts.shape[1])).notna().any(axis=1).to_numpy(bool)
    )
    if (bad := too_many | ~np.isfinite(values).all(axis=1)).any():
        value = shown(repr(column[bad].iloc[0]))
        raise InputError(
            f"{where}: slice {shown(ids[bad].iloc[0])} has the {name} {value}; it should be {count} numbers"
        )
    return values


def _first_numbers(column, rows):
    """Return the first number of each cell, float32 (n,); NaN where there is none."""
    if column is None:
        return np.full(rows, np.nan, np.float32)
    return pd.to_numeric(_split(column, 1)[0], errors="coerce").to_numpy(np.float32)


def _refuse_planes(columns, ids, where):
    """Raise InputError for an orientation that is no two perpendicular directions, as
    `ct.dicom.header` does for a file.
    """
    row, col = (
        np.column_stack([columns[name] for name in part])
        for part in (ORIENTATION[:3], ORIENTATION[3:])
    )
    size = np.linalg.norm(row, axis=1) * np.linalg.norm(col, axis=1)
    if (bad := (size == 0) | (np.abs((row * col).sum(axis=1)) > 0.5 * size)).any():
        raise InputError(
            f"{where}: the ImageOrientationPatient of slice {shown(ids[bad].iloc[0])} is no two perpendicular directions"
        )


def _labels(given, ids, where):
    """Return the labels, float32 (n, 6): 0, 1 or NaN where the cell is empty."""
    y = np.empty((len(given), len(LABELS)), np.float32)
    for j, label in enumerate(LABELS):
        text = given[label].astype(object).where(given[label].notna(), "").astype(str).str.strip()
        y[:, j] = pd.to_numeric(text, errors="coerce")
        if (bad := (text != "").to_numpy(bool) & ~np.isin(y[:, j], [0, 1])).any():
            value = shown(repr(text[bad].iloc[0]))
            what = f"{label} of slice {shown(ids[bad].iloc[0])} is {value}"
            raise InputError(f"{where}: {what}; labels are 0 or 1, or empty")
    return y
