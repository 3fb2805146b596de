"""Bootstrap draws of whole patients, and the intervals of rates and of the AUC over them.

An interval without width would be read as certainty, but draws that are all alike only show that
the patients are few. Then a rate has the exact interval of Clopper and Pearson (Biometrika 1934)
with patients as observations, and any other figure has none.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.stats import beta

from ct.metrics import FEWEST_PATIENTS

REPEATS = 1000
MOST_CELLS = 20_000_000  # of a table of draws and bins at a time
LEVEL = 0.95  # coverage of the intervals


class Interval(TypedDict):
    """A figure and the ends of its interval; both None where it has no interval."""

    value: float
    low: float | None
    high: float | None


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

    def patients(self, among: NDArray[np.bool_]) -> int:
        """Return the number of patients with a row `among`, (n,) bool."""
        return len(np.unique(self.code[among]))

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


def interval_of(value: float, drawn: NDArray[np.float64]) -> Interval:
    """Return a value with the interval of the draws in which it is defined (not NaN).

    It has no interval where it is undefined in all draws, or the same in nearly all.
    """
    if np.isnan(drawn).all():
        return {"value": float(value), "low": None, "high": None}
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if np.isclose(low, high, rtol=1e-9, atol=1e-12):  # sums of floats differ in their last bits
        return {"value": float(value), "low": None, "high": None}
    return {"value": float(value), "low": float(low), "high": float(high)}


def interval_of_rate(share: float, drawn: NDArray[np.float64], patients: int) -> Interval:
    """Return a rate with the interval of its draws, the exact one where that has no width.

    share: in [0, 1]; patients: that the rate is of. The exact interval of 0 and of 1 is one-sided.
    """
    interval = interval_of(share, drawn)
    if interval["low"] is not None:
        return interval
    tail = 1 - LEVEL if share in (0, 1) else (1 - LEVEL) / 2
    hits, others = share * patients, (1 - share) * patients
    low = beta.ppf(tail, hits, others + 1) if share > 0 else 0.0
    high = beta.ppf(1 - tail, hits + 1, others) if share < 1 else 1.0
    return {"value": float(share), "low": float(low), "high": float(high)}


def rate(hit: NDArray[Any], among: NDArray[Any], draws: PatientDraws) -> Interval | None:
    """Return the share of the rows `among` that are `hit`, (n,) bool; None where there are none.

    The share of rows of one patient has no interval.
    """
    if not among.any():
        return None
    share, patients = float((hit & among).sum() / among.sum()), draws.patients(among)
    if patients < FEWEST_PATIENTS:
        return {"value": share, "low": None, "high": None}
    with np.errstate(invalid="ignore"):
        drawn = draws.sums(hit & among) / draws.sums(among)
    return interval_of_rate(share, drawn, patients)


def mean(values: NDArray[np.float64], draws: PatientDraws) -> Interval:
    """Return the mean of values (n,) with its interval; that of one patient has none."""
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
