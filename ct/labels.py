"""The six labels of the RSNA 2019 challenge: names, order, weights, and the csv they come in."""

from pathlib import Path

import numpy as np
import pandas as pd

from ct.errors import InputError, shown
from ct.sources.source import Unreadable
from ct.tables.untrusted_table import read_csv_file

LABELS = ("any", "epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
SUBTYPES = LABELS[1:]
KAGGLE_ORDER = (*SUBTYPES, "any")  # the order of a slice's six rows in the competition's files
# of the competition's metric, in the order of LABELS
WEIGHTS = np.array([2, 1, 1, 1, 1, 1], dtype=np.float64) / 7


def split_row_id(ids):
    """Split "ID_0123abcd_any" into slice ids and label names.

    ids: string array-like (n,). Returns two object arrays (n,); a row without a known label has
    None as its label.
    """
    slice_id, label, known = [], [], {name: name for name in LABELS}  # all rows share six texts
    for text in np.asarray(ids, object):  # several times as fast as pandas' own splitting
        before, found, after = text.rpartition("_")
        slice_id.append(before if found else text)
        label.append(known.get(after) if found else None)
    return np.array(slice_id, object), np.array(label, object)


def contradictions(table):
    """Return the slices whose `any` is not the largest of their subtypes, which it is by its
    meaning.

    table: indexed by slice id, with LABELS of 0, 1 or NaN; a slice that lacks one is in no part

    Returns {"subtype_without_any": Index, "any_without_subtype": Index}.
    """
    subtype, some = table[list(SUBTYPES)].max(axis=1), table["any"]
    known = table[list(LABELS)].notna().all(axis=1)
    return {
        "subtype_without_any": table.index[known & (some < subtype)],
        "any_without_subtype": table.index[known & (some > subtype)],
    }


def read_labels(path):
    """Read the long-form label csv (`ID,Label`, six rows a slice).

    Returns (table, dropped): a float32 DataFrame indexed by slice id with the columns LABELS, NaN
    where a label is missing, and the number of identical duplicate rows that were dropped. Raises
    InputError for a missing file or column, an unknown label name, a label other than 0 and 1, and
    for duplicate rows that contradict each other.
    """
    rows = read_id_csv(path)
    if rows.empty:
        raise InputError(f"{path} has no rows; it should have six a slice")
    ids, value = rows["ID"], pd.to_numeric(rows["Label"], errors="coerce").to_numpy(np.float32)
    label = np.full(len(ids), -1, np.int8)  # its place in LABELS
    for number, name in enumerate(LABELS):
        label[ids.str.endswith(f"_{name}").to_numpy(bool)] = number
    if (bad := label < 0).any():
        raise InputError(
            f"{path}: row {shown(repr(ids[bad].iloc[0]))} does not end in one of {', '.join(KAGGLE_ORDER)}"
        )
    if (bad := ~np.isin(value, [0, 1])).any():
        where = rows[bad].iloc[0]
        raise InputError(
            f"{path}: {shown(where['ID'])} has the label {shown(repr(where['Label']))}; labels are 0 or 1"
        )
    # not `split_row_id`: its objects would fill 1 GB
    row, slice_id = pd.factorize(ids.str.replace("_[^_]*$", "", regex=True))
    table = np.full((len(slice_id), len(LABELS)), np.nan, np.float32)
    table[row, label] = value
    if (bad := table[row, label] != value).any():  # of two rows, another has been written over it
        raise InputError(f"{path}: {shown(ids[bad].iloc[0])} is both 0 and 1; remove the wrong row")
    table = pd.DataFrame(
        table, index=pd.Index(slice_id, name="slice_id"), columns=list(LABELS)
    ).sort_index()
    return table, len(rows) - int(table.notna().to_numpy().sum())


def read_id_csv(path):
    """Read a csv with the columns ID and Label as text, packed or not. Raises InputError where it
    is not one.

    path: a path, or a file of a zip archive (`ct.sources.zip_archive.ZipMember`)
    """
    path = Path(path) if isinstance(path, str) else path
    try:
        with path.open("rb") as file:
            rows = read_csv_file(file, str(path), "csv file")
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(
            f"{path} does not exist; it should be a csv with the columns ID,Label"
        ) from None
    except Unreadable as error:
        raise InputError(
            f"{path} is {error}; download the zip again, or name another csv with --labels or --sample"
        ) from None
    if missing := {"ID", "Label"} - set(rows.columns):
        has = shown(", ".join(map(str, rows.columns)))
        raise InputError(f"{path} lacks the column {', '.join(sorted(missing))}; it has {has}")
    return rows
