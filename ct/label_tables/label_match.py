"""Match the rows of a label table with slices: by UID, by file name, by folder name."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.errors import InputError
from ct.label_tables.label_columns import key_kinds
from ct.labels import LABELS
from ct.privacy.escaped_names import escaped_name
from ct.privacy.pseudonyms import pseudonym
from ct.sources.frames import FRAME_NAME, frame_name

SUFFIX = re.compile(r"\.(?:dcm|dicom|ima|png|jpe?g|nii(?:\.gz)?)(?=#\d+$|$)", re.IGNORECASE)
# kind of a column of keys -> the ways to match it, finest first
WAYS = {
    "slice": ("slice",),
    "file": ("file", "folder"),
    "id": ("slice", "file", "series", "study", "folder", "patient"),
    "series": ("series", "folder"),
    "study": ("study", "folder"),
    "folder": ("folder",),
    "patient": ("patient", "folder"),
    "index": ("slice", "file", "series", "study", "folder"),
}
LEVELS = {"slice": "slice", "file": "slice", "series": "series"}  # all others: "study"
NONE, SEVERAL = -1, -2  # in place of a row


class LabelMatch(NamedTuple):
    """Which row of a label table belongs to each slice."""

    level: str  # of what the rows are: "slice", "series" or "study"
    way: str  # "slice", "series", "study" or "patient" (their identifier), "file" or "folder"
    column: str  # of the keys
    row: NDArray[np.intp]  # (n,) of the slices; -1 for none
    unused: int  # rows that belong to no slice


def match_labels(table: pd.DataFrame, slices: pd.DataFrame, key: bytes, where: str) -> LabelMatch:
    """Match a label table with slices, by the column of keys that fits most of its rows.

    table: as in ct/label_tables/own_labels.py; slices: header table, indexed by slice_id, with
    `path`; key: of the pseudonyms; where: the flag, for the message

    Raises InputError where no row belongs to a slice, where names of files are not unique, and
    where rows of one slice contradict each other. Keys may be people's names and are not printed.
    """
    best: LabelMatch | None = None
    most, ambiguous, of_best = 0, 0, pd.Series(dtype=str)
    for column, way, keys in _candidates(table):
        row = _rows_of_slices(keys, way, slices, key)
        repeated = int((row == SEVERAL).sum())
        if best is None:
            ambiguous = max(ambiguous, repeated)
        row = np.where(row == SEVERAL, NONE, row)
        count = len(np.unique(row[row >= 0]))
        if count > most:
            unused = int((keys != "").sum()) - len(set(keys[np.unique(row[row >= 0])]))
            of_best, ambiguous = keys, repeated
            best, most = LabelMatch(LEVELS.get(way, "study"), way, column, row, unused), count
    if ambiguous:
        raise InputError(
            f"{where}: the names of files in it occur in several folders of the data; give their "
            "paths relative to --data, or a column folder"
        )
    if best is None:
        kinds = key_kinds([name for name in table.columns if name not in LABELS])
        raise InputError(
            f"{where}: none of its {len(table)} rows names a slice, file, series, study or folder "
            f"of the data (columns {', '.join(kinds)}); give the labels that belong to it"
        )
    _refuse_contradictions(of_best, best, table, where)
    return best._replace(row=_with_whole_series(best, table, slices, key))


def slice_labels(match: LabelMatch, table: pd.DataFrame, slices: pd.DataFrame) -> pd.DataFrame:
    """Return the labels of the slices that have some, indexed by slice_id, columns LABELS."""
    known = match.row >= 0
    values = table[list(LABELS)].to_numpy(np.float32)[match.row[known]]
    return pd.DataFrame(values, index=slices.index[known], columns=list(LABELS))


def _candidates(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.Series]]:
    """Yield (column, way, keys (rows,)) of each way to match a label table, finest first."""
    kinds = key_kinds([name for name in table.columns if name not in LABELS])
    files = [column for column, kind in kinds.items() if kind in ("file", "id")]
    folders = [column for column, kind in kinds.items() if kind not in ("file", "id", "slice")]
    for column, kind in kinds.items():
        for way in WAYS[kind]:
            yield column, way, table[column]
    for file in files:
        for folder in folders:
            yield file, "file", table[folder] + "/" + table[file]


def _rows_of_slices(
    keys: pd.Series, way: str, slices: pd.DataFrame, key: bytes
) -> NDArray[np.intp]:
    """Return the row of each slice (n,), NONE or SEVERAL."""
    if way in ("file", "folder"):
        names = _file_names(keys)
        ids_of = _ids_of_files if way == "file" else _ids_of_folders
        ids = ids_of(names, slices["path"])
    else:
        names = keys.map({name: pseudonym(name, key, way) for name in pd.unique(keys) if name})
        ids = slices.index if way == "slice" else slices[f"{way}_id"]
        ids = pd.Series(ids.to_numpy(object))
    usable = (names.notna() & (names != "")).to_numpy(bool)
    used = usable & names.isin(set(ids)).to_numpy(bool)
    first = names[used][~names[used].duplicated()]
    places = pd.Series(first.index, index=first.to_numpy(object))
    row = ids.map(places).fillna(NONE).to_numpy(np.intp)
    return np.where((ids == SEVERAL).to_numpy(bool), SEVERAL, row)


def _refuse_contradictions(
    keys: pd.Series, match: LabelMatch, table: pd.DataFrame, where: str
) -> None:
    """Raise InputError where two rows with the key of a slice have different labels."""
    rows = (keys != "") & keys.isin(set(keys[np.unique(match.row[match.row >= 0])]))
    values = table[rows][list(LABELS)].fillna(-1).groupby(keys[rows].to_numpy(object))
    bad = (values.transform("min") != values.transform("max")).any(axis=1)
    if bad.any():
        row = bad.index[bad][0] + 1
        raise InputError(
            f"{where}: row {row} contradicts another row of the same name; remove the wrong one"
        )


def _file_names(keys: pd.Series) -> pd.Series:
    """Return keys as names of files: slashes, escaped, without a suffix of an image."""
    bare = keys.str.replace("\\", "/", regex=False).str.replace(r"^[./]+|/+$", "", regex=True)
    return bare.map({name: SUFFIX.sub("", _slice_name(name)) for name in pd.unique(bare)})


def _slice_name(name: str) -> str:
    """Return a name as the source has it, escaped but for the number of a slice at its end."""
    frame = FRAME_NAME.fullmatch(name)
    return frame_name(escaped_name(frame[1]), int(frame[2])) if frame else escaped_name(name)


def _ids_of_files(names: pd.Series, paths: pd.Series) -> pd.Series:
    """Return the end of each slice's path that is one of `names`, SEVERAL where not unique, (n,).

    Ends have as many parts as the names; of two that fit the longer one counts.
    """
    bare, wanted = paths.str.replace(SUFFIX, "", regex=True).to_numpy(object), set(names)
    found = pd.Series([None] * len(bare), dtype=object)
    for depth in sorted({name.count("/") + 1 for name in wanted if isinstance(name, str)}):
        ends = pd.Series(["/".join(path.split("/")[-depth:]) for path in bare], dtype=object)
        fits = ends.isin(wanted)
        unique = ~ends[fits].duplicated(keep=False)
        found[fits] = ends[fits].where(unique, SEVERAL)
    return found


def _ids_of_folders(names: pd.Series, paths: pd.Series) -> pd.Series:
    """Return the innermost folder of each slice's path that is one of `names`, (n,).

    The folder of a name of several parts is the one whose path ends so. A volume of several slices
    (`049.nii#3`) is a folder, too.
    """
    wanted = {name for name in names if isinstance(name, str) and name}
    depths = sorted({name.count("/") + 1 for name in wanted}, reverse=True)
    folders: dict[str, object] = {}

    def innermost(folder: str) -> object:
        parts = folder.split("/")
        for end in range(len(parts), 0, -1):
            for depth in depths:
                if depth <= end and (name := "/".join(parts[end - depth : end])) in wanted:
                    return name
        return None

    found = []
    for path in paths:
        folder = SUFFIX.sub("", path).rpartition("#" if "#" in path else "/")[0]
        if folder not in folders:
            folders[folder] = innermost(folder)
        found.append(folders[folder])
    return pd.Series(found, dtype=object)


def _with_whole_series(
    match: LabelMatch, table: pd.DataFrame, slices: pd.DataFrame, key: bytes
) -> NDArray[np.intp]:
    """Return the rows of slices, those without one given the row of zeros of their whole series.

    Such a row has a SeriesInstanceUID and no key of a slice.
    """
    if match.level != "slice" or "SeriesInstanceUID" not in table:
        return match.row
    whole = table[(table[match.column] == "") & (table[list(LABELS)] == 0).all(axis=1)]
    names = whole["SeriesInstanceUID"]
    named = [pseudonym(name, key, "series") for name in names]
    places = pd.Series(whole.index, index=named)
    places = places[~places.index.duplicated()]
    of_series = slices["series_id"].map(places).fillna(NONE).to_numpy(np.intp)
    return np.where(match.row >= 0, match.row, of_series)
