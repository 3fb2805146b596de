"""XGBoost beside LightGBM: trees of even depth, grown on its own histograms. An optional second
opinion (extra `xgboost`).
"""

import numpy as np
import xgboost as xgb

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
    "base_score": 0.5,  # a logit of 0: the rows bring their own start
}


class XGBoost:
    """Learner: XGBoost; NaN goes the way that gains more at each split."""

    suffix, side_by_side = ".json", True
    params = PARAMS

    def data(self, bins, columns, rows, y, base):
        """Return XGBoost's DMatrix."""
        names = [bins.names[i] for i in columns]
        return xgb.DMatrix(
            bins.values(columns, rows),
            y,
            base_margin=base,
            feature_names=names,
            nthread=bins.threads,
        )

    def fit(self, data, params, rounds, seed, threads, valid=()):
        """Boost `rounds` rounds."""
        record, names = {}, [f"valid{number}" for number in range(len(valid))]
        booster = xgb.train(
            {**FIXED, **params, "seed": seed, "nthread": threads},
            data,
            num_boost_round=rounds,
            evals=list(zip(valid, names, strict=True)),
            evals_result=record,
            verbose_eval=False,
        )
        return booster, np.array([record[name]["logloss"] for name in names]).reshape(
            len(names), rounds
        )

    def added(self, model, values, threads, rounds=None):
        """Return the sums of the trees' leaves."""
        model.set_param({"nthread": threads})
        asked = {
            "predict_type": "margin",
            "iteration_range": (0, rounds or 0),
            "validate_features": False,
        }
        return (
            model.inplace_predict(values, **asked).astype(np.float64)
            if len(values)
            else np.empty(0)
        )

    def gain(self, model):
        """Return the shares of the total gain."""
        # without features that no tree splits on
        found = model.get_score(importance_type="total_gain")
        gain = np.array([found.get(name, 0.0) for name in model.feature_names])
        return gain / max(gain.sum(), 1e-12)

    def contributions(self, model, values, threads):
        """Return XGBoost's own contributions."""
        data = xgb.DMatrix(values, feature_names=model.feature_names, nthread=threads)
        return model.predict(data, pred_contribs=True)[:, :-1].astype(np.float64)

    def dump(self, model):
        """Return XGBoost's JSON."""
        return bytes(model.save_raw("json"))

    def load(self, kept):
        """Read XGBoost's JSON."""
        return xgb.Booster(model_file=bytearray(kept))
