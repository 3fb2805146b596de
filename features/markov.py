"""A two-state Markov chain along each series: bleeds come in runs, and each slice's opinion bears
on its neighbours.

A slice is positive or not. Along the slice normal the state changes at constant rates per mm, so
that gaps and half steps count as what they are: over d mm the next state is drawn anew from the
share of positives with probability 1 - exp(-rate d). Each slice's opinion weighs as its calibrated
odds over the prior odds; in what it tells its neighbours, to a power in [0, 1] (the temper): errors
of one CNN on neighbouring slices are alike, and count for far less than if they were independent.
On itself it counts in full: with a temper of 0 the chain is the calibrated opinion.
Forward-backward (Rabiner, Proc. IEEE 77(2), 1989), in odds, gives the exact posterior. A slice
without an opinion says nothing, but has a posterior like any other.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from ct.labels import LABELS
from features.series import rows_by_place

# slices nearer than this count as so far apart: two at one place may still have different labels
NEAREST_MM = 0.1
USUAL_MM = 5.0  # distance of the pseudo-counts
STRONGEST = 30.0  # logit beyond which an opinion says no more
TEMPERS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # that are tried
ROWS = 32_768  # walked at once, about


class MarkovChain(NamedTuple):
    """One label's chain."""

    slope: float  # calibrated logit = slope * logit + intercept
    intercept: float
    prior: float  # logit of the share of positives among the slices it was fitted on
    temperature: float  # power of the likelihood ratio in what a slice tells the others, [0, 1]
    first: float  # probability that the lowest slice of a series is positive
    share: float  # of positives in the long run
    rate: float  # 1 / mm; 1 / rate is how far a slice's state is remembered

    def to_json(self) -> dict[str, float]:
        """Return the fields as in chain.json, where `temperature` is called "temper"."""
        return {
            "temper" if name == "temperature" else name: value
            for name, value in self._asdict().items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, float]) -> "MarkovChain":
        """Return the chain whose fields `values` are, as in chain.json."""
        fields = dict(values)
        return cls(temperature=fields.pop("temper"), **fields)

    def evidence(self, logits):
        """Return the log likelihood ratio, float32, that raw logits stand for; 0 where there is
        none.
        """
        ratio = self.slope * np.asarray(logits, np.float64) + self.intercept - self.prior
        return np.where(np.isnan(ratio), 0, np.clip(ratio, -STRONGEST, STRONGEST)).astype(
            np.float32
        )


class Walk:
    """Some series of a slice table, ready to be walked up and down, all labels at once."""

    def __init__(self, places, chains):
        """places: {"place", "series_slices", "position_mm"} of (n,) rows, series whole; chains: c
        of Chain.
        """
        self.order, self.bounds = rows_by_place(places)
        first, share, rate = (
            np.array([[getattr(chain, name)] for chain in chains])
            for name in ("first", "share", "rate")
        )
        self.first = (first / (1 - first)).astype(np.float32)
        # from the slice below; float64, as it may be next to 0
        anew = -np.expm1(-rate * gaps_below(places)[self.order])
        chances = share * anew, 1 - (1 - share) * anew, 1 - share * anew, (1 - share) * anew
        self.rise, self.stay_1, self.stay_0, self.fall = (
            chance.astype(np.float32) for chance in chances
        )

    def posterior(self, evidence, tempers):
        """Return the posterior odds (c, n) given log likelihood ratios (c, n), both float32 and in
        the order of the walk, of which the slices tell each other `tempers` (c,) times as much.

        Nothing is subtracted from odds here, so that float32 is precise enough; STRONGEST keeps
        them in range.
        """
        tempers = np.asarray(tempers, np.float32)[:, None]
        return self._walk(np.exp(tempers * evidence)) * np.exp((1 - tempers) * evidence)

    def _walk(self, weight):
        """Return the posterior odds (c, n) given likelihood ratios (c, n)."""
        steps = list(zip(self.bounds[:-1], self.bounds[1:], strict=True))
        found, later = np.empty_like(weight), np.ones_like(weight)
        for p, (start, end) in enumerate(steps):  # odds of the state given the slices up to here
            here, odds = slice(start, end), self.first
            if p:
                before = found[:, steps[p - 1][0] :][:, : end - start]
                odds = (self.rise[:, here] + self.stay_1[:, here] * before) / (
                    self.stay_0[:, here] + self.fall[:, here] * before
                )
            np.multiply(weight[:, here], odds, out=found[:, here])
        # how much likelier the slices above are if this one is positive
        for p in range(len(steps) - 1, 0, -1):
            here, below = slice(*steps[p]), steps[p - 1][0]
            above = weight[:, here] * later[:, here]
            ratio = (self.fall[:, here] + self.stay_1[:, here] * above) / (
                self.stay_0[:, here] + self.rise[:, here] * above
            )
            later[:, below : below + ratio.shape[1]] = ratio
        found *= later
        return found


def walks(slices, chains):
    """Yield (rows, Walk) of about ROWS rows of whole series at a time: what a walk touches stays in
    the processor's cache.
    """
    places = {name: np.asarray(slices[name]) for name in ("place", "series_slices", "position_mm")}
    starts = np.append(np.flatnonzero(places["place"] == 0), len(places["place"]))
    bounds = np.unique(
        starts[np.searchsorted(starts, np.append(np.arange(0, starts[-1], ROWS), starts[-1]))]
    )
    for rows in map(slice, bounds[:-1], bounds[1:]):
        yield rows, Walk({name: values[rows] for name, values in places.items()}, chains)


def gaps_below(slices):
    """Return the distance (n,) of each slice from the one below, at least NEAREST_MM; that of the
    lowest is NEAREST_MM.
    """
    gap = np.diff(np.asarray(slices["position_mm"]), prepend=0)
    gap[np.asarray(slices["place"]) == 0] = 0
    return np.maximum(gap, NEAREST_MM)


def posterior_logits(slices, logits, chains):
    """Return the posterior logits, float32 (n, c), of raw logits (n, c) by c chains."""
    found = np.empty(logits.shape, np.float32)
    for rows, walk in walks(slices, chains):
        evidence = np.stack(
            [chain.evidence(x) for chain, x in zip(chains, logits[rows][walk.order].T, strict=True)]
        )
        found[rows][walk.order] = np.log(
            walk.posterior(evidence, [chain.temperature for chain in chains])
        ).T
    return found


def held_out_posterior_logits(
    slices, logits: np.ndarray, fold: np.ndarray, chains: list
) -> np.ndarray:
    """Return the posterior logits, float32 (n, c), of raw logits (n, c) by chains not fitted on
    these rows' own patients.

    slices: sorted slice table, series whole; fold: (n,) int, the fold in train of each row's
    patient, -1 for a patient who is not in train; chains: K + 1 lists of c Chains, without each
    fold and, last, of all folds
    """
    columns = posterior_logits(slices, logits, chains[-1])
    for k in np.unique(fold[fold >= 0]):
        own = fold == k
        columns[own] = posterior_logits(slices[own], logits[own], chains[k])
    return columns


def cross_fit_chains(slices, logits, y, fold, folds):
    """Return the posterior logits of every row by chains that are fitted on the patients of the
    other folds.

    slices: (n rows) sorted slice table; logits: (n, 6) float32, columns LABELS; y: (n, 6) 0, 1 or
    NaN where unlabelled; fold: (n,) 0 ... folds-1, patients whole

    Returns (columns, chains): (n, 6) float32, and the chains {label: Chain} without each fold,
    then, last, those of all rows.
    """
    slices = slices[["place", "series_slices", "position_mm"]]
    columns, fitted = np.full(logits.shape, np.nan, np.float32), []
    for k in range(folds + 1):
        fit, held = fold != k, fold == k
        fitted.append(fit_chains(slices[fit], logits[fit], y[fit]))
        columns[held] = posterior_logits(slices[held], logits[held], fitted[-1])
    return columns, [dict(zip(LABELS, chains, strict=True)) for chains in fitted]


def fit_chains(slices, logits, y):
    """Fit one Chain a label: calibration, rates of change, and the temper whose posteriors have the
    least log loss.

    Returns a list of c.
    """
    lowest = np.asarray(slices["place"]) == 0
    plain = []
    for x, labels in zip(logits.T, y.T, strict=True):
        prior = logit(_share(labels))
        plain.append(
            MarkovChain(
                *_calibration(x, labels, prior),
                prior,
                1.0,
                _share(labels[lowest]),
                *_rates(slices, labels),
            )
        )
    tempers = _best_tempers(slices, logits, y, plain)
    return [
        chain._replace(temperature=temperature)
        for chain, temperature in zip(plain, tempers, strict=True)
    ]


def _best_tempers(slices, logits, y, chains):
    """Return the temper (c,) of each chain whose posteriors have the least log loss on the labelled
    rows.
    """
    ready = []
    for rows, walk in walks(slices, chains):
        evidence = np.stack(
            [chain.evidence(x) for chain, x in zip(chains, logits[rows][walk.order].T, strict=True)]
        )
        labels = y[rows][walk.order].T
        ready.append((walk, evidence, labels == 1, ~np.isnan(labels)))

    def loss(temperature):
        total = np.zeros(len(chains))
        for walk, evidence, positive, known in ready:
            # odds of the other label than the true one
            wrong = walk.posterior(evidence, np.full(len(chains), temperature))
            np.divide(1, wrong, out=wrong, where=positive)
            total += np.log(1 + wrong).sum(axis=1, where=known, dtype=np.float64)
        return total

    return [
        TEMPERS[best] for best in np.argmin([loss(temperature) for temperature in TEMPERS], axis=0)
    ]


def _share(labels):
    """Share of positives among labels of 0, 1 and NaN, smoothed as Laplace did."""
    known = ~np.isnan(labels)
    return float((labels[known].sum() + 1) / (known.sum() + 2))


def _calibration(x, labels, prior, bins=1000):
    """Slope (0 or more) and intercept of a logistic regression of the labels on x, drawn a little
    to slope 1.

    It sees a histogram of x: with so fine a one the answer is the same, and the number of rows does
    not matter.
    """
    known = ~np.isnan(x) & ~np.isnan(labels)
    x, labels = np.asarray(x[known], np.float64), labels[known]
    if not 0 < labels.sum() < len(labels):
        return 0.0, prior
    low, high = x.min(), max(x.max(), x.min() + 1e-6)
    number = np.minimum(((x - low) / (high - low) * bins).astype(int), bins - 1)
    rows, positive = (
        np.bincount(number, minlength=bins),
        np.bincount(number, labels, minlength=bins),
    )
    middle = np.bincount(number, x, minlength=bins) / np.maximum(rows, 1)

    def loss(weights):
        z = weights[0] * middle + weights[1]
        return (rows * np.logaddexp(0, z) - positive * z).sum() + 2 * (weights[0] - 1) ** 2, z

    weights, (now, z) = np.array([1.0, 0.0]), loss([1.0, 0.0])
    for _ in range(50):  # Newton's steps, halved until the loss falls; it is convex
        p = expit(z)
        off, bend = rows * p - positive, rows * p * (1 - p)
        slope = np.array([(off * middle).sum() + 4 * (weights[0] - 1), off.sum()])
        a, b, c = (bend * middle**2).sum() + 4, (bend * middle).sum(), bend.sum() + 1e-9
        step = np.array([c * slope[0] - b * slope[1], a * slope[1] - b * slope[0]]) / (
            a * c - b * b
        )
        while (tried := loss(weights - step))[0] > now and np.abs(step).max() > 1e-7:
            step /= 2
        weights, (now, z) = weights - step, tried
        if np.abs(step).max() < 1e-6:
            break
    return (float(weights[0]), float(weights[1])) if weights[0] > 0 else (0.0, prior)


def _rates(slices, labels):
    """Share and rate (1 / mm) under which the labels of neighbouring slices are likeliest.

    Pairs are counted by distance, to 0.1 mm, with half a change and half a stay of each kind added
    at USUAL_MM.
    """
    follows = (np.asarray(slices["place"])[1:] > 0) & ~np.isnan(labels[1:]) & ~np.isnan(labels[:-1])
    gap = np.append(np.round(gaps_below(slices)[1:][follows], 1), [USUAL_MM] * 4)
    kind = np.append((2 * labels[:-1] + labels[1:])[follows].astype(int), range(4))
    distances, number = np.unique(gap, return_inverse=True)
    counts = np.bincount(
        4 * number + kind, np.append(np.ones(len(gap) - 4), [0.5] * 4), minlength=4 * len(distances)
    )
    stay_0, rise, fall, stay_1 = counts.reshape(-1, 4).T

    def loss(weights):
        share, kept = expit(weights[0]), np.exp(-np.exp(weights[1]) * distances)
        up, down = share * (1 - kept), (1 - share) * (1 - kept)
        logs = (
            rise * np.log(up)
            + fall * np.log(down)
            + stay_0 * np.log1p(-up)
            + stay_1 * np.log1p(-down)
        )
        return -logs.sum() / len(gap)

    start, bounds = [logit(_share(labels)), np.log(0.03)], [(-14, 14), (-9, 2)]
    share, rate = minimize(
        loss, start, method="Nelder-Mead", bounds=bounds, options={"xatol": 1e-4, "fatol": 1e-8}
    ).x
    return float(expit(share)), float(np.exp(rate))
