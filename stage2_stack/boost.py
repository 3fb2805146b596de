"""LightGBM boosters that start from a calibrated logit: with no round at all they are the
calibrated stage one.
"""

import threading

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


class Bins:
    """A matrix of features that is binned once a set of columns, for all labels, folds, seeds and
    trials, until `keep_only`.

    The edges of the bins see the values of all rows, those of the scored fold, too, but never a
    label. A Dataset whose labels are set afterwards gives the same model, byte for byte, as one
    that is built with them.
    """

    def __init__(self, X, names, threads=1):
        """X: (n, f) float32, columns `names`; it may be a memory map."""
        self.X, self.names, self.threads = X, list(names), threads
        self._made, self._making = {}, threading.Lock()

    def rows(self, columns, rows, y, base):
        """Return LightGBM's Dataset of some rows and columns.

        columns: int (c,); rows: int (m,), rising; y: (m,) labels of 0 and 1; base: (m,) starting
        logits
        """
        part = self._binned(columns).subset(np.asarray(rows, np.int32), params=self._params())
        return relabel(part.construct(), y, base)

    def values(self, columns, rows):
        """Return the raw values (m, c) of some rows and columns."""
        return self.X[rows] if len(columns) == len(self.names) else self.X[np.ix_(rows, columns)]

    def keep_only(self, column_sets=()):
        """Forget what was binned of other columns than these sets, int (c,) each: a byte or two a
        row and column.
        """
        keep = {np.asarray(columns).tobytes() for columns in column_sets}
        with self._making:
            self._made = {key: binned for key, binned in self._made.items() if key in keep}

    def _matrix(self, columns):
        """Return the raw values (n, c) of all rows."""
        return self.X if len(columns) == len(self.names) else self.X[:, columns]

    def _binned(self, columns):
        key = np.asarray(columns).tobytes()
        with self._making:  # fits that run side by side ask for the same columns at once
            if key not in self._made:
                names, data = [self.names[i] for i in columns], self._matrix(columns)
                none = np.zeros(len(data), np.float32)
                self._made[key] = lgb.Dataset(
                    data, none, feature_name=names, params=self._params()
                ).construct()
        return self._made[key]

    def _params(self):
        return {**FIXED, "num_threads": self.threads}


def relabel(data, y, base):
    """Give a Dataset that is built other labels (m,) of 0 and 1 and starting logits (m,). Returns
    it.
    """
    data.set_label(y)
    data.set_init_score(base)
    return data


def fit_booster(data, params, rounds, seed, threads, valid=()):
    """Boost `rounds` rounds on a Dataset.

    valid: v Datasets. Returns (booster, curves): the log loss on each after each round, (v,
    rounds).
    """
    record, names = {}, [f"valid{number}" for number in range(len(valid))]
    booster = lgb.train(
        {**FIXED, **params, "seed": seed, "num_threads": threads},
        data,
        num_boost_round=rounds,
        valid_sets=list(valid),
        valid_names=names,
        callbacks=[lgb.record_evaluation(record)] if names else [],
    )
    return booster, np.array([record[name]["binary_logloss"] for name in names]).reshape(
        len(names), rounds
    )


def boosted_logit(booster, X, base, threads=1, rounds=None):
    """Return the logits (n,) of rows X (n, f) whose starting logits are `base` (n,), after `rounds`
    rounds (None: all).
    """
    return base + booster.predict(
        X, raw_score=True, num_threads=threads, num_iteration=rounds or -1
    )


def gain_share(booster):
    """Return each feature's share of the booster's total gain, (f,), summing to 1 (or 0 where
    nothing was split).
    """
    gain = booster.feature_importance("gain").astype(np.float64)
    return gain / max(gain.sum(), 1e-12)
