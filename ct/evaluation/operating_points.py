"""Operating points: thresholds for a wanted sensitivity or specificity, and what they reach.

A probability reaches a threshold where it is equal or larger. Thresholds are chosen on out-of-fold
probabilities. Their intervals are for new patients, as many as one fold holds. Each bootstrap draw
chooses a threshold on as many patients as there are, and applies it to a second draw of a fold's
size. So the interval holds the chance in both. Where all draws agree, it is the exact one for a
fold's patients of the class.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ct.errors import number_of
from ct.evaluation.patient_draws import PatientDraws, draw_patients, interval_of_rate
from ct.labels import LABELS

WANTED = (("sensitivity", 95), ("sensitivity", 90), ("specificity", 90), ("specificity", 95))
POINTS = tuple(f"{rate}_{percent}" for rate, percent in WANTED)
FEWEST = 10  # patients of each class
MOST_BINS = 4096  # thresholds that a draw chooses from
REPEATS = 500
Point = dict[str, Any]  # threshold, sensitivity, specificity; or why there is none


class _Draws(NamedTuple):
    """Shares of positives and negatives (draws, bins + 1) at or above each bin; 0 at the end."""

    positive: NDArray[np.float64]
    negative: NDArray[np.float64]


def choose_threshold(y: NDArray[Any], p: NDArray[Any], rate: str, percent: int) -> float:
    """Return the threshold with the wanted rate on rows of both classes.

    y: (n,) 0 or 1; p: (n,) probabilities; rate: "sensitivity", for the largest threshold that
    reaches it, or "specificity", for the smallest
    """
    own = np.sort(p[y == (rate == "sensitivity")])
    count = -(-percent * len(own) // 100)  # rounded up
    if rate == "sensitivity":
        return float(own[len(own) - count])
    return float(np.nextafter(own[count - 1], np.inf))


def reached_rates(y: NDArray[Any], p: NDArray[Any], threshold: float) -> tuple[float, float]:
    """Return (sensitivity, specificity) of a threshold on rows of both classes."""
    return float((p[y == 1] >= threshold).mean()), float((p[y == 0] < threshold).mean())


def operating_points(
    y: NDArray[Any], p: NDArray[Any], patients: ArrayLike, folds: int, seed: int = 0
) -> dict[str, Point]:
    """Return {name of POINTS: Point} of one label.

    y: (n,) 0 or 1; p: (n,) out-of-fold probabilities; patients: (n,); folds: number of folds

    A Point has `threshold`, `sensitivity` and `specificity`, each of these two with `value` and the
    95 % interval `low` to `high` of as many new patients as one fold holds. Or it has `why` alone:
    for p % of a rate, 100 / (100 - p) patients of its class are needed, and FEWEST of the other.
    """
    patients = np.asarray(patients)
    of_class = [len(np.unique(patients[y == value])) for value in (0, 1)]
    of_fold = [max(1, count // folds) for count in of_class]
    reasons = {name: _too_few(of_class, *WANTED[i]) for i, name in enumerate(POINTS)}
    points: dict[str, Point] = {name: {"why": why} for name, why in reasons.items() if why}
    if len(points) < len(POINTS):
        own, unseen = _drawn_shares(y, p, patients, folds, seed)
    for name, (rate, percent) in zip(POINTS, WANTED, strict=True):
        if name in points:
            continue
        threshold = choose_threshold(y, p, rate, percent)
        if threshold > 1:
            points[name] = {"why": "negatives have the probability 1"}
            continue
        bins, rows = _drawn_bins(own, rate, percent), np.arange(len(own.positive))
        drawn = unseen.positive[rows, bins], 1 - unseen.negative[rows, bins]
        sensitivity, specificity = reached_rates(y, p, threshold)
        points[name] = {
            "threshold": threshold,
            "sensitivity": interval_of_rate(sensitivity, drawn[0], of_fold[1]),
            "specificity": interval_of_rate(specificity, drawn[1], of_fold[0]),
        }
    return {name: points[name] for name in POINTS}


def _too_few(of_class: list[int], rate: str, percent: int) -> str:
    """Return why there is no such point, or "". of_class: patients with negatives, positives."""
    needed = [FEWEST, FEWEST]
    needed[rate == "sensitivity"] = max(FEWEST, 100 // (100 - percent))
    for name, count, least in zip(("negative", "positive"), of_class, needed, strict=True):
        if count < least:
            return f"{number_of(count, 'patient')} with {name}s, at least {least} are needed"
    return ""


def _drawn_shares(
    y: NDArray[Any], p: NDArray[Any], patients: NDArray[Any], folds: int, seed: int
) -> tuple[_Draws, _Draws]:
    """Return the shares of draws that choose a threshold, and of draws of unseen patients."""
    edges = np.unique(p)
    if len(edges) > MOST_BINS:
        edges = np.unique(np.quantile(p, np.linspace(0, 1, MOST_BINS), method="nearest"))
    bins = np.searchsorted(edges, p, side="right") - 1
    unseen = max(1, len(np.unique(patients)) // folds)
    return (
        _shares(draw_patients(patients, seed, None, REPEATS), bins, len(edges), y == 1),
        _shares(draw_patients(patients, seed + 1, unseen, REPEATS), bins, len(edges), y == 1),
    )


def _shares(
    draws: PatientDraws, bins: NDArray[np.intp], count: int, positive: NDArray[np.bool_]
) -> _Draws:
    """Return the shares of each draw; NaN where it lacks a class."""
    tables = []
    for of_class in zip(*draws.histograms(bins, count, positive, ~positive), strict=True):
        histogram = np.concatenate(of_class)
        above = np.cumsum(histogram[:, ::-1], axis=1)[:, ::-1]
        with np.errstate(invalid="ignore"):
            shares = above / above[:, :1]
        tables.append(np.pad(shares, ((0, 0), (0, 1))))
    return _Draws(*tables)


def _drawn_bins(own: _Draws, rate: str, percent: int) -> NDArray[np.intp]:
    """Return the bin (draws,) at which each draw puts its threshold."""
    share, tolerance = percent / 100, 1e-9
    if rate == "sensitivity":  # the last bin that reaches it
        reached = own.positive >= share - tolerance
        return np.maximum(reached.sum(axis=1) - 1, 0)
    reached = own.negative <= 1 - share + tolerance
    return np.where(reached.any(axis=1), reached.argmax(axis=1), reached.shape[1] - 1)


def points_of_labels(
    y: NDArray[Any], p: NDArray[Any], patients: ArrayLike, folds: int, seed: int
) -> dict[str, dict[str, Point]]:
    """Return {label: its operating points}. y, p: (n, 6), columns LABELS"""
    return {
        label: operating_points(y[:, j], p[:, j], patients, folds, seed)
        for j, label in enumerate(LABELS)
    }


def reached_points(table: pd.DataFrame, points: Mapping[str, Mapping[str, Point]]) -> pd.DataFrame:
    """Return 1 where a probability reaches a threshold, else 0; NaN where there is no threshold.

    table: columns LABELS, NaN where unknown; points: {label: {name: Point}}

    Returns a table indexed like `table`, with the columns <label>_<name>.
    """
    columns = {}
    for label in LABELS:
        p = table[label].to_numpy(np.float64)
        for name in POINTS:
            threshold = points[label][name].get("threshold")
            known = np.isfinite(p) & (threshold is not None)
            reached = p >= (np.inf if threshold is None else threshold)
            columns[f"{label}_{name}"] = np.where(known, reached, np.nan)
    return pd.DataFrame(columns, index=table.index).astype("Int8")


def point_table(points: Mapping[str, Mapping[str, Mapping[str, Point]]]) -> pd.DataFrame:
    """Return a row an operating point, of {"slices" or "studies": {label: {name: Point}}}."""
    rows = []
    for level, of_level in points.items():
        for label in LABELS:
            for name in POINTS:
                point = of_level[label][name]
                row: dict[str, Any] = {"level": level, "label": label, "point": name}
                row["threshold"] = point.get("threshold")
                for rate in ("sensitivity", "specificity"):
                    values = point.get(rate) or {}
                    row |= {
                        rate if key == "value" else f"{rate}_{key}": values.get(key)
                        for key in ("value", "low", "high")
                    }
                rows.append(row | {"why": point.get("why", "")})
    return pd.DataFrame(rows)
