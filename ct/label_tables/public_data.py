"""Label tables of public data sets, in the layouts in which they are published.

CQ500 (Chilamkurthy et al., Lancet 2018; headctstudy.qure.ai/dataset): `reads.csv` with the columns
name (CQ500-CT-0), Category, then R1:ICH, R1:IPH, R1:IVH, R1:SDH, R1:EDH, R1:SAH and more of the
first of three readers, then R2: and R3:. Folders are called `CQ500CT0 CQ500CT0` or CQ500-CT-0.

BHX (Reis et al., PhysioNet 2020, doi.org/10.13026/9cft-hg92): boxes on CQ500's slices,
`3_Extrapolation_to_Selected_Series.csv` with SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID,
data (the box), labelName (a subtype, or Chronic) and labelType, after an index column.

ct-ich (Hssayeni et al., PhysioNet 2020, physionet.org/content/ct-ich/1.3.1):
`hemorrhage_diagnosis_raw_ct.csv` with PatientNumber, SliceNumber (from 1), Intraventricular,
Intraparenchymal, Subarachnoid, Epidural, Subdural, No_Hemorrhage, Fracture_Yes_No;
`ct_scans/049.nii` is the volume of patient 49, `masks/049.nii` its segmentation.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from ct.errors import InputError, printable
from ct.label_tables.label_columns import label_of_name
from ct.label_tables.own_labels import label_table, label_values, read_own_labels
from ct.labels import LABELS, SUBTYPES, read_labels
from ct.tables.table_columns import require_columns, text_column
from ct.tables.untrusted_table import read_table_file

DataFormat = Literal["kaggle", "own", "cq500", "bhx", "ct-ich"]
LABEL_FILES = {  # where --labels does not name another
    "cq500": "reads.csv",
    "bhx": "3_Extrapolation_to_Selected_Series.csv",
    "ct-ich": "hemorrhage_diagnosis_raw_ct.csv",
}
STUDY_LABELS = ("cq500",)  # formats without labels of slices
READERS = ("R1", "R2", "R3")
READ_NAMES = dict(zip(LABELS, ("ICH", "EDH", "IPH", "IVH", "SAH", "SDH"), strict=True))
# data sets that are made of the competition's own scans: BHSD (Wu et al. 2023), HemSeg-200 (Song
# et al. 2024)
OF_COMPETITION = re.compile(r"bhsd|hemseg", re.IGNORECASE)


def read_label_table(path: Path | str, layout: str, names: Mapping[str, str]) -> pd.DataFrame:
    """Read a label table. layout: a DataFormat but "kaggle"; names: as in `read_own_labels`.

    Returns a label table (ct/label_tables/own_labels.py). Raises InputError for any fault of it.
    """
    readers: dict[str, Callable[[Path | str], pd.DataFrame]] = {
        "cq500": _read_cq500,
        "bhx": _read_bhx,
        "ct-ich": _read_ct_ich,
    }
    return readers[layout](path) if layout in readers else read_own_labels(path, names)


def read_truth(path: Path | str, layout: str | None, names: Mapping[str, str]) -> pd.DataFrame:
    """Read the labels of an evaluation: a label table, or Kaggle's csv with the columns ID, Label.

    layout: a DataFormat; None: by the columns; names: as in `read_own_labels`

    Returns a label table. Raises InputError for any fault of it.
    """
    if layout is None:
        table, endings = read_table_file(path, "labels"), tuple(f"_{label}" for label in LABELS)
        long = {"ID", "Label"} <= set(table) and text_column(table["ID"]).str.endswith(
            endings
        ).all()
        layout = "kaggle" if long else "own"
    if layout != "kaggle":
        return read_label_table(path, layout, names)
    values, _ = read_labels(Path(path))
    columns = {label: values[label].to_numpy(np.float32) for label in LABELS}
    return label_table({"ID": values.index.to_series()}, columns)


def is_image_of(layout: str, name: str) -> bool:
    """Return whether a file may be an image of a data set, by its path in the data folder."""
    if layout == "ct-ich":
        return "ct_scans" in name.split("/")[:-1]
    return not name.lower().endswith((".csv", ".parquet", ".txt", ".md", ".json", ".xlsx"))


def warning_of_competition(names: Iterable[object]) -> str:
    """Return a warning where a name is one of a data set made of the competition's scans, or ""."""
    found = [match[0] for name in names if (match := OF_COMPETITION.search(str(name)))]
    if not found:
        return ""
    return (
        f"{found[0]} is made of scans of this competition: studies of it are among the training "
        "data, scores on them are too good"
    )


def _read(path: Path | str, columns: Iterable[str]) -> pd.DataFrame:
    table = read_table_file(path, "labels")
    require_columns(table, columns, f"--labels={path}")
    if table.empty:
        raise InputError(f"--labels={path} has no rows")
    return table


def _read_cq500(path: Path | str) -> pd.DataFrame:
    """Return the majority of the three readers of each study."""
    where = f"--labels={path}"
    columns = [f"{reader}:{name}" for reader in READERS for name in READ_NAMES.values()]
    table = _read(path, ["name", *columns])
    labels = {}
    for label, name in READ_NAMES.items():
        votes = [label_values(table[f"{reader}:{name}"], name, where) for reader in READERS]
        labels[label] = (np.sum(votes, axis=0) >= 2).astype(np.float32)
        labels[label][np.isnan(votes).any(axis=0)] = np.nan
    number = text_column(table["name"]).str.extract(r"(\d+)\s*$")[0]
    if (bad := number.isna()).any():
        raise InputError(f"{where}: row {int(np.argmax(bad)) + 1} has no name such as CQ500-CT-0")
    joined, dashed = "CQ500CT" + number, "CQ500-CT-" + number
    keys = {
        "folder": joined + " " + joined,
        "directory": joined,
        "dir": dashed,
        "patient": joined,
        "PatientID": dashed,
    }
    return label_table(keys, labels)


def _read_bhx(path: Path | str) -> pd.DataFrame:
    """Return the subtypes of each slice with a box, and a row of zeros for each series.

    The slices of a listed series without a box have no acute bleed; of a slice with boxes of
    chronic bleeds alone nothing is known.
    """
    uids = ["SOPInstanceUID", "SeriesInstanceUID"]
    table = _read(path, [*uids, "labelName"])
    boxes = pd.DataFrame({name: text_column(table[name]).str.strip() for name in uids})
    names = text_column(table["labelName"]).str.strip()
    known = names.map({name: label_of_name(name) for name in pd.unique(names)})
    if (bad := (known.isna() & (names.str.lower() != "chronic")).to_numpy(bool)).any():
        raise InputError(
            f"--labels={path}: row {int(np.argmax(bad)) + 1} has the labelName "
            f"{printable(repr(names[bad].iloc[0]))}; known are {', '.join(SUBTYPES)} and Chronic"
        )
    for label in SUBTYPES:
        boxes[label] = (known == label).astype(np.float32)
    slices = boxes.groupby(uids, as_index=False, sort=True).max()
    chronic = slices[list(SUBTYPES)].max(axis=1) == 0
    slices.loc[chronic, list(SUBTYPES)] = np.nan
    series = boxes[["SeriesInstanceUID"]].drop_duplicates()
    series = series.assign(SOPInstanceUID="", **dict.fromkeys(SUBTYPES, np.float32(0)))
    rows = pd.concat([slices, series], ignore_index=True)
    labels = {label: rows[label].to_numpy(np.float32) for label in SUBTYPES}
    return label_table({name: rows[name] for name in uids}, labels)


def _read_ct_ich(path: Path | str) -> pd.DataFrame:
    """Return the labels of each slice of the volumes, called `049.nii#1` and so on."""
    where = f"--labels={path}"
    columns = {label: label.capitalize() for label in SUBTYPES}
    numbers = ["PatientNumber", "SliceNumber"]
    table = _read(path, [*numbers, *columns.values(), "No_Hemorrhage"])
    values = [pd.to_numeric(table[name], errors="coerce") for name in numbers]
    whole = (values[0] > 0) & (values[1] > 0)  # the published file may end in empty rows
    table = table[whole]
    patient, place = (value[whole].astype(int).astype(str) for value in values)
    labels = {label: label_values(table[name], name, where) for label, name in columns.items()}
    labels["any"] = 1 - label_values(table["No_Hemorrhage"], "No_Hemorrhage", where)
    return label_table({"file": patient.str.zfill(3) + ".nii#" + place}, labels)
