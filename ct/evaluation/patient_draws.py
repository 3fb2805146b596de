"""Bootstrap draws of whole patients, and the intervals of rates and of the AUC over them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

REPEATS = 1000
MOST_CELLS = 20_000_000  # of a table of draws and bins at a time
Interval = dict[str, float]  # value, low, high


@dataclass(frozen=True)
class PatientDraws:
    """How often each bootstrap draw holds each patient.

    code:   (n,) the number of each row's patient, 0 ... m-1
    counts: (repeats, m)
    """

    code: NDArray[np.intp]
    counts: NDArray[np.float64]

    def sums(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return the sum of values (n,) over the rows of each draw, (repeats,)."""
        weights = np.asarray(values, np.float64)
        total: NDArray[np.float64] = self.counts @ np.bincount(
            self.code, weights, minlength=self.counts.shape[1]
        )
        return total

    def histograms(
        self, bins: NDArray[np.intp], count: int, *masks: NDArray[np.bool_]
    ) -> Iterator[list[NDArray[np.float64]]]:
        """Yield, for some draws after the others, a histogram (draws, count) of each mask.

        bins: (n,) 0 ... count-1; a mask (n,) says which rows count
        """
        shape = (self.counts.shape[1], count)
        tables = [csr_array((np.ones(m.sum()), (self.code[m], bins[m])), shape) for m in masks]
        step = max(1, MOST_CELLS // count)
        for start in range(0, len(self.counts), step):
            some = self.counts[start : start + step]
            yield [np.asarray(some @ table) for table in tables]


def draw_patients(
    patients: ArrayLike, seed: int = 0, size: int | None = None, repeats: int = REPEATS
) -> PatientDraws:
    """Draw patients with replacement. size: patients of a draw; as many as there are if None."""
    names, code = np.unique(np.asarray(patients), return_inverse=True)
    shares = np.full(len(names), 1 / len(names))
    counts = np.random.default_rng(seed).multinomial(size or len(names), shares, size=repeats)
    return PatientDraws(code, counts.astype(np.float64))


def interval_of(value: float, drawn: NDArray[np.float64], level: float = 0.95) -> Interval:
    """Return a value with the interval of the draws in which it is defined (not NaN)."""
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return {"value": float(value), "low": float(low), "high": float(high)}


def rate(hit: NDArray[Any], among: NDArray[Any], draws: PatientDraws) -> Interval | None:
    """Return the share of the rows `among` that are `hit`, (n,) bool; None where there are none."""
    if not among.any():
        return None
    with np.errstate(invalid="ignore"):
        drawn = draws.sums(hit & among) / draws.sums(among)
    return interval_of((hit & among).sum() / among.sum(), drawn)


def mean(values: NDArray[np.float64], draws: PatientDraws) -> Interval:
    """Return the mean of values (n,) with its interval."""
    return interval_of(values.mean(), draws.sums(values) / draws.sums(np.ones(len(values))))


def drawn_aucs(y: NDArray[Any], p: NDArray[Any], draws: PatientDraws) -> NDArray[np.float64]:
    """Return the area under the ROC curve in each draw, NaN where a draw has one class.

    y: (n,) 0 or 1; p: (n,). Ties count half (Hanley and McNeil, Radiology 1982).
    """
    values, bins = np.unique(p, return_inverse=True)
    positive, areas = np.asarray(y) > 0, []
    for above, below in draws.histograms(bins, len(values), positive, ~positive):
        higher = above.sum(axis=1, keepdims=True) - np.cumsum(above, axis=1)
        pairs = above.sum(axis=1) * below.sum(axis=1)
        with np.errstate(invalid="ignore"):
            areas.append((below * (higher + above / 2)).sum(axis=1) / pairs)
    return np.concatenate(areas)
