"""Join a user's labels to the slices and studies that were scored."""

import numpy as np
import pandas as pd

from ct.errors import InputError
from ct.labels import LABELS
from ct.tables.labelled_table import LabelledTable

COLUMNS = list(LABELS)


def match_labels(labels: LabelledTable, names: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the labels of the scored slices or studies, indexed by their public ids.

    labels: per slice by SOPInstanceUID, path or file name; per study by StudyInstanceUID or the
    name of its folder; names: indexed by slice_id, with study_id, path, sop_uid and study_uid

    Of these keys the one is used that names the most. A file or folder name that several slices or
    studies have is no key. Raises InputError where none of the rows is of these studies.
    """
    path = names["path"].astype(str)
    parts = path.str.split("/")
    if labels.per_slice:
        ids = pd.Series(names.index, names.index)
        file_name = parts.str[-1]
        keys = [names["sop_uid"], path, file_name, file_name.str.replace(r"\.\w+$", "", regex=True)]
        kind = "SOPInstanceUID, path or file name"
    else:
        ids, folder = names["study_id"], path.str.rpartition("/")[0]
        keys = [names["study_uid"], names["study_id"], folder, parts.str[-2], parts.str[0]]
        kind = "StudyInstanceUID or folder"
    matches = [_matched(ids, key.astype(object).fillna(""), labels.values) for key in keys]
    best = max(matches, key=len)
    if best.empty:
        raise InputError(
            f"{where}: none of its {len(labels.values)} rows names one of the "
            f"{names['study_id'].nunique()} studies; name them by {kind}"
        )
    return best


def _matched(ids: pd.Series, key: pd.Series, values: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `values` whose key names one id alone, indexed by that id."""
    pairs = pd.DataFrame({"id": ids.to_numpy(), "key": key.to_numpy()}).drop_duplicates()
    pairs = pairs[~pairs["key"].duplicated(keep=False) & pairs["key"].isin(values.index)]
    pairs = pairs.drop_duplicates("id")
    return values.loc[pairs["key"]].set_axis(pd.Index(pairs["id"]))


def complete_rows(truth: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with all six labels."""
    return truth[truth.notna().all(axis=1)]


def study_truth(truth: pd.DataFrame, study: pd.Series) -> pd.DataFrame:
    """Return the labels of whole studies: 1 where a slice is positive.

    truth: complete labels of slices; study: of every scored slice. A study with a scored slice
    without labels is left out: it could be positive there.
    """
    whole = ~study.index.isin(truth.index)
    partly = set(study[whole])
    of_study = truth.groupby(study.reindex(truth.index).to_numpy(object), sort=True).max()
    return of_study[[name not in partly for name in of_study.index]]


def labelled_studies(labels: pd.DataFrame, per_slice: bool, study: pd.Series) -> set[str]:
    """Return the studies of which something is labelled. study: of every slice"""
    return set(study.reindex(labels.index).dropna()) if per_slice else set(labels.index)


def patient_numbers(patients: pd.Series) -> np.ndarray:
    """Return patients (n,) as text numbers, so that no identifier goes on."""
    return np.asarray(pd.factorize(patients)[0].astype(str), object)
