"""The competition's submission file: written in the order of the sample file, then read back and
checked against it.
"""

import shlex

import numpy as np
import pandas as pd

from ct.errors import InputError, printable
from ct.labels import KAGGLE_ORDER, LABELS, read_id_csv, split_row_id

# probabilities are kept this far from 0 and 1, so that the printed digits stay inside, too
SMALLEST = 1e-6
COMPETITION = "rsna-intracranial-hemorrhage-detection"


def read_sample(path):
    """Read a sample submission. Returns (ids, slice_id, label): the row ids as in the file and
    their two parts, arrays (n,).

    Raises InputError where a row id is malformed or repeated, or a slice does not have its six
    rows.
    """
    ids = read_id_csv(path)["ID"]
    slice_id, label = split_row_id(ids)
    if len(ids) == 0:
        raise InputError(f"{path} has no rows")
    if (bad := pd.isna(label)).any():
        raise InputError(
            f"{path}: row {printable(repr(ids[bad].iloc[0]))} does not end in one of {', '.join(KAGGLE_ORDER)}"
        )
    if (bad := ids.duplicated()).any():
        raise InputError(f"{path}: row {printable(ids[bad].iloc[0])} occurs twice")
    rows = pd.Series(slice_id).value_counts(sort=False)
    if (bad := rows != len(LABELS)).any():
        raise InputError(
            f"{path}: slice {printable(rows.index[bad][0])} has {rows[bad].iloc[0]} rows instead of {len(LABELS)}"
        )
    return ids.to_numpy(object), slice_id, label


def fill_submission(slice_id, label, probs):
    """Return the probability of every sample row, (n,).

    slice_id, label: (n,) the parts of the sample's row ids
    probs:           DataFrame indexed by slice id, columns LABELS

    Raises InputError naming the first slice that `probs` lacks or holds no finite probability
    inside [0, 1] for.
    """
    row = probs.index.get_indexer(slice_id)
    if (bad := row < 0).any():
        raise InputError(
            f"no prediction for {slice_id[bad][0]} of the sample file, nor for {len(set(slice_id[bad])) - 1} more slices"
        )
    column = pd.Index(LABELS).get_indexer(label)
    value = probs[list(LABELS)].to_numpy(np.float64)[row, column]
    if (bad := ~((value >= 0) & (value <= 1))).any():
        raise InputError(
            f"{slice_id[bad][0]}_{label[bad][0]} has the probability {value[bad][0]}; it should lie in [0, 1]"
        )
    return np.clip(value, SMALLEST, 1 - SMALLEST)


def write_submission(path, ids, values):
    """Write the csv at `path`: row ids (n,) and probabilities (n,), eight decimals."""
    # four times as fast as pandas' own writing
    rows = map("%s,%.8f\n".__mod__, zip(ids, values, strict=True))
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("ID,Label\n")
        file.writelines(rows)


def check_submission(path, sample_ids):
    """Read a written submission back. Raises InputError naming the first row that does not fit
    `sample_ids` (n,) exactly.
    """
    rows = read_id_csv(path)
    if list(rows.columns) != ["ID", "Label"]:
        raise InputError(f"{path} has the columns {', '.join(rows.columns)} instead of ID,Label")
    ids = rows["ID"].to_numpy(object)
    shared = min(len(ids), len(sample_ids))
    if (bad := ids[:shared] != sample_ids[:shared]).any():
        first = int(np.argmax(bad))
        raise InputError(
            f"{path}: row {first + 1} is {printable(ids[first])}, the sample has {sample_ids[first]} there"
        )
    if len(ids) != len(sample_ids):
        extra = ids[shared] if len(ids) > shared else sample_ids[shared]
        raise InputError(
            f"{path} has {len(ids)} rows, the sample {len(sample_ids)}; the first difference is {extra}"
        )
    value = pd.to_numeric(rows["Label"], errors="coerce").to_numpy(np.float64)
    if (bad := ~((value > 0) & (value < 1))).any():
        first = int(np.argmax(bad))
        raise InputError(
            f"{path}: {printable(ids[first])} is {printable(repr(rows['Label'].iloc[first]))}; probabilities lie inside (0, 1)"
        )


def kaggle_command(path, message):
    """Return the shell command that sends the file as a late submission."""
    return shlex.join(
        ["kaggle", "competitions", "submit", "-c", COMPETITION, "-f", str(path), "-m", message]
    )
