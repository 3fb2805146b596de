"""Which slices are seen in which order."""

import numpy as np

LEAST = 2  # slices of a batch in training: batch norm cannot train on one


def batches(rows, batch):
    """Cut the row numbers `rows` (n,) into arrays of `batch`; the last one may be shorter."""
    return [rows[at : at + batch] for at in range(0, len(rows), batch)]


def training_steps(rows, size, least=LEAST):
    """Cut shuffled row numbers into the steps of an epoch, arrays of `size`; a rest of fewer than `least` is left out."""
    steps = batches(rows, size)
    return steps[:-1] if steps and len(steps[-1]) < least else steps


def shuffled(rows, seed):
    """Return the row numbers in random order."""
    return np.random.default_rng(seed).permutation(rows)


def balanced(rows, positive, studies, share, seed):
    """Draw len(rows) row numbers with replacement, `share` of them positive, in random order.

    rows: (n,); positive: bool (n,); studies: (n,) the study of each

    Each draw takes a study that has such slices, all alike, then one of its slices: neither long studies nor those with many
    positive slices rule the epoch. Where all slices are of one kind, that kind is drawn. The share of positives is no longer
    the true one, so the probabilities learned are too high; calibration takes that back.
    """
    rng = np.random.default_rng(seed)
    wanted = round(share * len(rows)) if positive.any() and not positive.all() else len(rows) * int(positive.any())
    drawn = [
        _draw(rows[kind], studies[kind], n, rng) for kind, n in ((positive, wanted), (~positive, len(rows) - wanted)) if n
    ]
    return rng.permutation(np.concatenate(drawn))


def _draw(rows, studies, n, rng):
    """Draw n of `rows`: a study, then one of its rows."""
    _, code, count = np.unique(studies, return_inverse=True, return_counts=True)
    by_study, first = rows[np.argsort(code, kind="stable")], np.cumsum(count) - count
    study = rng.integers(len(count), size=n)
    return by_study[first[study] + (rng.random(n) * count[study]).astype(int)]
