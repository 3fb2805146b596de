"""Labels or predictions that a user brings to `evaluate`: per slice or per study.

Kaggle's long form (`ID,Label`, six rows a slice) or a wide table with one of SLICE_KEYS or
STUDY_KEYS and the six labels. Both kinds of key in one table: a row a slice, with its study.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ct.errors import InputError, printable
from ct.labels import LABELS, SUBTYPES, read_labels
from ct.tables.prediction_table import read_predictions
from ct.tables.table_columns import require_columns, require_text, text_column
from ct.tables.untrusted_table import read_table_file

SLICE_KEYS = ("SOPInstanceUID", "slice_id", "ID", "file", "filename", "path")
STUDY_KEYS = ("StudyInstanceUID", "study_id", "study", "folder")
PATIENT_KEYS = ("PatientID", "patient_id", "patient")


class LabelledTable(NamedTuple):
    """A table of six values a row.

    per_slice: whether a row is a slice; else it is a study
    values:    (n, 6) float, columns LABELS, indexed by the key
    groups:    the columns `study` and `patient` (text) that the table has, indexed like values
    """

    per_slice: bool
    values: pd.DataFrame
    groups: pd.DataFrame


def read_truth(path: str) -> LabelledTable:
    """Read the labels of --labels: 0 or 1, or empty where unknown. `any` may be missing.

    Raises InputError that names the first row that is wrong.
    """
    where = f"--labels={path}"
    source = _source(path, "labels")
    if {"ID", "Label"} <= set(source):
        values, _ = read_labels(Path(path))
        return LabelledTable(True, values, pd.DataFrame(index=values.index))
    if "any" not in source and set(SUBTYPES) <= set(source):
        numbers = source[list(SUBTYPES)].apply(pd.to_numeric, errors="coerce")
        source = source.assign(any=numbers.max(axis=1, skipna=False))
    table = _wide(source, where)
    known = table.values.isna() | table.values.isin([0, 1])
    _refuse_values(~known.to_numpy(), table.values, where, "labels are 0 or 1")
    return table


def read_probabilities(path: str) -> LabelledTable:
    """Read the predictions of --predictions: six probabilities a row.

    Raises InputError that names the first row that is wrong.
    """
    where = f"--predictions={path}"
    source = _source(path, "predictions")
    if {"ID", "Label"} <= set(source):
        values = read_predictions(path, "predictions").set_index("slice_id")[list(LABELS)]
        _refuse_repeated(values.index, where)
        return LabelledTable(True, values, pd.DataFrame(index=values.index))
    table = _wide(source, where)
    inside = (table.values >= 0) & (table.values <= 1)
    _refuse_values(~inside.to_numpy(), table.values, where, "it should lie in [0, 1]")
    return table


def _source(path: str, flag: str) -> pd.DataFrame:
    if not Path(path).is_file():
        raise InputError(f"--{flag}={path} is not there; name a csv or parquet table")
    return read_table_file(path, flag)


def _wide(source: pd.DataFrame, where: str) -> LabelledTable:
    """Return the keys and numbers of a wide table; a cell that is no number becomes NaN."""
    slice_key = _first(source, SLICE_KEYS)
    study_key, patient = _first(source, STUDY_KEYS), _first(source, PATIENT_KEYS)
    key = slice_key or study_key
    if key is None:
        names = ", ".join((*SLICE_KEYS, *STUDY_KEYS))
        raise InputError(f"{where} has no column that names slices or studies: one of {names}")
    require_columns(source, LABELS, where)
    ids = text_column(source[key])
    require_text(ids, key, where)
    _refuse_repeated(pd.Index(ids), where)
    texts = source[list(LABELS)].astype(object)
    values = texts.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    unread = (values.isna() & texts.notna() & (texts != "")).to_numpy()
    _refuse_values(unread, texts.set_axis(ids), where, "it is no number")
    groups = {"study": study_key, "patient": patient}
    columns = {name: text_column(source[of]).to_numpy() for name, of in groups.items() if of}
    return LabelledTable(
        slice_key is not None, values.set_axis(ids), pd.DataFrame(columns, index=pd.Index(ids))
    )


def _first(source: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in source), None)


def _refuse_repeated(ids: pd.Index, where: str) -> None:
    if (twice := ids.duplicated()).any():
        raise InputError(f"{where}: {printable(ids[twice][0])} has two rows; keep one")


def _refuse_values(bad: np.ndarray, values: pd.DataFrame, where: str, rule: str) -> None:
    """Raise InputError for the first cell of `bad` (n, 6)."""
    if bad.any():
        row, j = np.argwhere(bad)[0]
        cell = values.iat[row, j]
        value = printable(repr(cell)) if isinstance(cell, str) else f"{cell:g}"
        raise InputError(
            f"{where}: {LABELS[j]} of {printable(values.index[row])} is {value}; {rule}"
        )
