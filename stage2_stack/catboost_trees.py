"""CatBoost beside LightGBM: trees whose levels all split alike. An optional second opinion (extra
`catboost`).
"""

import catboost
import numpy as np
from scipy.special import expit

from ct.metrics import log_loss

PARAMS = {  # not tuned: as slow and as strongly regularised as the pooled LightGBM
    "learning_rate": 0.05,
    "depth": 4,
    "subsample": 0.7,
    "rsm": 0.3,  # share of the features that a level looks at
    "l2_leaf_reg": 10.0,
}
FIXED = {
    "loss_function": "Logloss",
    "bootstrap_type": "Bernoulli",
    "boost_from_average": False,  # the rows bring their own start
    "leaf_estimation_iterations": 1,
    "allow_writing_files": False,
    "logging_level": "Silent",
}
# would tell two files of one model apart
NOT_THE_MODEL = {"train_finish_time": "", "model_guid": "", "training": "{}"}


class CatBoost:
    """Learner: CatBoost; NaN counts as less than any number.

    None is a model without a tree: where all labels are the same, which CatBoost refuses.
    """

    suffix, side_by_side = ".cbm", True
    params = PARAMS

    def data(self, bins, columns, rows, y, base):
        """Return CatBoost's Pool."""
        names = [bins.names[i] for i in columns]
        return catboost.Pool(
            bins.values(columns, rows),
            y,
            baseline=base,
            feature_names=names,
            thread_count=bins.threads,
        )

    def fit(self, data, params, rounds, seed, threads, valid=()):
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
        record = {
            name: found["Logloss"]
            for name, found in model.get_evals_result().items()
            if name != "learn"
        }
        return model, np.array([record[name] for name in sorted(record)]).reshape(
            len(valid), rounds
        )

    def added(self, model, values, threads, rounds=None):
        """Return the sums of the trees' leaves."""
        if model is None or not len(values):
            return np.zeros(len(values))
        return model.predict(
            values, prediction_type="RawFormulaVal", ntree_end=rounds or 0, thread_count=threads
        )

    def gain(self, model):
        """Return how much the prediction changes, on average, with each column, as shares."""
        if model is None:
            return None
        change = model.get_feature_importance(type="PredictionValuesChange")
        return change / max(change.sum(), 1e-12)

    def contributions(self, model, values, threads):
        """Return CatBoost's SHAP values."""
        if model is None:
            return None
        return model.get_feature_importance(
            catboost.Pool(values), type="ShapValues", thread_count=threads
        )[:, :-1]

    def dump(self, model):
        """Return CatBoost's own binary format, a flatbuffer."""
        if model is None:
            return b""
        facts = model.get_metadata()
        for name, nothing in NOT_THE_MODEL.items():
            facts[name] = nothing
        return model._serialize_model()  # save_model does the same, but only to a file

    def load(self, kept):
        """Read CatBoost's binary format."""
        return catboost.CatBoost().load_model(blob=kept) if kept else None
