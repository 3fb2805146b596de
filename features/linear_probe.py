"""What a CNN's embedding says beyond its own logits: a linear probe's logits, one probe a CNN fold.

Embeddings of different fold models are not comparable: neither they nor their principal axes ever
become features. The probe is a regularised linear discriminant (Friedman, JASA 84(405), 1989), in
closed form from means and covariances that are summed in one pass over the rows, so that a memory
map need not fit into memory. Its weights point where those of a ridge regression on the labels do,
and its values are log odds.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import logit

from ct.seeds import derive_seed

PARTS = 5  # of the patients of one CNN fold, each seen by the probe of the others
ROWS = 8192  # read at once


@dataclass
class Moments:
    """Sums over rows: what a probe is made of."""

    rows: float
    total: np.ndarray  # (d,)
    square: np.ndarray  # (d, d)
    positive: np.ndarray  # (c,) positives of each label
    of_positive: np.ndarray  # (d, c) sums over them

    @classmethod
    def none(cls, d, c):
        """Return the moments of no rows."""
        return cls(0.0, np.zeros(d), np.zeros((d, d)), np.zeros(c), np.zeros((d, c)))

    def __add__(self, other):
        return Moments(
            *(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__)
        )

    def __sub__(self, other):
        return Moments(
            *(getattr(self, name) - getattr(other, name) for name in self.__dataclass_fields__)
        )

    def add(self, x, y):
        """Count rows x (m, d) float32 with labels y (m, c) of 0 and 1, float32."""
        self.rows += len(x)
        self.total += x.sum(axis=0, dtype=np.float64)
        self.square += x.T @ x
        self.positive += y.sum(axis=0, dtype=np.float64)
        self.of_positive += x.T @ y


@dataclass
class LinearProbe:
    """Logits = (embedding - centre) @ weights + intercept."""

    centre: np.ndarray  # (d,) float32
    weights: np.ndarray  # (d, c) float32
    intercept: np.ndarray  # (c,) float32

    def logits(self, embeddings):
        """Return logits (m, c), float32, of embeddings (m, d); NaN where those are."""
        made = np.empty((len(embeddings), len(self.intercept)), np.float32)
        for rows in _batches(len(embeddings)):
            made[rows] = (
                np.asarray(embeddings[rows], np.float32) - self.centre
            ) @ self.weights + self.intercept
        return made


def part_of_patient(patients, parts=PARTS):
    """Return the part of each row, (n,): patients are dealt out in turn, in an order that depends
    on their names alone.
    """
    names = sorted(set(patients), key=lambda name: (derive_seed(0, "probe", name), name))
    part = {name: number % parts for number, name in enumerate(names)}
    return np.array([part[name] for name in patients], dtype=np.int64)


def cross_fit_probe(embeddings, y, patients):
    """Fit the probe of one CNN on the rows it never saw, and ask it about them: each patient by the
    probe without his part.

    embeddings: (n, d) float16, may be a memory map; NaN rows are unknown
    y:          (n, c) 0, 1 or NaN where unlabelled; patients: (n,)

    Returns (logits, probe, parts): (n, c) float32, NaN where there is no embedding or, with a
    single patient, no other's; the probe of all rows, for slices of other patients; and the probes
    without the patients of each part, none with a single patient. Rows are read twice, ROWS at a
    time.
    """
    part, (n, d), c = part_of_patient(patients), embeddings.shape, y.shape[1]
    parts = part.max(initial=0) + 1
    centre = _centre(embeddings)
    moments = [Moments.none(d, c) for _ in range(parts)]
    for rows in _batches(n):
        x, labels = np.asarray(embeddings[rows], np.float32) - centre, y[rows]
        fit = ~(np.isnan(x).any(axis=1) | np.isnan(labels).any(axis=1))
        for j in range(parts):
            own = fit & (part[rows] == j)
            moments[j].add(x[own], labels[own].astype(np.float32))
    whole = sum(moments, Moments.none(d, c))
    probes = [fit_probe(whole - own, centre) for own in moments] if parts > 1 else []
    logits = np.full((n, c), np.nan, np.float32)
    for rows in _batches(n) if probes else ():
        x = np.asarray(embeddings[rows], np.float32)
        for j, probe in enumerate(probes):
            own = part[rows] == j
            logits[rows][own] = probe.logits(x[own])
    return logits, fit_probe(whole, centre), probes


def held_out_probe_logits(
    probe: LinearProbe, parts: list[LinearProbe], embeddings: np.ndarray, part: np.ndarray
) -> np.ndarray:
    """Return logits (m, c), float32, of embeddings (m, d) by probes that were not fitted on these
    rows' own patients.

    probe, parts: as returned by cross_fit_probe; part: (m,) int, the part of each row's patient
    among the patients that the probes were fitted on, -1 for a patient who is not one of them: the
    probe of all rows

    NaN where the embedding is NaN, or where the patient is the only one the probe was fitted on.
    """
    logits = probe.logits(embeddings)
    for j in np.unique(part[part >= 0]):
        own = np.flatnonzero(part == j)
        logits[own] = parts[j].logits(embeddings[own]) if j < len(parts) else np.nan
    return logits


def fit_probe(moments, centre):
    """Return the Probe of moments taken of embeddings less `centre` (d,).

    The covariance is drawn to a multiple of the identity by d / (d + rows): the fewer the rows, the
    more. A label without positives or without negatives gets its smoothed prior for a logit.
    """
    d, c = moments.of_positive.shape
    rows, positive = moments.rows, moments.positive
    prior = logit((positive + 1) / (rows + 2))
    apart = (positive > 0) & (positive < rows)
    if not apart.any():
        return LinearProbe(centre, np.zeros((d, c), np.float32), prior.astype(np.float32))
    mean, shrink = moments.total / rows, d / (d + rows)
    covariance = moments.square / rows - np.outer(mean, mean)
    scale = max(np.trace(covariance) / d, 1e-12)
    covariance *= 1 - shrink
    covariance[np.diag_indices(d)] += shrink * scale
    share = np.where(apart, positive / max(rows, 1), 0.5)
    of_positive = moments.of_positive / np.maximum(positive, 1)
    of_negative = (moments.total[:, None] - moments.of_positive) / np.maximum(rows - positive, 1)
    between = np.where(apart, of_positive - of_negative, 0)
    weights = cho_solve(cho_factor(covariance), between)
    # the covariance so far holds the distance of the classes, too; Sherman-Morrison takes it out
    # again
    explained = (1 - shrink) * share * (1 - share) * (between * weights).sum(axis=0)
    weights /= np.maximum(1 - explained, 1e-3)
    intercept = prior - ((of_positive + of_negative) / 2 * weights).sum(axis=0)
    return LinearProbe(centre, weights.astype(np.float32), intercept.astype(np.float32))


def _centre(embeddings):
    """Return the mean of the first rows, (d,) float32: squares of what is left lose no digits."""
    first = np.asarray(embeddings[:ROWS], np.float32)
    first = first[~np.isnan(first).any(axis=1)]
    return first.mean(axis=0) if len(first) else np.zeros(embeddings.shape[1], np.float32)


def _batches(n):
    return [slice(start, start + ROWS) for start in range(0, n, ROWS)]
