"""LightGBM boosters that start from a calibrated logit: with no round at all they are the calibrated stage one."""

import lightgbm as lgb
import numpy as np

FIXED = {
    "objective": "binary",
    "metric": "binary_logloss",
    "deterministic": True,
    "force_col_wise": True,  # with `deterministic`: the same model with any number of threads
    "feature_pre_filter": False,  # min_data_in_leaf is tuned on a Dataset that is built once
    "bagging_freq": 1,
    "verbosity": -1,
}


def make_dataset(X, y, base, names, reference=None, threads=1):
    """Build LightGBM's Dataset of X (n, f) float32, labels y (n,) of 0 and 1, and starting logits `base` (n,)."""
    data = lgb.Dataset(
        X,
        label=y,
        init_score=base,
        feature_name=list(names),
        reference=reference,
        free_raw_data=False,
        params={**FIXED, "num_threads": threads},
    )
    return data.construct()


def fit_booster(data, params, rounds, seed, threads, valid=None):
    """Boost `rounds` rounds on a Dataset. Returns (booster, curve): the log loss on `valid` after each round, or None."""
    record = {}
    callbacks = [lgb.record_evaluation(record)] if valid is not None else []
    booster = lgb.train(
        {**FIXED, **params, "seed": seed, "num_threads": threads},
        data,
        num_boost_round=rounds,
        valid_sets=[valid] if valid is not None else None,
        valid_names=["valid"] if valid is not None else None,
        callbacks=callbacks,
    )
    return booster, np.array(record["valid"]["binary_logloss"]) if valid is not None else None


def boosted_logit(booster, X, base, threads=1):
    """Return the logits (n,) of rows X (n, f) whose starting logits are `base` (n,)."""
    return base + booster.predict(X, raw_score=True, num_threads=threads)


def gain_share(booster):
    """Return each feature's share of the booster's total gain, (f,), summing to 1 (or 0 where nothing was split)."""
    gain = booster.feature_importance("gain").astype(np.float64)
    return gain / max(gain.sum(), 1e-12)
