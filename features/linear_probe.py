"""Linear probes of CNN embeddings: logits of a regularised linear discriminant, cross-fitted.

Embeddings of different fold models are not comparable, so neither they nor their principal axes
ever become features; only the logits of a probe that is fitted inside one CNN fold do. The probe is
a regularised linear discriminant (Friedman, JASA 84(405), 1989) in closed form. It needs only means
and covariances, which are summed in one pass over the rows, so the embeddings may be a memory map
that is larger than memory. Its weights have the direction of a ridge regression on the labels.

All sums run on one thread: the last bits of a product of matrices depend on how many threads share
it, and a probe must not depend on the cores of a machine. Several probes run side by side instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import logit

from ct.seeds import derive_seed
from ct.system.blas_threads import one_blas_thread

# Parts of the patients of one CNN fold (inner folds): a patient gets the logits of the probe that
# was fitted on the other parts.
PARTS = 5
BATCH_ROWS = 8192  # rows that are read at once


@dataclass
class Moments:
    """Sums over rows of embeddings (d dimensions) and labels (c), from which a probe is fitted."""

    rows: float
    total: NDArray[np.float64]  # (d,) sum of the embeddings
    square: NDArray[np.float64]  # (d, d) sum of their outer products
    positive: NDArray[np.float64]  # (c,) number of positives
    positive_total: NDArray[np.float64]  # (d, c) sum of the embeddings of the positives

    @classmethod
    def zeros(cls, d: int, c: int) -> "Moments":
        """Return the moments of no rows."""
        return cls(0.0, np.zeros(d), np.zeros((d, d)), np.zeros(c), np.zeros((d, c)))

    def __add__(self, other: "Moments") -> "Moments":
        names = [field.name for field in fields(self)]
        return Moments(*(getattr(self, name) + getattr(other, name) for name in names))

    def __sub__(self, other: "Moments") -> "Moments":
        names = [field.name for field in fields(self)]
        return Moments(*(getattr(self, name) - getattr(other, name) for name in names))

    def add(self, x: NDArray[np.float32], y: NDArray[np.float32]) -> None:
        """Add rows of embeddings x (m, d) with labels y (m, c), 0 or 1, in place."""
        self.rows += len(x)
        self.total += x.sum(axis=0, dtype=np.float64)
        self.square += x.T @ x
        self.positive += y.sum(axis=0, dtype=np.float64)
        self.positive_total += x.T @ y


@dataclass
class LinearProbe:
    """A linear classifier of embeddings: logits = (embedding - centre) @ weights + intercept."""

    centre: NDArray[np.float32]  # (d,)
    weights: NDArray[np.float32]  # (d, c)
    intercept: NDArray[np.float32]  # (c,)

    def logits(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the logits, (m, c), of embeddings (m, d); NaN where the embedding is NaN."""
        logits = np.empty((len(embeddings), len(self.intercept)), np.float32)
        for rows in _batches(len(embeddings)):
            centred = np.asarray(embeddings[rows], np.float32) - self.centre
            logits[rows] = centred @ self.weights + self.intercept
        return logits


def part_of_patient(patients: Sequence[str] | NDArray, parts: int = PARTS) -> NDArray[np.int64]:
    """Return the part of each row's patient, (n,): 0 ... parts - 1.

    patients: (n,) names; the order in which they are dealt out depends on the names alone
    """
    names = sorted(set(patients), key=lambda name: (derive_seed(0, "probe", name), name))
    part = {name: number % parts for number, name in enumerate(names)}
    return np.array([part[name] for name in patients], dtype=np.int64)


def cross_fit_probe(
    embeddings: NDArray[np.floating], y: NDArray[np.floating], patients: NDArray
) -> tuple[NDArray[np.float32], LinearProbe, list[LinearProbe]]:
    """Fit the probes of one CNN on its held-out rows, and return their out-of-part logits.

    embeddings: (n, d) float16, may be a memory map; NaN rows are unknown
    y:          (n, c) 0, 1 or NaN where unlabelled
    patients:   (n,) names

    Returns (logits, probe, part_probes). logits: (n, c), each row by the probe that was fitted
    without the part of its patient; NaN where the embedding is NaN, and for a single patient.
    probe: fitted on all rows, for slices of other patients. part_probes: fitted without each part;
    empty for a single patient. Rows are read twice, BATCH_ROWS at a time.
    """
    with one_blas_thread():
        part, (n, d), c = part_of_patient(patients), embeddings.shape, y.shape[1]
        parts = part.max(initial=0) + 1
        centre = _first_rows_mean(embeddings)
        moments = [Moments.zeros(d, c) for _ in range(parts)]
        for rows in _batches(n):
            x, labels = np.asarray(embeddings[rows], np.float32) - centre, y[rows]
            usable = ~(np.isnan(x).any(axis=1) | np.isnan(labels).any(axis=1))
            for j in range(parts):
                own = usable & (part[rows] == j)
                moments[j].add(x[own], labels[own].astype(np.float32))
        whole = sum(moments, Moments.zeros(d, c))
        part_probes = [fit_probe(whole - own, centre) for own in moments] if parts > 1 else []
        logits = np.full((n, c), np.nan, np.float32)
        for rows in _batches(n) if part_probes else ():
            x = np.asarray(embeddings[rows], np.float32)
            for j, probe in enumerate(part_probes):
                own = part[rows] == j
                logits[rows][own] = probe.logits(x[own])
        return logits, fit_probe(whole, centre), part_probes


def held_out_probe_logits(
    probe: LinearProbe,
    part_probes: Sequence[LinearProbe],
    embeddings: NDArray[np.floating],
    part: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Return logits (m, c) of embeddings (m, d) by probes not fitted on the row's patient.

    probe, part_probes: as returned by cross_fit_probe
    part:               (m,) the part of each row's patient, -1 for a patient the probes were not
                        fitted on, who gets the probe of all rows

    NaN where the embedding is NaN, or where the probe was fitted on this patient alone.
    """
    with one_blas_thread():
        logits = probe.logits(embeddings)
        for j in np.unique(part[part >= 0]):
            own = np.flatnonzero(part == j)
            logits[own] = part_probes[j].logits(embeddings[own]) if j < len(part_probes) else np.nan
        return logits


def fit_probe(moments: Moments, centre: NDArray[np.float32]) -> LinearProbe:
    """Return the probe of the moments of embeddings minus `centre` (d,).

    The covariance is shrunk towards a multiple of the identity by d / (d + rows): more for fewer
    rows. A label without positives or without negatives gets its smoothed prior as logit.
    """
    d, c = moments.positive_total.shape
    rows, positive = moments.rows, moments.positive
    prior = logit((positive + 1) / (rows + 2))
    both_classes = (positive > 0) & (positive < rows)
    if not both_classes.any():
        return LinearProbe(centre, np.zeros((d, c), np.float32), prior.astype(np.float32))
    mean, shrinkage = moments.total / rows, d / (d + rows)
    covariance = moments.square / rows - np.outer(mean, mean)
    scale = max(np.trace(covariance) / d, 1e-12)
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(d)] += shrinkage * scale
    share = np.where(both_classes, positive / max(rows, 1), 0.5)
    mean_positive = moments.positive_total / np.maximum(positive, 1)
    mean_negative = (moments.total[:, None] - moments.positive_total) / np.maximum(
        rows - positive, 1
    )
    between = np.where(both_classes, mean_positive - mean_negative, 0)
    weights = cho_solve(cho_factor(covariance), between)
    # This is the total covariance, which includes the distance between the classes.
    # Sherman-Morrison gives the weights for the covariance within the classes.
    explained = (1 - shrinkage) * share * (1 - share) * (between * weights).sum(axis=0)
    weights /= np.maximum(1 - explained, 1e-3)
    intercept = prior - ((mean_positive + mean_negative) / 2 * weights).sum(axis=0)
    return LinearProbe(centre, weights.astype(np.float32), intercept.astype(np.float32))


def _first_rows_mean(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the mean of the first rows, (d,). Sums of squares of centred rows are more precise."""
    first = np.asarray(embeddings[:BATCH_ROWS], np.float32)
    first = first[~np.isnan(first).any(axis=1)]
    return first.mean(axis=0) if len(first) else np.zeros(embeddings.shape[1], np.float32)


def _batches(n: int) -> list[slice]:
    return [slice(start, start + BATCH_ROWS) for start in range(0, n, BATCH_ROWS)]
