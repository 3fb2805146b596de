"""Predictions of stage one as logits; their mean over CNNs, plain or weighted; that over folds.

Logits of a CNN are kept as they are. Only probabilities, which may be 0 or 1, are clipped.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from ct.labels import LABELS

Kind = Literal["logits", "probabilities"]
BLOCK_ROWS = 16_384


def to_logits(probabilities: ArrayLike, clip: float) -> NDArray[np.float32]:
    """Return the logits of probabilities in [0, 1], clipped to [clip, 1 - clip]; NaN stays NaN."""
    p = np.clip(np.asarray(probabilities, np.float64), clip, 1 - clip)
    return np.log(p / (1 - p)).astype(np.float32)


class StageOne(NamedTuple):
    """Predictions of one model, (n, 6), columns LABELS; NaN where unknown."""

    values: NDArray[np.floating]
    kind: Kind

    def logits(self, clip: float) -> NDArray[np.float32]:
        """Return the logits (n, 6): probabilities are clipped to [clip, 1 - clip], logits not."""
        if self.kind == "logits":
            return np.asarray(self.values, np.float32)
        return to_logits(self.values, clip)

    def probabilities(self) -> NDArray[np.float64]:
        """Return the probabilities (n, 6), not clipped."""
        values = np.asarray(self.values, np.float64)
        return np.asarray(expit(values)) if self.kind == "logits" else values


def mean_of_seeds(fits: Sequence[StageOne]) -> StageOne:
    """Return the mean of the logits of a CNN's fits that differ in their seed; of one, itself.

    Raises ValueError where one of several holds probabilities.
    """
    if len(fits) == 1:
        return fits[0]
    if any(fit.kind != "logits" for fit in fits):
        raise ValueError("a mean over seeds is one of logits, but a table holds probabilities")
    return StageOne(mean_logits({str(i): fit.values for i, fit in enumerate(fits)}), "logits")


def mean_logits(logits: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float32]:
    """Return the mean over models of the logits, (n, 6), where one is unknown that of the others.

    logits: {model: (n, 6)}; NaN where unknown
    """
    mean = over_models(np.mean, logits)
    return _fill_from_known(mean, logits, np.full((len(logits), mean.shape[1]), 1 / len(logits)))


def over_models(
    function: Callable[..., NDArray[np.floating]], logits: Mapping[str, NDArray[np.floating]]
) -> NDArray[np.float32]:
    """Return a function such as np.mean of the logits over models, (n, 6), by blocks of rows.

    Of all rows at once NumPy would make copies of all models' logits.
    """
    models = list(logits.values())
    result = np.empty(models[0].shape, np.float32)
    for start in range(0, len(result), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        result[rows] = function([each[rows] for each in models], axis=0, dtype=np.float32)
    return result


def weighted_mean(
    logits: Mapping[str, NDArray[np.floating]], weights: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the weighted mean over CNNs of logits (n, 6) each.

    weights: (c, 6), each column summing to 1. With equal weights it is `mean_logits`, bit by bit.
    Where a CNN is unknown (NaN), the others share its weight.
    """
    if (weights == 1 / len(logits)).all():
        return mean_logits(logits)
    of_cnns = zip(logits.values(), weights, strict=True)
    mean: Any = sum(values * weight for values, weight in of_cnns)
    return _fill_from_known(np.asarray(mean, np.float32), logits, weights)


def _fill_from_known(
    mean: NDArray[np.float32],
    logits: Mapping[str, NDArray[np.floating]],
    weights: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Fill the NaN of a mean (n, 6) with that of the models that are known there, and return it.

    weights: (c, 6). It stays NaN where no model with a weight is known.
    """
    rows, columns = np.nonzero(np.isnan(mean))
    if len(rows):
        values = np.stack([of_model[rows, columns] for of_model in logits.values()])
        shares = np.where(np.isnan(values), 0, weights[:, columns])
        total = shares.sum(axis=0)
        sums = np.where(shares > 0, values * shares, 0).sum(axis=0)
        mean[rows, columns] = np.divide(sums, total, np.full(len(rows), np.nan), where=total > 0)
    return mean


def held_out_mean(
    logits: Mapping[str, NDArray[np.floating]],
    fold: NDArray[np.integer],
    weights: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Return the mean logits (n, 6) under weights that were not fitted on the row's patient.

    fold: (n,) the training fold of each row's patient, -1 for a patient outside train; weights:
    (K + 1, c, 6), fitted without each fold, and on all rows
    """
    mean = weighted_mean(logits, weights[-1])
    for k in np.unique(fold[fold >= 0]):
        own = fold == k
        of_fold = {name: values[own] for name, values in logits.items()}
        mean[own] = weighted_mean(of_fold, weights[k])
    return mean


def weight_array(
    fits: Iterable[Mapping[str, Mapping[str, float]]], models: Sequence[str]
) -> NDArray[np.float64]:
    """Return the weights (fits, c, 6) of c models from fits that are {model: {label: weight}}."""
    return np.array(
        [[[values[name][label] for label in LABELS] for name in models] for values in fits]
    )


def combine_folds(per_fold: NDArray[np.floating], test_fold: NDArray[np.integer]) -> NDArray:
    """Return the test probabilities (n, 6): the mean over the models of the folds.

    A test patient who is also in train gets the prediction of one fold alone: the fold that holds
    this patient's training slices, because only its models were trained without them.

    per_fold: (K, n, 6); test_fold: (n,) the patient's fold in train, -1 where there is none
    """
    combined = per_fold.mean(axis=0)
    in_train = np.flatnonzero(test_fold >= 0)
    combined[in_train] = per_fold[test_fold[in_train], in_train]
    return combined
