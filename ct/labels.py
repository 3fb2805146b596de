"""The six labels of the RSNA 2019 challenge: names, order, weights, and the csv they come in."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ct.errors import InputError, printable
from ct.sources.source import Unreadable
from ct.sources.zip_archive import ZipMember
from ct.tables.untrusted_table import read_csv_file

LABELS = ("any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
SUBTYPES = LABELS[1:]
# by their positive slices in the competition's training set
COMMON_FIRST = (
    "any",
    "subdural",
    "subarachnoid",
    "intraparenchymal",
    "intraventricular",
    "epidural",
)
CONTRADICTIONS = {  # what `contradictions` returns -> in words, after a count of slices or studies
    "subtype_without_any": "with a subtype and `any` = 0",
    "any_without_subtype": "with `any` = 1 and no subtype",
}
KAGGLE_ORDER = (*SUBTYPES, "any")  # the order of a slice's six rows in the competition's files
# of the competition's metric, in the order of LABELS
WEIGHTS = np.array([2, 1, 1, 1, 1, 1], dtype=np.float64) / 7


def split_row_id(ids: ArrayLike) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Split row ids such as "ID_0123abcd_any" into slice ids and label names.

    ids: array-like of strings (n,)

    Returns two object arrays (n,). The label of a row without a known label is None.
    """
    slice_ids, labels = [], []
    names = {name: name for name in LABELS}  # all rows share six strings
    for row_id in np.asarray(ids, object):  # several times as fast as pandas' string methods
        before, separator, after = row_id.rpartition("_")
        slice_ids.append(before if separator else row_id)
        labels.append(names.get(after) if separator else None)
    return np.array(slice_ids, object), np.array(labels, object)


def label_indices(ids: pd.Series, where: str) -> NDArray[np.int8]:
    """Return the position in LABELS of the label that each row id ends in, int8 (n,).

    ids: strings such as "ID_0123abcd_any"; where: the file or flag, for the message

    Raises InputError for the first row id without a known label.
    """
    indices = np.full(len(ids), -1, np.int8)
    for index, label in enumerate(LABELS):
        indices[ids.str.endswith(f"_{label}").to_numpy(bool)] = index
    if (bad := indices < 0).any():
        raise unknown_label(ids[bad].iloc[0], where)
    return indices


def unknown_label(row_id: str, where: str) -> InputError:
    """Return the error for a row id that does not end in one of the six labels."""
    labels = ", ".join(KAGGLE_ORDER)
    return InputError(f"{where}: row {printable(repr(row_id))} does not end in one of {labels}")


def contradictions(table: pd.DataFrame) -> dict[str, pd.Index]:
    """Return the slices, or studies, whose `any` differs from the maximum of their subtypes.

    table: indexed by id, columns LABELS of 0, 1 or NaN; rows with a NaN are left out

    Returns {"subtype_without_any": ids, "any_without_subtype": ids}, the keys of CONTRADICTIONS.
    """
    subtype, any_label = table[list(SUBTYPES)].max(axis=1), table["any"]
    complete = table[list(LABELS)].notna().all(axis=1)
    return {
        "subtype_without_any": table.index[complete & (any_label < subtype)],
        "any_without_subtype": table.index[complete & (any_label > subtype)],
    }


def read_labels(path: Path | ZipMember | str) -> tuple[pd.DataFrame, int]:
    """Read the long-form label csv (`ID,Label`, six rows per slice).

    Returns (table, dropped): a float32 DataFrame indexed by slice id with the columns LABELS, NaN
    where a label is missing, and the number of identical duplicate rows that were dropped. Raises
    InputError for a missing file or column, an unknown label name, a label other than 0 and 1, and
    duplicate rows that contradict each other.
    """
    rows = read_id_csv(path)
    if rows.empty:
        raise InputError(f"{path} has no rows; it should have six per slice")
    ids, value = rows["ID"], pd.to_numeric(rows["Label"], errors="coerce").to_numpy(np.float64)
    label = label_indices(ids, str(path))
    if (bad := ~np.isin(value, [0, 1])).any():
        first = rows[bad].iloc[0]
        raise InputError(
            f"{path}: {printable(first['ID'])} has the label {printable(repr(first['Label']))}; "
            "labels are 0 or 1"
        )
    # not `split_row_id`: its objects would need 1 GB
    row, slice_id = pd.factorize(ids.str.replace("_[^_]*$", "", regex=True))
    values = np.full((len(slice_id), len(LABELS)), np.nan, np.float32)
    values[row, label] = value
    if (bad := values[row, label] != value).any():  # a second row has replaced the value
        raise InputError(
            f"{path}: {printable(ids[bad].iloc[0])} is both 0 and 1; remove the wrong row"
        )
    index = pd.Index(slice_id, name="slice_id")
    table = pd.DataFrame(values, index=index, columns=list(LABELS)).sort_index()
    return table, len(rows) - int(table.notna().to_numpy().sum())


def read_id_csv(path: Path | ZipMember | str) -> pd.DataFrame:
    """Read a csv with the columns ID and Label as text, compressed or not.

    path: a path, or a file of a zip archive

    Raises InputError where the file is missing, damaged or lacks a column.
    """
    path = Path(path) if isinstance(path, str) else path
    try:
        with path.open("rb") as file:
            rows = read_csv_file(file, str(path))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(
            f"{path} does not exist; it should be a csv with the columns ID,Label"
        ) from None
    except Unreadable as error:
        raise InputError(
            f"{path} is {error}; "
            "download the zip again, or name another csv with --labels or --sample"
        ) from None
    if missing := {"ID", "Label"} - set(rows.columns):
        columns = printable(", ".join(map(str, rows.columns)))
        raise InputError(f"{path} lacks the column {', '.join(sorted(missing))}; it has {columns}")
    return rows
