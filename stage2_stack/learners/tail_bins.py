"""Bins that are narrow in both tails of a feature.

LightGBM's own bins are equally full. Few slices are positive, and most of their logits lie in one
tail: of 63 equally full bins the last one alone holds a slice in 63. Here the quantiles between two
bins are sin^2 of equal steps, so that the last of 63 holds a slice in 1,600. Finding a split, and a
part of its preparation, takes a time that grows with the number of bins.
"""

import numpy as np
from numpy.typing import NDArray

SAMPLED = 200_000  # rows that the quantiles come from, as many as LightGBM's own bins do
# of LightGBM's Datasets: a bin for each value of `bin_centres`; no features that share a column,
# since these few rows do not show which never differ from 0 together
PARAMS = {"min_data_in_bin": 1, "enable_bundle": False}


def sampled_rows(count: int) -> NDArray[np.int_]:
    """Return SAMPLED rows of `count` at most, rising; the same ones in every call."""
    if count <= SAMPLED:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, SAMPLED, replace=False))


def bin_centres(values: NDArray[np.float32], bins: int) -> NDArray[np.float32]:
    """Return a value in each bin of each column, (bins + 1, c) float32, rising.

    values: (m, c), NaN where missing; bins: at least 2

    The last row is NaN in columns that have missing values, or no other ones. In between are the
    edges of the bins, if a LightGBM Dataset of these rows is the reference of another one.
    """
    centres = np.full((bins + 1, values.shape[1]), np.nan, np.float32)
    shares = np.sin(np.pi / 2 * np.linspace(0, 1, bins)) ** 2
    for i in range(values.shape[1]):
        known = np.sort(values[:, i])  # NaN last
        count = len(known) - int(np.isnan(known).sum())
        if count:
            centres[:bins, i] = known[np.rint(shares * (count - 1)).astype(int)]
            if count == len(known):
                centres[bins, i] = known[-1]
    return centres
