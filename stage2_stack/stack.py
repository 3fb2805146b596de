"""Fits the stackers of one label: stacker k from the rows outside fold k, to score fold k and its CNNs' test opinions."""

from dataclasses import dataclass

import lightgbm as lgb
import numpy as np
from scipy.special import expit

from ct.seeds import derive_seed
from features.build import scope_columns
from stage2_stack.boost import Bins, boosted_logit, fit_booster, gain_share
from stage2_stack.calibrate import cross_fit
from stage2_stack.space import split_scope


@dataclass
class Stacked:
    """What the stackers of one label leave."""

    platts: list  # K Platt: stage one's calibration, fitted without fold k
    calibrated: np.ndarray  # (n,) calibrated stage one, out of fold, in [0, 1]
    oof: np.ndarray  # (n,) stage two, out of fold; where fold k is not stacked, the calibrated stage one
    calibrated_test: np.ndarray  # (K, m) likewise on the test rows, fold k by stacker k
    test: np.ndarray  # (K, m)
    boosters: dict  # k -> Booster, of the folds that are stacked
    gain: np.ndarray  # (f,) mean over folds of each feature's share of the gain


def fit_stack(X, y, fold, test_X, names, label, configs, config, seed):
    """Fit one label's stackers.

    X: (n, f) float32, columns `names`; y: (n,) 0, 1 or NaN where unlabelled; fold: (n,) 0 ... K-1
    test_X: (K, m, f), fold k's CNNs' view of the test rows; configs: K dicts as of tune.best_config
    config: StackConfig; seed: of the recipe. Returns Stacked.
    """
    raw, known, bins = names.index(label), ~np.isnan(y), Bins(X, names, config.threads)
    base, platts = cross_fit(X[:, raw], y, fold, len(test_X))
    test_base = np.stack([platt.logit(rows[:, raw]) for platt, rows in zip(platts, test_X, strict=True)])
    oof, test, boosters, gain = base.copy(), test_base.copy(), {}, np.zeros(len(names))
    for k, found in enumerate(configs):
        if not found["stacked"]:
            continue
        params, scope = split_scope(found["params"])
        columns = scope_columns(names, label, scope)
        fit, held = np.flatnonzero(known & (fold != k)), np.flatnonzero(fold == k)
        data = bins.rows(columns, fit, y[fit], platts[k].logit(X[fit, raw]))
        booster, _ = fit_booster(data, params, found["rounds"], derive_seed(seed, "tune", label, k), config.threads)
        boosters[k] = lgb.Booster(model_str=booster.model_to_string())  # predicts as what is kept on disk will
        oof[held] = boosted_logit(boosters[k], X[np.ix_(held, columns)], base[held])
        test[k] = boosted_logit(boosters[k], test_X[k][:, columns], test_base[k])
        gain[columns] += gain_share(booster) / len(configs)
    return Stacked(platts, expit(base), expit(oof), expit(test_base), expit(test), boosters, gain)
