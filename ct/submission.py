"""The competition's submission file: written in the sample's order, then read back and checked."""

import shlex
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.errors import InputError, printable
from ct.labels import LABELS, read_id_csv, split_row_id, unknown_label
from ct.sources.zip_archive import ZipMember

# smallest distance of a probability from 0 and 1, so that its printed digits are inside (0, 1)
SMALLEST = 1e-6
COMPETITION = "rsna-intracranial-hemorrhage-detection"


def read_sample(
    path: Path | ZipMember | str,
) -> tuple[NDArray[np.object_], NDArray[np.object_], NDArray[np.object_]]:
    """Read a sample submission.

    Returns (ids, slice_id, label), object arrays (n,): the row ids as in the file, and their two
    parts. Raises InputError where a row id is malformed or repeated, or a slice does not have its
    six rows.
    """
    ids = read_id_csv(path)["ID"]
    slice_id, label = split_row_id(ids)
    if len(ids) == 0:
        raise InputError(f"{path} has no rows")
    if (bad := pd.isna(label)).any():
        raise unknown_label(ids[bad].iloc[0], str(path))
    if (bad := ids.duplicated()).any():
        raise InputError(f"{path}: row {printable(ids[bad].iloc[0])} occurs twice")
    rows = pd.Series(slice_id).value_counts(sort=False)
    if (bad := rows != len(LABELS)).any():
        raise InputError(
            f"{path}: slice {printable(rows.index[bad][0])} has {rows[bad].iloc[0]} rows "
            f"instead of {len(LABELS)}"
        )
    return ids.to_numpy(object), slice_id, label


def fill_submission(
    slice_id: NDArray[np.object_], label: NDArray[np.object_], probs: pd.DataFrame
) -> NDArray[np.float64]:
    """Return the probability of every sample row, (n,), clipped to [SMALLEST, 1 - SMALLEST].

    slice_id, label: (n,) the parts of the sample's row ids
    probs:           probabilities indexed by slice id, columns LABELS

    Raises InputError that names the first slice without a row in `probs`, or with a value that is
    no probability.
    """
    row = probs.index.get_indexer(slice_id)
    if (bad := row < 0).any():
        raise InputError(
            f"no prediction for {slice_id[bad][0]} of the sample file, "
            f"nor for {len(set(slice_id[bad])) - 1} more slices"
        )
    column = pd.Index(LABELS).get_indexer(label)
    value = probs[list(LABELS)].to_numpy(np.float64)[row, column]
    if (bad := ~((value >= 0) & (value <= 1))).any():
        raise InputError(
            f"{slice_id[bad][0]}_{label[bad][0]} has the probability {value[bad][0]}; "
            "it should lie in [0, 1]"
        )
    return np.clip(value, SMALLEST, 1 - SMALLEST)


def write_submission(
    path: Path | str, ids: NDArray[np.object_], values: NDArray[np.float64]
) -> None:
    """Write the csv at `path`: row ids (n,) and probabilities (n,) with eight decimals."""
    # four times as fast as pandas' to_csv
    rows = map("%s,%.8f\n".__mod__, zip(ids, values, strict=True))
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("ID,Label\n")
        file.writelines(rows)


def check_submission(path: Path | str, sample_ids: NDArray[np.object_]) -> None:
    """Read a written submission back and compare it with the sample.

    sample_ids: (n,) row ids of the sample file

    Raises InputError that names the first row whose id differs from the sample, or whose value is
    not inside (0, 1).
    """
    rows = read_id_csv(path)
    if list(rows.columns) != ["ID", "Label"]:
        raise InputError(f"{path} has the columns {', '.join(rows.columns)} instead of ID,Label")
    ids = rows["ID"].to_numpy(object)
    shared = min(len(ids), len(sample_ids))
    if (bad := ids[:shared] != sample_ids[:shared]).any():
        first = int(np.argmax(bad))
        raise InputError(
            f"{path}: row {first + 1} is {printable(ids[first])}, "
            f"the sample has {sample_ids[first]} there"
        )
    if len(ids) != len(sample_ids):
        extra = ids[shared] if len(ids) > shared else sample_ids[shared]
        raise InputError(
            f"{path} has {len(ids)} rows, the sample {len(sample_ids)}; "
            f"the first difference is {extra}"
        )
    value = pd.to_numeric(rows["Label"], errors="coerce").to_numpy(np.float64)
    if (bad := ~((value > 0) & (value < 1))).any():
        first = int(np.argmax(bad))
        raise InputError(
            f"{path}: {printable(ids[first])} is {printable(repr(rows['Label'].iloc[first]))}; "
            "probabilities lie inside (0, 1)"
        )


def kaggle_command(path: Path | str, message: str) -> str:
    """Return the shell command that sends the file to Kaggle as a late submission."""
    return shlex.join(
        ["kaggle", "competitions", "submit", "-c", COMPETITION, "-f", str(path), "-m", message]
    )
