"""How the rows of a slice table hang together: series, studies, and walks along all series at once.

Here and in the families a slice table may also be a plain dict of its columns (n,).
"""

import numpy as np


def series_starts(slices):
    """Return the first and one-past-last row of each row's series, int (n,) each; the table is
    sorted by series and place.
    """
    place = np.asarray(slices["place"], np.int64)
    first = np.arange(len(place)) - place
    return first, first + np.asarray(slices["series_slices"], np.int64)


def study_starts(slices):
    """Return the first row of each study, int (s,); the study of a patient in both sets is two, one
    a split.
    """
    study, split = (np.asarray(slices[name]) for name in ("study_id", "split"))
    new = np.ones(len(study), dtype=bool)
    new[1:] = (study[1:] != study[:-1]) | (split[1:] != split[:-1])
    return np.flatnonzero(new)


def rows_by_place(slices, from_top=False):
    """Sort the rows for a walk along all series at once: lowest slices first, of each place the
    longest series first.

    Returns (order, bounds): order[bounds[p] : bounds[p + 1]] are the rows of place p, and the i-th
    of them lies in the same series as the i-th of place p - 1. from_top: the same with the highest
    slices first.
    """
    starts = np.flatnonzero(np.asarray(slices["place"]) == 0)
    lengths = np.asarray(slices["series_slices"], np.int64)[starts]
    longest = np.argsort(-lengths, kind="stable")
    starts, lengths = starts[longest], lengths[longest]
    places = lengths[0] if len(lengths) else 0
    # series with more than p slices
    reaching = np.searchsorted(-lengths, -np.arange(places), side="left")
    rows = [starts[:m] + (lengths[:m] - 1 - p if from_top else p) for p, m in enumerate(reaching)]
    bounds = np.concatenate([[0], np.cumsum(reaching)]).astype(np.int64)
    return np.concatenate([np.empty(0, np.int64), *rows]), bounds
