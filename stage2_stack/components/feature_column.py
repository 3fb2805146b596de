"""Base of the components that are one feature, unchanged."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage2_stack.components.component import Component, InferenceContext
from stage2_stack.nested_cv import FittedComponent, feature_predictions
from stage2_stack.stack_context import StackContext


class FeatureColumn(Component):
    """A feature that is a logit of the label; without models."""

    ending = ""  # of the feature's name, after the label

    def fit(self, context: StackContext, labels: Sequence[str]) -> dict[str, FittedComponent]:
        """Return the feature as predictions; labels without such a feature are left out."""
        fitted, names = {}, context.data.names
        for label in labels:
            if self.can_predict(label, names):
                logits = context.data.X[:, names.index(label + self.ending)]
                fitted[label] = FittedComponent(feature_predictions(context.folds, logits))
        return fitted

    def predict(
        self, rows: InferenceContext, models: Sequence[Any], labels: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return the feature."""
        return np.stack([rows.column(label + self.ending).astype(np.float64) for label in labels])

    def can_predict(self, label: str, names: Sequence[str]) -> bool:
        """Return whether the features have a column for a label."""
        return label + self.ending in names
