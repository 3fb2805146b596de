"""The slice list: a table that describes the slices of a run without images."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.errors import InputError, printable
from ct.labels import LABELS
from ct.privacy.pseudonyms import pseudonym
from ct.slices import HEADER_COLUMNS, ORIENTATION, POSITION, spans_plane
from ct.tables.table_columns import fold_numbers, require_columns, require_text, text_column
from ct.tables.untrusted_table import read_table_file

# column of the list -> column of the slice table
IDS = {
    "SOPInstanceUID": "slice_id",
    "PatientID": "patient_id",
    "StudyInstanceUID": "study_id",
    "SeriesInstanceUID": "series_id",
}
VECTORS = {"ImagePositionPatient": POSITION, "ImageOrientationPatient": ORIENTATION}
# optional columns, cells may be empty; where a cell has several values the first counts
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
SEPARATOR = re.compile(r"[,\\]")  # between values, in a Python list or in DICOM
TEXT = pd.Series([""], dtype=str).dtype


def read_slice_list(path: Path | str, key: bytes) -> pd.DataFrame:
    """Read the slice list of a run without images.

    path: a table with the columns IDS, VECTORS and LABELS, one row per slice; labels are 0, 1 or
          empty. The columns NUMBERS and `fold` are optional
    key:  of the pseudonyms

    Returns a DataFrame indexed by slice_id: HEADER_COLUMNS, POSITION, ORIENTATION, `fold` if the
    list has it (float64, NaN on slices without a label), LABELS float32. `split` is test on slices
    without a label; see `split_by_study`. Raises InputError that names the first slice that is
    wrong.
    """
    where = f"--slices={path}"
    source = read_table_file(path, "slices")
    require_columns(source, [*IDS, *VECTORS, *LABELS], where)
    if source.empty:
        raise InputError(f"{where} has no rows; it should have one per slice")
    columns: dict[str, Any] = _identifiers(source, key, where)
    ids = text_column(source["SOPInstanceUID"])
    for name, parts in VECTORS.items():
        vectors = _vectors(source[name], ids, name, len(parts), where)
        columns |= dict(zip(parts, vectors.T, strict=True))
    _check_orientation(columns, ids, where)
    for listed_name, name in NUMBERS.items():
        columns[name] = _first_numbers(source.get(listed_name), len(source))
    spacing = columns["pixel_spacing_mm"]
    columns["pixel_spacing_mm"] = np.where(spacing > 0, spacing, np.nan)
    y = _labels(source, ids, where)
    columns["split"] = np.where(np.isnan(y).all(axis=1), "test", "train")
    for name in ("path", "transfer_syntax"):
        columns[name] = pd.array([""] * len(source), dtype=TEXT)
    names = [*HEADER_COLUMNS, *POSITION, *ORIENTATION]
    if "fold" in source:
        columns["fold"] = _folds(source["fold"], columns["split"] == "train", ids, where)
        names.append("fold")
    table = pd.DataFrame(columns).set_index("slice_id")[names]
    return table.join(pd.DataFrame(y, index=table.index, columns=list(LABELS)))


def split_by_study(slices: pd.DataFrame) -> pd.DataFrame:
    """Return the slice list with `split` train on every slice of a study that has a train slice.

    slices: as returned by read_slice_list, or with studies separated since

    A slice whose label cells are empty, in a study with labels, is an unlabelled train slice. As a
    test slice it would leave a gap in its series, and its neighbours would be wrong.
    """
    train = (slices["split"] == "train").groupby(slices["study_id"]).transform("any")
    return slices.assign(split=slices["split"].where(~train, "train"))


def _identifiers(source: pd.DataFrame, key: bytes, where: str) -> dict[str, Any]:
    """Return the pseudonyms of the columns IDS: {column of the slice table: text (n,)}.

    Raises InputError for a blank cell, and for a slice that occurs twice.
    """
    names = {column: text_column(source[column]) for column in IDS}
    for column, values in names.items():
        require_text(values, column, where)
    ids = names["SOPInstanceUID"]
    if (twice := ids.duplicated().to_numpy()).any():
        raise InputError(
            f"{where}: slice {printable(ids[twice].iloc[0])} occurs twice; every slice has one row"
        )
    return {
        IDS[column]: _pseudonyms(values, key, IDS[column].removesuffix("_id"))
        for column, values in names.items()
    }


def _pseudonyms(names: pd.Series, key: bytes, kind: str) -> Any:
    code, unique = pd.factorize(names)
    pseudonyms = np.array([pseudonym(name, key, kind) for name in unique], object)
    return pd.array(pseudonyms[code], dtype=TEXT)


def _split(column: pd.Series, most: int) -> pd.DataFrame:
    """Return the values of each cell as text: "['1.0', '2.0']" and "1.0\\2.0" are two values.

    The rest of a cell after its first `most` values is one more value, so that a cell of a million
    commas does not become a million columns.
    """
    bare = column.astype(str).str.replace(r"[\[\]()'\"\s]", "", regex=True)
    return bare.str.split(SEPARATOR, n=most, expand=True, regex=True)


def _vectors(
    column: pd.Series, ids: pd.Series, name: str, count: int, where: str
) -> NDArray[np.float64]:
    """Return a column of `count` numbers per cell, float64 (n, count)."""
    parts = _split(column, count)
    numbers = parts.reindex(columns=range(count)).apply(pd.to_numeric, errors="coerce")
    values = numbers.to_numpy(np.float64)
    rest = parts.reindex(columns=range(count, parts.shape[1]))
    too_many = rest.notna().any(axis=1).to_numpy(bool)
    if (bad := too_many | ~np.isfinite(values).all(axis=1)).any():
        value = printable(repr(column[bad].iloc[0]))
        raise InputError(
            f"{where}: slice {printable(ids[bad].iloc[0])} has the {name} {value}; "
            f"it should be {count} numbers"
        )
    return values


def _first_numbers(column: pd.Series | None, rows: int) -> NDArray[np.float32]:
    """Return the first number of each cell, float32 (n,); NaN where there is none."""
    if column is None:
        return np.full(rows, np.nan, np.float32)
    return pd.to_numeric(_split(column, 1)[0], errors="coerce").to_numpy(np.float32)


def _check_orientation(columns: dict[str, Any], ids: pd.Series, where: str) -> None:
    """Raise InputError where the two directions of an orientation span no plane."""
    with np.errstate(over="ignore", invalid="ignore"):  # squares of huge numbers overflow
        bad = ~spans_plane([columns[name] for name in ORIENTATION])
    if bad.any():
        raise InputError(
            f"{where}: the ImageOrientationPatient of slice {printable(ids[bad].iloc[0])} "
            "does not hold two perpendicular directions"
        )


def _labels(source: pd.DataFrame, ids: pd.Series, where: str) -> NDArray[np.float32]:
    """Return the labels, float32 (n, 6): 0, 1 or NaN where the cell is empty."""
    y = np.empty((len(source), len(LABELS)), np.float32)
    for j, label in enumerate(LABELS):
        text = text_column(source[label]).str.strip()
        y[:, j] = values = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
        if (bad := (text != "").to_numpy(bool) & ~np.isin(values, [0, 1])).any():
            raise InputError(
                f"{where}: {label} of slice {printable(ids[bad].iloc[0])} is "
                f"{printable(repr(text[bad].iloc[0]))}; labels are 0 or 1, or empty"
            )
    return y


def _folds(
    column: pd.Series, train: NDArray[np.bool_], ids: pd.Series, where: str
) -> NDArray[np.float64]:
    """Return the fold of each slice, float64 (n,), NaN on slices without a label.

    train: (n,) whether a slice has a label
    """
    fold = fold_numbers(column.astype(object).where(train, ""), where)
    if (bad := train & np.isnan(fold)).any():
        raise InputError(
            f"{where}: slice {printable(ids[bad].iloc[0])} has no fold; "
            "give one to every labelled slice, or leave out the column"
        )
    return fold
