"""Combine predictions: the mean over CNNs as logits, and the mean over the models of the folds."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray


def to_logits(probabilities: ArrayLike, clip: float) -> NDArray[np.float32]:
    """Return the logits of probabilities in [0, 1], clipped to [clip, 1 - clip]; NaN stays NaN."""
    p = np.clip(np.asarray(probabilities, np.float64), clip, 1 - clip)
    return np.log(p / (1 - p)).astype(np.float32)


def mean_logits(predictions: Mapping[str, ArrayLike], clip: float) -> NDArray[np.float32]:
    """Return the mean over models of the logits, (n, 6).

    predictions: {model: probabilities (n, 6)}; NaN where unknown
    """
    return np.mean([to_logits(p, clip) for p in predictions.values()], axis=0, dtype=np.float32)


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
