"""Component `catboost`: CatBoost boosters for each label; a level of a tree has one split.

It needs the package catboost (extra `catboost`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import catboost
import numpy as np
from scipy.special import expit

from ct.metrics import log_loss
from stage2_stack.components.label_booster import LabelBooster, untuned_settings
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.learners.learner import Floats, Ints, Values
from stage2_stack.learners.nested_fit import FitSettings
from stage2_stack.stack_context import StackContext

PARAMS = {  # not tuned: as slow and as strongly regularised as the pooled LightGBM
    "learning_rate": 0.05,
    "depth": 4,
    "subsample": 0.7,
    "rsm": 0.3,  # share of the features that are tried at each level
    "l2_leaf_reg": 10.0,
}
FIXED = {
    "loss_function": "Logloss",
    "bootstrap_type": "Bernoulli",
    "boost_from_average": False,  # each row has its own starting logit
    "leaf_estimation_iterations": 1,
    "allow_writing_files": False,
    "logging_level": "Silent",
}
# metadata that differs between two files of one model
NOT_THE_MODEL = {"train_finish_time": "", "model_guid": "", "training": "{}"}


class CatBoost:
    """The learner of CatBoost; NaN counts as less than any number.

    A model is None where all labels are the same: CatBoost refuses such data.
    """

    suffix, thread_safe = ".cbm", True

    def dataset(
        self, features: BinnedFeatures, columns: Ints, rows: Ints, y: Floats, base: Floats
    ) -> catboost.Pool:
        """Return CatBoost's Pool."""
        return catboost.Pool(
            features.values(columns, rows),
            y,
            baseline=base,
            feature_names=[features.names[i] for i in columns],
            thread_count=features.threads,
        )

    def fit(
        self,
        data: catboost.Pool,
        params: Mapping[str, Any],
        rounds: int,
        seed: int,
        threads: int,
        valid: Sequence[catboost.Pool] = (),
    ) -> tuple[catboost.CatBoost | None, Floats]:
        """Boost `rounds` rounds."""
        if len(set(data.get_label())) == 1:
            start = [log_loss(v.get_label(), expit(v.get_baseline().ravel())).mean() for v in valid]
            return None, np.tile(np.reshape(start, (len(valid), 1)), rounds)
        settings = {
            **FIXED,
            **params,
            "iterations": rounds,
            "random_seed": seed,
            "thread_count": threads,
        }
        model = catboost.CatBoost(settings)
        model.fit(data, eval_set=list(valid) or None, use_best_model=False)
        results = model.get_evals_result()
        names = sorted(name for name in results if name != "learn")
        curves = np.array([results[name]["Logloss"] for name in names])
        return model, curves.reshape(len(valid), rounds)

    def added_logits(
        self,
        model: catboost.CatBoost | None,
        values: Values,
        threads: int,
        rounds: int | None = None,
    ) -> Floats:
        """Return the sums of the trees' leaves."""
        if model is None or not len(values):
            return np.zeros(len(values))
        added = model.predict(
            values, prediction_type="RawFormulaVal", ntree_end=rounds or 0, thread_count=threads
        )
        return np.asarray(added)

    def gain(self, model: catboost.CatBoost | None) -> Floats | None:
        """Return how much the prediction changes, on average, with each column, as shares."""
        if model is None:
            return None
        change = model.get_feature_importance(type="PredictionValuesChange")
        return np.asarray(change / max(change.sum(), 1e-12))

    def contributions(
        self, model: catboost.CatBoost | None, values: Values, threads: int
    ) -> Floats | None:
        """Return CatBoost's SHAP values."""
        if model is None:
            return None
        shap = model.get_feature_importance(
            catboost.Pool(values), type="ShapValues", thread_count=threads
        )
        return np.asarray(shap[:, :-1])

    def column_count(self, model: catboost.CatBoost | None) -> int | None:
        """Return the number of features of the training data."""
        return None if model is None else len(model.feature_names_)

    def save(self, model: catboost.CatBoost | None) -> bytes:
        """Return CatBoost's own binary format, a flatbuffer."""
        if model is None:
            return b""
        metadata = model.get_metadata()
        for name, neutral in NOT_THE_MODEL.items():
            metadata[name] = neutral
        return bytes(model._serialize_model())  # save_model does the same, but only to a file

    def load(self, raw: bytes) -> catboost.CatBoost | None:
        """Read CatBoost's binary format."""
        return catboost.CatBoost().load_model(blob=raw) if raw else None


class LabelCatBoost(LabelBooster):
    """CatBoost with fixed settings; the rounds are chosen on the nested rows."""

    title = "CatBoost, a label each"
    tuned_on = "rounds on the other folds' nested predictions"
    learner = CatBoost()
    foreign = True

    def settings(self, context: StackContext, label: str) -> list[FitSettings | None]:
        """Return PARAMS for each fold; None where the label cannot be stacked."""
        return untuned_settings(context, label, PARAMS)
