"""Pseudonyms: the names under which identifiers may enter a table."""

import hashlib
import hmac
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# Hexadecimal digits of the competition's identifiers, without exception in 752,803 slices, 1,435
# patients and 1,480 studies and series, and in whole files of train and test.
DIGITS = {"slice": 9, "patient": 8, "study": 10, "series": 10}
# a path of the competition; any other ending of the name may be a person's name
COMPETITION_PATH = rf"stage_[12]_(?:train|test)/ID_[0-9a-f]{{{DIGITS['slice']}}}(?:\.(?:dcm|DCM))?"
# written to ingest.json of a run that keeps only identifiers of these lengths; older runs lack it
EXACT_LENGTHS = "exact lengths"


class LegacyKey(bytes):
    """The key of a run of an older version, which keeps identifiers ID_... of any length."""


def competition_id_pattern(kind: str, key: bytes) -> str:
    """Return the regular expression of the identifiers that are kept as they are.

    kind: "slice", "patient", "study" or "series"; key: of the pseudonyms; a LegacyKey allows any
    number of digits
    """
    return r"ID_[0-9a-f]+" if isinstance(key, LegacyKey) else rf"ID_[0-9a-f]{{{DIGITS[kind]}}}"


def pseudonym(identifier: str, key: bytes, kind: str) -> str:
    """Return the name under which an identifier may enter a table.

    An identifier of the competition (`competition_id_pattern`) is kept. Any other becomes the first
    twelve hexadecimal digits of its HMAC-SHA256 under `key`.

    kind: "slice", "patient", "study" or "series"
    """
    if re.fullmatch(competition_id_pattern(kind, key), identifier):
        return identifier
    digest = hmac.new(key, identifier.encode(errors="surrogateescape"), hashlib.sha256)
    return digest.hexdigest()[:12]


def of_competition(table: pd.DataFrame, key: bytes) -> NDArray[np.bool_]:
    """Return whether each slice is of a series of the competition by its identifiers, (n,).

    table: with study_id and series_id, as `pseudonym` returns them under `key`. The competition's
    studies have one series each.
    """
    matches = [
        table[f"{kind}_id"].str.fullmatch(competition_id_pattern(kind, key)).to_numpy(bool)
        for kind in ("study", "series")
    ]
    return np.logical_and(*matches)


def public_paths(
    paths: pd.Series, slice_ids: Sequence[str] | NDArray[np.object_] | pd.Index
) -> NDArray[np.object_]:
    """Return paths as tables and reports may hold them, (n,).

    Paths in the competition's form stay. In any other path the slice's pseudonym replaces
    everything below the train or test folder: those folders and files may be named after people.
    In studies of the user's own that is the whole path, which becomes own/<pseudonym>.

    paths: relative, (n,) of text; slice_ids: (n,)
    """
    competition_paths = paths.str.fullmatch(COMPETITION_PATH).to_numpy(bool)
    first_folder = paths.str.split("/", n=1).str[0]
    of_competition = first_folder.str.fullmatch(r"stage_[12]_(?:train|test)")
    first_folder = first_folder.where(of_competition, "own").to_numpy(object)
    hidden = first_folder + "/" + np.asarray(slice_ids, object)
    return np.where(competition_paths, paths.to_numpy(object), hidden)
