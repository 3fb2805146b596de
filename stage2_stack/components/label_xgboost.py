"""Component `xgboost`: XGBoost boosters for each label, with trees of even depth.

It needs the package xgboost (extra `xgboost`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xgboost as xgb

from stage2_stack.components.label_booster import LabelBooster, untuned_settings
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.learners.learner import Floats, Ints, Values
from stage2_stack.learners.nested_fit import FitSettings
from stage2_stack.stack_context import StackContext

PARAMS = {  # not tuned: as slow and as strongly regularised as the pooled LightGBM
    "learning_rate": 0.05,
    "max_depth": 4,
    "min_child_weight": 2.0,  # in units of p (1 - p)
    "subsample": 0.7,
    "colsample_bynode": 0.3,
    "reg_lambda": 10.0,
}
FIXED = {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "tree_method": "hist",
    "base_score": 0.5,  # a logit of 0: each row has its own starting logit
}


class XGBoost:
    """The learner of XGBoost; NaN goes to the side that gains more at each split."""

    suffix, thread_safe = ".json", True

    def dataset(
        self, features: BinnedFeatures, columns: Ints, rows: Ints, y: Floats, base: Floats
    ) -> xgb.DMatrix:
        """Return XGBoost's DMatrix."""
        return xgb.DMatrix(
            features.values(columns, rows),
            y,
            base_margin=base,
            feature_names=[features.names[i] for i in columns],
            nthread=features.threads,
        )

    def fit(
        self,
        data: xgb.DMatrix,
        params: Mapping[str, Any],
        rounds: int,
        seed: int,
        threads: int,
        valid: Sequence[xgb.DMatrix] = (),
    ) -> tuple[xgb.Booster, Floats]:
        """Boost `rounds` rounds."""
        record: dict[str, Any] = {}
        names = [f"valid{number}" for number in range(len(valid))]
        booster = xgb.train(
            {**FIXED, **params, "seed": seed, "nthread": threads},
            data,
            num_boost_round=rounds,
            evals=list(zip(valid, names, strict=True)),
            evals_result=record,
            verbose_eval=False,
        )
        curves = np.array([record[name]["logloss"] for name in names])
        return booster, curves.reshape(len(names), rounds)

    def added_logits(
        self, model: xgb.Booster, values: Values, threads: int, rounds: int | None = None
    ) -> Floats:
        """Return the sums of the trees' leaves."""
        if not len(values):
            return np.empty(0)
        model.set_param({"nthread": threads})
        margin = model.inplace_predict(
            values, predict_type="margin", iteration_range=(0, rounds or 0), validate_features=False
        )
        return np.asarray(margin.astype(np.float64))

    def gain(self, model: xgb.Booster) -> Floats:
        """Return the shares of the total gain."""
        # get_score leaves out the features that no tree splits on
        total_gain = model.get_score(importance_type="total_gain")
        gain = np.array([total_gain.get(name, 0.0) for name in model.feature_names or ()])
        return gain / max(gain.sum(), 1e-12)

    def contributions(self, model: xgb.Booster, values: Values, threads: int) -> Floats:
        """Return XGBoost's own SHAP values."""
        data = xgb.DMatrix(values, feature_names=model.feature_names, nthread=threads)
        return np.asarray(model.predict(data, pred_contribs=True)[:, :-1].astype(np.float64))

    def column_count(self, model: xgb.Booster) -> int:
        """Return the number of features of the training data."""
        return int(model.num_features())

    def save(self, model: xgb.Booster) -> bytes:
        """Return XGBoost's JSON."""
        return bytes(model.save_raw("json"))

    def load(self, raw: bytes) -> xgb.Booster:
        """Read XGBoost's JSON."""
        return xgb.Booster(model_file=bytearray(raw))


class LabelXGBoost(LabelBooster):
    """XGBoost with fixed settings; the rounds are chosen on the nested rows."""

    title = "XGBoost, a label each"
    tuned_on = "rounds on the other folds' nested predictions"
    learner = XGBoost()
    foreign = True

    def settings(self, context: StackContext, label: str) -> list[FitSettings | None]:
        """Return PARAMS for each fold; None where the label cannot be stacked."""
        return untuned_settings(context, label, PARAMS)
