"""Fit the Markov chains of features/markov.py: calibration, transition rates, temperature."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from ct.labels import LABELS
from features.markov import (
    MarkovChain,
    block_log_ratios,
    gaps_below,
    posterior_logits,
    series_blocks,
)

TEMPERATURES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # candidates
PSEUDO_GAP_MM = 5.0  # distance of the pseudo-counts of _rates
CALIBRATION_BINS = 1000
WIDEST = 60.0  # largest |logit| of the histogram: a wilder one, alone, would widen all of its bins


def cross_fit_chains(
    slices: pd.DataFrame,
    logits: NDArray[np.float32],
    y: NDArray[np.floating],
    fold: NDArray[np.integer],
    folds: int,
) -> tuple[NDArray[np.float32], list[dict[str, MarkovChain]]]:
    """Return the posterior logits of every row under chains fitted on the other folds.

    slices: (n rows) sorted slice table; logits: (n, 6), columns LABELS; y: (n, 6) 0, 1 or NaN where
    unlabelled; fold: (n,) 0 ... folds-1, with each patient in one fold

    Returns (posterior, chains): (n, 6), and folds + 1 dicts {label: MarkovChain}, fitted without
    each fold and, last, on all rows.
    """
    slices = slices[["place", "series_slices", "position_mm"]]
    posterior = np.full(logits.shape, np.nan, np.float32)
    fitted = []
    for k in range(folds + 1):  # no row is in fold `folds`, so the last fit uses all rows
        fit, held_out = fold != k, fold == k
        chains = fit_chains(slices[fit], logits[fit], y[fit])
        posterior[held_out] = posterior_logits(slices[held_out], logits[held_out], chains)
        fitted.append(dict(zip(LABELS, chains, strict=True)))
    return posterior, fitted


def fit_chains(
    slices: pd.DataFrame, logits: NDArray[np.float32], y: NDArray[np.floating]
) -> list[MarkovChain]:
    """Fit one chain per label, c in all. The temperature is the one with the lowest log loss.

    slices: (n rows) sorted slice table; logits: (n, c); y: (n, c) 0, 1 or NaN where unlabelled
    """
    lowest = np.asarray(slices["place"]) == 0
    chains = []
    for x, labels in zip(logits.T, y.T, strict=True):
        prior = logit(_positive_share(labels))
        slope, intercept = _calibration(x, labels, prior)
        share, rate = _rates(slices, labels)
        first = _positive_share(labels[lowest])
        chains.append(MarkovChain(slope, intercept, prior, 1.0, first, share, rate))
    temperatures = _best_temperatures(slices, logits, y, chains)
    return [
        chain._replace(temperature=temperature)
        for chain, temperature in zip(chains, temperatures, strict=True)
    ]


def _best_temperatures(
    slices: pd.DataFrame,
    logits: NDArray[np.float32],
    y: NDArray[np.floating],
    chains: Sequence[MarkovChain],
) -> list[float]:
    """Return the temperature of TEMPERATURES with the lowest log loss, for each chain."""
    blocks = []
    for rows, block in series_blocks(slices, chains):
        labels = y[rows][block.order].T
        log_ratios = block_log_ratios(logits[rows], block.order, chains)
        blocks.append((block, log_ratios, labels == 1, ~np.isnan(labels)))

    def total_loss(temperature: float) -> NDArray[np.float64]:
        total = np.zeros(len(chains))
        temperatures = np.full(len(chains), temperature)
        for block, log_ratios, positive, known in blocks:
            odds_of_wrong = block.posterior_odds(log_ratios, temperatures)
            np.divide(1, odds_of_wrong, out=odds_of_wrong, where=positive)
            total += np.log(1 + odds_of_wrong).sum(axis=1, where=known, dtype=np.float64)
        return total

    losses = [total_loss(temperature) for temperature in TEMPERATURES]
    return [TEMPERATURES[best] for best in np.argmin(losses, axis=0)]


def _positive_share(labels: NDArray[np.floating]) -> float:
    """Return the share of positives among labels of 0, 1 and NaN, Laplace-smoothed."""
    known = ~np.isnan(labels)
    return float((labels[known].sum() + 1) / (known.sum() + 2))


def _calibration(
    x: NDArray[np.float32], labels: NDArray[np.floating], prior: float
) -> tuple[float, float]:
    """Return slope (0 or more) and intercept of a logistic regression of the labels on x.

    The slope is regularised towards 1. The fit uses a histogram of x, so that the time does not
    grow with the number of rows; its bins are so narrow that the result hardly changes.
    """
    known = ~np.isnan(x) & ~np.isnan(labels)
    labels = labels[known]
    if not 0 < labels.sum() < len(labels):
        return 0.0, prior
    known_x = np.clip(np.asarray(x[known], np.float64), -WIDEST, WIDEST)
    rows, positive, middle = _histogram(known_x, labels, CALIBRATION_BINS)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = weights[0] * middle + weights[1]
        return (rows * np.logaddexp(0, z) - positive * z).sum() + 2 * (weights[0] - 1) ** 2, z

    weights = np.array([1.0, 0.0])
    current, z = loss(weights)
    for _ in range(50):  # Newton steps, halved until the loss falls; the loss is convex
        step = _newton_step(weights[0], expit(z), rows, positive, middle)
        while (trial := loss(weights - step))[0] > current and np.abs(step).max() > 1e-7:
            step /= 2
        weights, (current, z) = weights - step, trial
        if np.abs(step).max() < 1e-6:
            break
    return (float(weights[0]), float(weights[1])) if weights[0] > 0 else (0.0, prior)


def _histogram(
    x: NDArray[np.float64], labels: NDArray[np.floating], bins: int
) -> tuple[NDArray[np.integer], NDArray, NDArray[np.float64]]:
    """Return rows, positives and mean x of each of `bins` bins of equal width, (bins,) each."""
    low, high = x.min(), max(x.max(), x.min() + 1e-6)
    number = np.minimum(((x - low) / (high - low) * bins).astype(int), bins - 1)
    rows = np.bincount(number, minlength=bins)
    positive = np.bincount(number, labels, minlength=bins)
    return rows, positive, np.bincount(number, x, minlength=bins) / np.maximum(rows, 1)


def _newton_step(
    slope: float,
    p: NDArray[np.float64],
    rows: NDArray[np.integer],
    positive: NDArray,
    middle: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the Newton step (2,) of slope and intercept for the loss of _calibration."""
    residual, curvature = rows * p - positive, rows * p * (1 - p)
    gradient = np.array([(residual * middle).sum() + 4 * (slope - 1), residual.sum()])
    # Hessian [[a, b], [b, c]], inverted by hand
    a, b = (curvature * middle**2).sum() + 4, (curvature * middle).sum()
    c = curvature.sum() + 1e-9
    adjugate = np.array([c * gradient[0] - b * gradient[1], a * gradient[1] - b * gradient[0]])
    return adjugate / (a * c - b * b)


def _rates(slices: pd.DataFrame, labels: NDArray[np.floating]) -> tuple[float, float]:
    """Return the share and rate (1 / mm) with the highest likelihood of the adjacent labels.

    Pairs of adjacent slices are counted by distance, rounded to 0.1 mm. As pseudo-counts, half a
    pair of each of the four kinds is added at PSEUDO_GAP_MM.
    """
    known = ~np.isnan(labels)
    adjacent = (np.asarray(slices["place"])[1:] > 0) & known[1:] & known[:-1]
    gap = np.append(np.round(gaps_below(slices)[1:][adjacent], 1), [PSEUDO_GAP_MM] * 4)
    kind = np.append((2 * labels[:-1] + labels[1:])[adjacent].astype(int), range(4))
    weight = np.append(np.ones(len(gap) - 4), [0.5] * 4)
    distances, number = np.unique(gap, return_inverse=True)
    counts = np.bincount(4 * number + kind, weight, minlength=4 * len(distances))
    stay_0, rise, fall, stay_1 = counts.reshape(-1, 4).T

    def loss(weights: NDArray[np.float64]) -> float:
        share, unchanged = expit(weights[0]), np.exp(-np.exp(weights[1]) * distances)
        up, down = share * (1 - unchanged), (1 - share) * (1 - unchanged)
        log_likelihoods = (
            rise * np.log(up)
            + fall * np.log(down)
            + stay_0 * np.log1p(-up)
            + stay_1 * np.log1p(-down)
        )
        return -log_likelihoods.sum() / len(gap)

    start = [logit(_positive_share(labels)), np.log(0.03)]
    optimum = minimize(
        loss,
        start,
        method="Nelder-Mead",
        bounds=[(-14, 14), (-9, 2)],
        options={"xatol": 1e-4, "fatol": 1e-8},
    ).x
    return float(expit(optimum[0])), float(np.exp(optimum[1]))
