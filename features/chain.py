"""A two-state Markov chain along each series: bleeds come in runs, and each slice's opinion bears on its neighbours.

A slice is positive or not. Along the slice normal the state changes at constant rates per mm, so that gaps and half steps
count as what they are: over d mm the next state is drawn anew from the share of positives with probability 1 - exp(-rate d).
Each slice's opinion weighs as its calibrated odds over the prior odds, to a power in [0, 1] (the temper): errors of one CNN on
neighbouring slices are alike, and count for less than if they were independent. Forward-backward (Rabiner, Proc. IEEE 77(2),
1989), in odds, gives the exact posterior. A slice without an opinion says nothing, but has a posterior like any other.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from ct.labels import LABELS
from features.series import by_place

NEAREST_MM = 0.1  # slices nearer than this count as so far apart: two at one place may still have different labels
USUAL_MM = 5.0  # distance of the pseudo-counts
STRONGEST = 30.0  # logit beyond which an opinion says no more
TEMPERS = (0.2, 0.4, 0.6, 0.8, 1.0)  # tried first; then one a step of 0.1 below and above the best


class Chain(NamedTuple):
    """One label's chain."""

    slope: float  # calibrated logit = slope * logit + intercept
    intercept: float
    prior: float  # logit of the share of positives among the slices it was fitted on
    temper: float  # power of the likelihood ratio, [0, 1]
    first: float  # probability that the lowest slice of a series is positive
    share: float  # of positives in the long run
    rate: float  # 1 / mm; 1 / rate is how far a slice's state is remembered

    def evidence(self, logits):
        """Return the log likelihood ratio that raw logits stand for; 0 where there is none."""
        ratio = self.slope * np.asarray(logits, np.float64) + self.intercept - self.prior
        return self.temper * np.where(np.isnan(ratio), 0, np.clip(ratio, -STRONGEST, STRONGEST))


class Walk:
    """The series of a slice table, ready to be walked up and down, all labels at once."""

    def __init__(self, slices, first, share, rate):
        """slices: (n rows) slice table, sorted; first, share, rate: (c,) of the chains."""
        self.order, self.bounds = by_place(slices)
        self.first, share = np.reshape(first, (-1, 1)), np.reshape(share, (-1, 1))
        kept = np.exp(-np.reshape(rate, (-1, 1)) * gaps_below(slices)[self.order])
        self.up, self.down = share * (1 - kept), (1 - share) * (1 - kept)  # from 0 to 1 and from 1 to 0, from the slice below
        self.kept = kept

    def posterior(self, evidence):
        """Return the posterior logits (n, c) of the evidence (n, c), log likelihood ratios."""
        weight = np.exp(evidence.T[:, self.order])
        steps = list(zip(self.bounds[:-1], self.bounds[1:], strict=True))
        forward, backward = np.empty_like(weight), np.ones_like(weight)
        for p, (start, end) in enumerate(steps):  # odds of the state given the slices up to here
            up, down, kept = (part[:, start:end] for part in (self.up, self.down, self.kept))
            if p == 0:
                odds = self.first / (1 - self.first)
            else:
                before = forward[:, steps[p - 1][0] :][:, : end - start]
                odds = (up + (up + kept) * before) / (down + kept + down * before)
            np.multiply(weight[:, start:end], odds, out=forward[:, start:end])
        for p in range(len(steps) - 1, 0, -1):  # how much likelier the slices above are if this one is positive
            start, end = steps[p]
            up, down, kept = (part[:, start:end] for part in (self.up, self.down, self.kept))
            above = weight[:, start:end] * backward[:, start:end]
            backward[:, steps[p - 1][0] :][:, : end - start] = (down + (up + kept) * above) / (down + kept + up * above)
        found = np.empty_like(weight)
        found[:, self.order] = np.log(forward) + np.log(backward)
        return found.T


def gaps_below(slices):
    """Return the distance (n,) of each slice from the one below, at least NEAREST_MM; that of the lowest is NEAREST_MM."""
    gap = np.diff(np.asarray(slices["position_mm"]), prepend=0)
    gap[np.asarray(slices["place"]) == 0] = 0
    return np.maximum(gap, NEAREST_MM)


def chain_logits(slices, logits, chains):
    """Return the posterior logits, float32 (n, c), of raw logits (n, c) by c chains."""
    evidence = np.column_stack([chain.evidence(column) for chain, column in zip(chains, logits.T, strict=True)])
    walk = Walk(slices, *np.transpose([(chain.first, chain.share, chain.rate) for chain in chains]))
    return walk.posterior(evidence).astype(np.float32)


def cross_fit_chain(slices, logits, y, fold, folds):
    """Return the posterior logits of every row by chains that are fitted on the patients of the other folds.

    slices: (n rows) sorted slice table; logits: (n, 6) float32, columns LABELS; y: (n, 6) 0, 1 or NaN where unlabelled;
    fold: (n,) 0 ... folds-1, patients whole

    Returns (columns, chains): (n, 6) float32, and the chains {label: Chain} without each fold, then, last, those of all rows.
    """
    slices = slices[["place", "series_slices", "position_mm"]]
    columns, fitted = np.full(logits.shape, np.nan, np.float32), []
    for k in range(folds + 1):
        fit, held = fold != k, fold == k
        fitted.append(fit_chains(slices[fit], logits[fit], y[fit]))
        columns[held] = chain_logits(slices[held], logits[held], fitted[-1])
    return columns, [dict(zip(LABELS, chains, strict=True)) for chains in fitted]


def fit_chains(slices, logits, y):
    """Fit one Chain a label: calibration, rates of change, and the temper whose posteriors have the least log loss.

    Returns a list of c.
    """
    lowest = np.asarray(slices["place"]) == 0
    plain = []
    for x, labels in zip(logits.T, y.T, strict=True):
        prior = logit(_share(labels))
        plain.append(Chain(*_calibration(x, labels, prior), prior, 1.0, _share(labels[lowest]), *_rates(slices, labels)))
    walk = Walk(slices, *np.transpose([(chain.first, chain.share, chain.rate) for chain in plain]))
    whole = np.column_stack([chain.evidence(x) for chain, x in zip(plain, logits.T, strict=True)])
    known = ~np.isnan(y)
    sign, count = np.where(known, 1 - 2 * np.nan_to_num(y), 0), np.maximum(known.sum(axis=0), 1)

    def loss(temper):
        return np.where(known, np.logaddexp(0, sign * walk.posterior(whole * temper)), 0).sum(axis=0) / count

    tried = [np.full(len(plain), temper) for temper in TEMPERS]
    losses = [loss(temper) for temper in tried]
    best = np.take_along_axis(np.array(tried), np.argmin(losses, axis=0)[None], axis=0)[0]
    for near in (np.round(best - 0.1, 1), np.minimum(np.round(best + 0.1, 1), 1.0)):
        tried.append(near)
        losses.append(loss(near))
    best = np.take_along_axis(np.array(tried), np.argmin(losses, axis=0)[None], axis=0)[0]
    return [chain._replace(temper=float(temper)) for chain, temper in zip(plain, best, strict=True)]


def _share(labels):
    """Share of positives among labels of 0, 1 and NaN, smoothed as Laplace did."""
    known = ~np.isnan(labels)
    return float((labels[known].sum() + 1) / (known.sum() + 2))


def _calibration(x, labels, prior, bins=2000):
    """Slope (0 or more) and intercept of a logistic regression of the labels on x, drawn a little to slope 1.

    It sees a histogram of x: with so fine a one the answer is the same, and the number of rows does not matter.
    """
    known = ~np.isnan(x) & ~np.isnan(labels)
    x, labels = np.asarray(x[known], np.float64), labels[known]
    if not 0 < labels.sum() < len(labels):
        return 0.0, prior
    low, high = x.min(), max(x.max(), x.min() + 1e-6)
    number = np.minimum(((x - low) / (high - low) * bins).astype(int), bins - 1)
    rows, positive = np.bincount(number, minlength=bins), np.bincount(number, labels, minlength=bins)
    middle = np.bincount(number, x, minlength=bins) / np.maximum(rows, 1)

    def loss(weights):
        z = weights[0] * middle + weights[1]
        return ((rows * np.logaddexp(0, z) - positive * z).sum() + 2 * (weights[0] - 1) ** 2) / len(x)

    slope, intercept = _least(loss, [1.0, 0.0], [(0, None), (None, None)])
    return slope, intercept


def _rates(slices, labels):
    """Share and rate (1 / mm) under which the labels of neighbouring slices are likeliest.

    Pairs are counted by distance, to 0.1 mm, with half a change and half a stay of each kind added at USUAL_MM.
    """
    follows = (np.asarray(slices["place"])[1:] > 0) & ~np.isnan(labels[1:]) & ~np.isnan(labels[:-1])
    gap = np.append(np.round(gaps_below(slices)[1:][follows], 1), [USUAL_MM] * 4)
    kind = np.append((2 * labels[:-1] + labels[1:])[follows].astype(int), range(4))
    distances, number = np.unique(gap, return_inverse=True)
    counts = np.bincount(4 * number + kind, np.append(np.ones(len(gap) - 4), [0.5] * 4), minlength=4 * len(distances))
    stay_0, rise, fall, stay_1 = counts.reshape(-1, 4).T

    def loss(weights):
        share, kept = expit(weights[0]), np.exp(-np.exp(weights[1]) * distances)
        up, down = share * (1 - kept), (1 - share) * (1 - kept)
        logs = rise * np.log(up) + fall * np.log(down) + stay_0 * np.log1p(-up) + stay_1 * np.log1p(-down)
        return -logs.sum() / len(gap)

    share, rate = _least(loss, [logit(_share(labels)), np.log(0.03)], [(-14, 14), (-9, 2)])
    return float(expit(share)), float(np.exp(rate))


def _least(loss, start, bounds):
    """Return the two numbers of least loss. Nelder and Mead's way: two dimensions need no BLAS, which is slow to wake."""
    precise = {"xatol": 1e-6, "fatol": 1e-10, "maxiter": 400}
    return map(float, minimize(loss, start, method="Nelder-Mead", bounds=bounds, options=precise).x)
