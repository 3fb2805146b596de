"""Two-state Markov chain along each series, applied to logits: positive slices come in runs.

Each slice is positive or negative. The chain runs along the slice normal in continuous distance, so
that gaps and half steps count by their length: over d mm the state is redrawn with probability
1 - exp(-rate d), and a redrawn state is positive with probability `share`. The observation of a
slice is the likelihood ratio of its calibrated logit: calibrated odds over prior odds. The forward-
backward algorithm (Rabiner, Proc. IEEE 77(2), 1989) gives the exact posterior of each slice, here
in odds. A slice without a logit has a likelihood ratio of 1 and a posterior like any other.

The errors of a CNN on neighbouring slices are correlated, so a neighbour counts for less than an
independent observation would: its likelihood ratio is raised to the power `temperature`, in [0, 1].
A slice's own likelihood ratio counts in full. At temperature 0 the posterior is the calibrated
logit of the slice alone.

features/markov_fitting.py fits the parameters.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from features.series import SliceTable, rows_by_place

# Smallest distance between slices: two slices at one position may still have different labels.
MIN_GAP_MM = 0.1
MAX_LOG_RATIO = 30.0  # log likelihood ratios are clipped at +- this
BLOCK_ROWS = 32_768  # rows at once, about; they fit into the processor's cache


class MarkovChain(NamedTuple):
    """The parameters of one label."""

    slope: float  # calibrated logit = slope * logit + intercept
    intercept: float
    prior: float  # logit of the share of positives among the slices it was fitted on
    temperature: float  # exponent of the neighbours' likelihood ratios, [0, 1]
    first: float  # probability that the lowest slice of a series is positive
    share: float  # stationary probability of the positive state
    rate: float  # 1 / mm; states are correlated over about 1 / rate

    def to_json(self) -> dict[str, float]:
        """Return the fields as in chain.json, where `temperature` is called "temper"."""
        return {
            "temper" if name == "temperature" else name: value
            for name, value in self._asdict().items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, float]) -> "MarkovChain":
        """Return the chain with the fields `values`, named as in chain.json."""
        fields = dict(values)
        return cls(temperature=fields.pop("temper"), **fields)

    def log_ratios(self, logits: ArrayLike) -> NDArray[np.float32]:
        """Return the log likelihood ratios of uncalibrated logits (n,); 0 where a logit is NaN."""
        ratio = self.slope * np.asarray(logits, np.float64) + self.intercept - self.prior
        clipped = np.clip(ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)
        return np.where(np.isnan(ratio), 0, clipped).astype(np.float32)


class ForwardBackward:
    """Forward-backward over whole series, for all labels; one step is one place of all series."""

    def __init__(self, slices: SliceTable, chains: Sequence[MarkovChain]) -> None:
        """Compute the transition probabilities of c chains over the gaps of the slices.

        slices: columns place, series_slices and position_mm, (n,) each; series are complete
        """
        self.order, self.bounds = rows_by_place(slices)
        first = np.array([[chain.first] for chain in chains])  # (c, 1)
        share = np.array([[chain.share] for chain in chains])
        rate = np.array([[chain.rate] for chain in chains])
        self.first_odds = (first / (1 - first)).astype(np.float32)
        # (c, n) probability of a redraw since the slice below; float64, since it can be close to 0
        redrawn = -np.expm1(-rate * gaps_below(slices)[self.order])
        self.rise = (share * redrawn).astype(np.float32)  # negative to positive
        self.stay_1 = (1 - (1 - share) * redrawn).astype(np.float32)
        self.stay_0 = (1 - share * redrawn).astype(np.float32)
        self.fall = ((1 - share) * redrawn).astype(np.float32)  # positive to negative

    def posterior_odds(
        self, log_ratios: NDArray[np.float32], temperatures: ArrayLike
    ) -> NDArray[np.float32]:
        """Return the posterior odds (c, n) of all slices, in the order of `self.order`.

        log_ratios: (c, n) log likelihood ratios in the same order; temperatures: (c,)

        Odds are only multiplied, added and divided, never subtracted, so that float32 is precise
        enough. MAX_LOG_RATIO keeps them in range.
        """
        exponent = np.asarray(temperatures, np.float32)[:, None]
        ratios = np.exp(exponent * log_ratios)
        odds = self._forward(ratios)
        odds *= self._backward(ratios)
        return odds * np.exp((1 - exponent) * log_ratios)

    def _forward(self, ratios: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the odds (c, n) of each slice given the ratios (c, n) up to this slice."""
        odds = np.empty_like(ratios)
        for p, start in enumerate(self.bounds[:-1]):
            end = self.bounds[p + 1]
            here, prior = slice(start, end), self.first_odds
            if p:
                below = odds[:, self.bounds[p - 1] :][:, : end - start]
                prior = (self.rise[:, here] + self.stay_1[:, here] * below) / (
                    self.stay_0[:, here] + self.fall[:, here] * below
                )
            np.multiply(ratios[:, here], prior, out=odds[:, here])
        return odds

    def _backward(self, ratios: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the likelihood ratio (c, n) of each slice from the ratios of the slices above."""
        later = np.ones_like(ratios)
        for p in range(len(self.bounds) - 2, 0, -1):
            here, below = slice(self.bounds[p], self.bounds[p + 1]), self.bounds[p - 1]
            above = ratios[:, here] * later[:, here]
            ratio = (self.fall[:, here] + self.stay_1[:, here] * above) / (
                self.stay_0[:, here] + self.rise[:, here] * above
            )
            later[:, below : below + ratio.shape[1]] = ratio
        return later


def series_blocks(
    slices: SliceTable, chains: Sequence[MarkovChain]
) -> Iterator[tuple[slice, ForwardBackward]]:
    """Yield (rows, ForwardBackward) of about BLOCK_ROWS rows of complete series at a time."""
    columns = {name: np.asarray(slices[name]) for name in ("place", "series_slices", "position_mm")}
    starts = np.append(np.flatnonzero(columns["place"] == 0), len(columns["place"]))
    targets = np.append(np.arange(0, starts[-1], BLOCK_ROWS), starts[-1])
    bounds = np.unique(starts[np.searchsorted(starts, targets)])
    for rows in map(slice, bounds[:-1], bounds[1:]):
        block = {name: column[rows] for name, column in columns.items()}
        yield rows, ForwardBackward(block, chains)


def block_log_ratios(
    logits: NDArray[np.float32], order: NDArray[np.int64], chains: Sequence[MarkovChain]
) -> NDArray[np.float32]:
    """Return the log likelihood ratios (c, m) of a block's logits (m, c), in the order `order`."""
    columns = logits[order].T
    return np.stack([chain.log_ratios(x) for chain, x in zip(chains, columns, strict=True)])


def gaps_below(slices: SliceTable) -> NDArray[np.float64]:
    """Return the distance (n,) of each slice from the one below in mm, at least MIN_GAP_MM.

    The lowest slice of a series has MIN_GAP_MM.
    """
    gap = np.diff(np.asarray(slices["position_mm"]), prepend=0)
    gap[np.asarray(slices["place"]) == 0] = 0
    return np.maximum(gap, MIN_GAP_MM)


def posterior_logits(
    slices: SliceTable, logits: NDArray[np.float32], chains: Sequence[MarkovChain]
) -> NDArray[np.float32]:
    """Return the posterior logits, (n, c), of uncalibrated logits (n, c) under c chains.

    slices: (n rows) slice table, sorted by series and place, series complete
    """
    temperatures = [chain.temperature for chain in chains]
    posterior = np.empty(logits.shape, np.float32)
    for rows, block in series_blocks(slices, chains):
        log_ratios = block_log_ratios(logits[rows], block.order, chains)
        odds = block.posterior_odds(log_ratios, temperatures)
        posterior[rows][block.order] = np.log(odds).T
    return posterior


def held_out_posterior_logits(
    slices: pd.DataFrame,
    logits: NDArray[np.float32],
    fold: NDArray[np.integer],
    chains: Sequence[Sequence[MarkovChain]],
) -> NDArray[np.float32]:
    """Return posterior logits, (n, c), under chains that were not fitted on the row's patient.

    slices: (n rows) slice table, sorted, series complete
    logits: (n, c), uncalibrated
    fold:   (n,) int, the training fold of each row's patient, -1 for a patient outside train
    chains: K + 1 lists of c chains: without each fold, then of all folds
    """
    posterior = posterior_logits(slices, logits, chains[-1])
    for k in np.unique(fold[fold >= 0]):
        own = fold == k
        posterior[own] = posterior_logits(slices[own], logits[own], chains[k])
    return posterior
