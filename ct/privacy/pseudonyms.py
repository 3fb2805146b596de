"""Pseudonyms: the names under which identifiers may enter a table."""

import hashlib
import hmac
import re

import numpy as np

# In the competition's files each slice's identifier has 9 hexadecimal digits, each patient's 8,
# each study's and series' 10: counted in 752,803 slices, 1,435 patients and 1,480 studies and
# series, and in whole files of train and test; no exception.
DIGITS = {"slice": 9, "patient": 8, "study": 10, "series": 10}


# another ending may be a name
OWN_PATH = rf"stage_[12]_(?:train|test)/ID_[0-9a-f]{{{DIGITS['slice']}}}(?:\.(?:dcm|DCM))?"


# what a run notes that keeps identifiers of these lengths alone; earlier ones note nothing
EXACT_LENGTHS = "exact lengths"


class LegacyKey(bytes):
    """The key of a run that was ingested when every identifier of the form ID_… was kept, of
    whatever length: it still is.
    """


def competition_id_pattern(kind: str, key: bytes) -> str:
    """Return the pattern of the identifiers that are kept: of the competition's form, and under a
    new key its exact length.

    kind: of DIGITS; key: of the pseudonyms, an EarlierKey in a run that keeps the earlier rule
    """
    return r"ID_[0-9a-f]+" if isinstance(key, LegacyKey) else rf"ID_[0-9a-f]{{{DIGITS[kind]}}}"


def pseudonym(identifier: str, key: bytes, kind: str) -> str:
    """Return the name under which an identifier may enter a table.

    The competition's own (`competition_form`) are kept; of others the first twelve hexadecimal
    digits of the HMAC-SHA256 under `key`. kind: "slice", "patient", "study" or "series"
    """
    if re.fullmatch(competition_id_pattern(kind, key), identifier):
        return identifier
    return hmac.new(key, identifier.encode(errors="surrogateescape"), hashlib.sha256).hexdigest()[
        :12
    ]


def public_paths(paths, slice_ids):
    """Return paths as tables and reports may hold them: as they are, if made of the competition's
    own names, else with the slice's pseudonym for all that lies below train or test: folders and
    files of one's own may be named after people.

    paths: Series of relative paths; slice_ids: (n,). Returns an object array (n,).
    """
    own = paths.str.fullmatch(OWN_PATH).to_numpy(bool)
    hidden = paths.str.split("/", n=1).str[0].to_numpy(object) + "/" + np.asarray(slice_ids, object)
    return np.where(own, paths.to_numpy(object), hidden)
