"""Component `pooled`: one LightGBM booster for the five subtypes, their rows one below the other.

A rare subtype learns from the common ones: a bleed changes along a series in much the same way in
all subtypes, and upwards much as downwards.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ct.labels import SUBTYPES
from ct.seeds import derive_seed
from stage2_stack.components.component import Component, InferenceContext
from stage2_stack.components.pooled_features import PooledFeatures, pooled_names, to_features
from stage2_stack.learners.learner import Floats, Values
from stage2_stack.learners.lightgbm_booster import LightGBM, check_lightgbm_file
from stage2_stack.learners.lightgbm_text import check_booster_text
from stage2_stack.learners.model_input import TabularInput
from stage2_stack.learners.nested_fit import FitSettings, fit_nested
from stage2_stack.nested_cv import FittedComponent
from stage2_stack.stack_context import StackContext

PARAMS = {
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 100,  # of five rows a slice
    "feature_fraction": 0.3,
    "bagging_fraction": 0.7,
    "lambda_l2": 10.0,
}


class PooledLightGBM(Component):
    """LightGBM with fixed settings; the rounds are chosen on the nested rows."""

    title = "LightGBM, pooled"
    tuned_on = "rounds on the other folds' nested predictions"
    labels, joint = SUBTYPES, True
    learner = LightGBM()
    reads = (
        "seeds",
        "max_rounds",
        "blend_rounds",
        "positive_patients",
        "calibrate_by",
        "symmetric",
        "tail_bins",
    )

    def fit(self, context: StackContext, labels: Sequence[str]) -> dict[str, FittedComponent]:
        """Fit the boosters of all subtypes together."""
        usable = context.usable_folds(labels)
        if not any(usable):
            return {}
        data = context.data
        store = context.features.store
        config = context.config
        features = PooledFeatures(
            data.X, data.names, config.threads, store, config.symmetric, config.tail_bins
        )
        y = np.stack([context.targets(label) for label in labels])
        source = self._input(features, context.cnn_logits(labels), y)
        settings = FitSettings(PARAMS, max_rounds=round(config.max_rounds * config.blend_rounds))
        fitted = fit_nested(
            context.folds,
            [source] * len(usable),
            [settings if use else None for use in usable],
            config,
            derive_seed(context.seed, self.name),
            context.side_by_side,
        )

        def by_feature(values: dict[int, Floats], label: str) -> dict[int, Floats]:
            return {
                k: to_features(of_fold, data.names, label, config.symmetric)
                for k, of_fold in values.items()
            }

        return {
            label: of_label._replace(
                gain=by_feature(of_label.gain, label),
                contributions=by_feature(of_label.contributions, label),
            )
            for label, of_label in zip(labels, fitted, strict=True)
        }

    def predict(
        self, rows: InferenceContext, models: Sequence[Any], labels: Sequence[str]
    ) -> Floats:
        """Return the logits of the subtypes, (5, n)."""
        symmetric = models[0].feature_name() == pooled_names(rows.names, symmetric=True)
        features = PooledFeatures(rows.X, rows.names, rows.threads, symmetric=symmetric)
        source = self._input(features, rows.cnn_logits(labels), None)
        platts = [rows.calibrations[label] for label in labels]
        return source.predict(models, platts, np.arange(len(rows.X)))

    def check_file(self, raw: bytes, names: list[str]) -> None:
        """Raise ValueError where bytes are no LightGBM model on just the pooled features."""
        in_file = check_booster_text(raw.decode("ascii", "replace"))
        symmetric = in_file == pooled_names(names, symmetric=True)
        check_lightgbm_file(raw, pooled_names(names, symmetric), every_feature=True)

    def _input(
        self, features: "PooledFeatures", cnn_logits: Values, y: Floats | None
    ) -> TabularInput:
        return TabularInput(features, np.arange(len(features.names)), cnn_logits, y, self.learner)
