"""What the whole study says: maximum, mean, spread and top-3 mean of its logits, and how far away the peak is."""

import warnings

import numpy as np

STUDY_KINDS = ("study_max", "study_mean", "study_std", "study_top3", "peak_mm")


def study_features(slices, logits, names):
    """Summaries of the logits over each slice's study, the same for all slices of a study but for the distance to the peak.

    slices: (n rows) the slice table, sorted by study
    logits: (n, c) float32, NaN where unknown

    Returns (n, 5 * c) float32 and its names; a study without any logit: NaN.
    """
    study = slices["study_id"].to_numpy(object)
    split = slices["split"].to_numpy(object)
    new = np.ones(len(slices), dtype=bool)
    new[1:] = (study[1:] != study[:-1]) | (split[1:] != split[:-1])
    starts = np.flatnonzero(new)
    position = slices["position_mm"].to_numpy()
    columns = np.full((len(logits), 5 * logits.shape[1]), np.nan, dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns of all-NaN studies; NaN is the right answer there
        for start, end in zip(starts, [*starts[1:], len(logits)], strict=False):
            columns[start:end] = _summary(logits[start:end], position[start:end])
    return columns, [f"{name}_{kind}" for kind in STUDY_KINDS for name in names]


def _summary(logits, position):
    """Return the five summaries of one study, (m, 5 * c); the last is the signed distance in mm from the peak slice."""
    known = ~np.isnan(logits).all(axis=0)
    top = np.nanmean(-np.sort(-logits, axis=0)[:3], axis=0)  # NaN sorts last
    peak = np.nanargmax(np.where(known, logits, 0), axis=0)
    flat = np.concatenate([np.nanmax(logits, axis=0), np.nanmean(logits, axis=0), np.nanstd(logits, axis=0), top])
    from_peak = np.where(known, position[:, None] - position[peak], np.nan)
    return np.concatenate([np.broadcast_to(flat, (len(logits), len(flat))), from_peak], axis=1)
