"""Lesion runs of a label along a series, phantom runs beside them, and what an image shows."""

import numpy as np
from scipy.special import logit
from scipy.stats import beta

# share of run ends that lie a slice further in or out in the image than in the labels
MOVED_END = 0.12


def find_runs(slices, y):
    """Return the maximal runs of positives of y (n,) inside a series, int (r, 2).

    The first row of a run, and one past its last.
    """
    place = slices["place"].to_numpy()
    before, after = np.r_[0, y[:-1]], np.r_[y[1:], 0]
    last = np.r_[place[1:] == 0, True]
    starts = np.flatnonzero((y == 1) & ((place == 0) | (before == 0)))
    return np.column_stack([starts, np.flatnonzero((y == 1) & (last | (after == 0))) + 1])


def place_phantoms(slices, y, column, real, count, rng):
    """Return `count` phantom runs (count, 2) of a label where real runs could be.

    They do not overlap real runs. Each takes the relative height and length of a real run drawn at
    random, and a series drawn among those with the same other labels: another subtype or not,
    another run of this label or not. So neither separates a phantom from a real run.
    """
    place, length = slices["place"].to_numpy(), slices["series_slices"].to_numpy()
    first = np.flatnonzero(place == 0)
    series = np.cumsum(place == 0) - 1
    others = np.delete(y, [0, column], axis=1).max(axis=1)
    runs_in = (
        np.bincount(series[real[:, 0]], minlength=len(first))
        if len(real)
        else np.zeros(len(first), int)
    )
    company = 2 * np.maximum.reduceat(others, first).astype(int) + (runs_in > 0)
    # a run is not its own company
    of_real = company[series[real[:, 0]]] - (runs_in[series[real[:, 0]]] == 1)
    hosts = {key: np.flatnonzero(company == key) for key in range(4)}
    phantoms = []
    for _ in range(100 * count):  # most are found at once
        if len(phantoms) == count:
            break
        donor = rng.integers(len(real))
        if not len(hosts[of_real[donor]]):
            continue
        host = first[rng.choice(hosts[of_real[donor]])]
        start, end = real[donor] - first[series[real[donor, 0]]]
        scale = length[host] / length[real[donor, 0]]
        size = min(max(round((end - start) * scale), 1), length[host])
        start = host + min(round(start * scale), length[host] - size)
        near = slice(max(start - 1, host), min(start + size + 1, host + length[host]))
        if not y[near, column].any():
            phantoms.append((start, start + size))
    return np.array(phantoms, dtype=int).reshape(-1, 2)


def draw_q(real, phantom, a, b, rng):
    """Return the logit of each run's q, (real + phantom,), the real ones first.

    The draws are spread evenly over the quantiles, so that seeds differ in which run is clear, not
    in how many are.
    """
    drawn = [(rng.permutation(m) + rng.random(m)) / max(m, 1) for m in (real, phantom)]
    q = np.concatenate([beta.ppf(drawn[0], a + 1, b), beta.ppf(drawn[1], a, b + 1)])
    with np.errstate(divide="ignore"):
        return logit(q)


def paint_runs(slices, runs, strength, rng):
    """Return the evidence (n,) that the image shows: each run's strength between its ends.

    Some ends have moved by a slice. runs: (r, 2); strength: (r,). A run keeps one slice and stays
    in its series; where runs overlap, the stronger one shows.
    """
    place, length = slices["place"].to_numpy(), slices["series_slices"].to_numpy()
    moves = rng.choice(
        [-1, 0, 1], p=[MOVED_END / 2, 1 - MOVED_END, MOVED_END / 2], size=(len(runs), 2)
    )
    shown = np.zeros(len(slices))
    for (start, end), (down, up), s in zip(runs, moves, strength, strict=True):
        low = start - place[start]
        start, stop = max(start + down, low), min(end + up, low + length[start])
        if stop <= start:  # a run of one slice whose ends have met
            start, stop = end - 1, end
        shown[start:stop] = np.maximum(shown[start:stop], s)
    return shown
