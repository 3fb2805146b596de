"""Component `subtypes`: `any` as the noisy-OR of the five finished subtypes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_expit, logit

from ct.labels import SUBTYPES
from ct.metrics import KAGGLE_CLIP
from stage2_stack.components.component import Component, InferenceContext
from stage2_stack.nested_cv import FittedComponent, NestedPredictions
from stage2_stack.stack_context import StackContext


class NoisyOr(Component):
    """The probability of at least one subtype, as if they were independent; without models."""

    title = "one subtype at least"
    tuned_on = "nothing but its calibration; `any` alone, from the finished subtypes"
    labels = ("any",)
    from_subtypes = True

    def fit(self, context: StackContext, labels: Sequence[str]) -> dict[str, FittedComponent]:
        """Combine the finished subtypes' predictions of the training slices.

        For fold k, a row's subtypes come from stackers fitted without its fold and without fold k.
        """
        of_subtypes = [context.finished[label] for label in SUBTYPES]
        nested = union_logit(np.stack([predictions.nested for predictions in of_subtypes]))
        oof = union_logit(np.stack([predictions.oof for predictions in of_subtypes]))
        return {"any": FittedComponent(NestedPredictions(nested, oof))}

    def predict(
        self, rows: InferenceContext, models: Sequence[Any], labels: Sequence[str]
    ) -> NDArray[np.float64]:
        """Combine the finished subtypes' probabilities, (1, n)."""
        return union_logit(np.stack([finite_logit(rows.finished[label]) for label in SUBTYPES]))[
            None
        ]


def finite_logit(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logits of probabilities; 0 and 1, to which float64 rounds, have none."""
    least = np.finfo(np.float64).tiny
    return np.asarray(logit(np.clip(probabilities, least, 1 - KAGGLE_CLIP)))


def union_logit(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Noisy-OR of independent events, as a logit: of logits (c, ...), float64 (...)."""
    none = -log_expit(-logits).sum(axis=0)  # minus the log probability that no event happens
    return np.asarray(none + np.log(-np.expm1(-none)))
