"""Optuna looks for one configuration per label and outer fold, on the other folds only."""

import warnings

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from scipy.special import expit
from sklearn.model_selection import StratifiedGroupKFold

from ct.metrics import log_loss, patient_bootstrap
from ct.seeds import derive_seed
from features.build import SCOPES, scope_columns
from stage2_stack.boost import boosted_logit, fit_booster, make_dataset
from stage2_stack.calibrate import fit_platt

SPACE = {
    "scope": CategoricalDistribution(tuple(SCOPES)),
    "learning_rate": FloatDistribution(0.02, 0.2, log=True),
    "num_leaves": IntDistribution(3, 31, log=True),
    "min_data_in_leaf": IntDistribution(5, 100, log=True),
    "feature_fraction": FloatDistribution(0.1, 1.0),
    "bagging_fraction": FloatDistribution(0.5, 1.0),
    "lambda_l2": FloatDistribution(0.1, 100.0, log=True),
}
FIRST = {  # trial 0: shallow, slow and strongly regularised, a fair guess for any label
    "scope": "context",
    "learning_rate": 0.05,
    "num_leaves": 7,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.8,
    "lambda_l2": 10.0,
}
INSTEAD = "calibrated mean of the CNNs instead"


def why_not_stacked(y, patients, needed):
    """Return why a label can't be stacked on these rows, or "" where it can. y: (n,) 0 and 1; patients: (n,)."""
    positive, negative = (len(set(patients[y == value])) for value in (1, 0))
    if not positive:
        return "no positives in the training folds; their smoothed prior instead"
    if min(positive, negative) >= needed:
        return ""
    which = "positives" if positive <= negative else "negatives"
    few = min(positive, negative)
    return f"{which} in {few} patient{'s' * (few != 1)} of the training folds, fewer than {needed}; {INSTEAD}"


def inner_folds(y, fold, patients, seed):
    """Return the inner fold of each row of an outer training set, (n,): its outer fold, or, where only one is left (K = 2),
    one of three (of two, where there are no more patients) by patient."""
    if len(set(fold)) > 1:
        return fold
    inner = np.empty(len(y), dtype=np.int8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fewer positives than folds: fine here
        splitter = StratifiedGroupKFold(min(3, len(set(patients))), shuffle=True, random_state=seed)
        for j, (_, held_out) in enumerate(splitter.split(y, y, patients)):
            inner[held_out] = j
    return inner


class InnerFolds:
    """One label's inner cross-validation on one outer training set: what a configuration would score.

    X: (n, f) float32 rows of the outer training set alone, columns `names`; y: (n,) 0 and 1; inner: (n,) inner folds
    """

    def __init__(self, X, y, inner, names, label, config, seed):
        self.X, self.y, self.names, self.label = X, y, list(names), label
        self.config, self.seed = config, seed
        self.splits, self.base, self.datasets = [], np.empty(len(y)), {}
        raw = X[:, self.names.index(label)]
        for j in np.unique(inner):
            fit, held_out = inner != j, inner == j
            base = fit_platt(raw[fit], y[fit]).logit(raw)  # cross-fitted, as the final one is
            self.base[held_out] = base[held_out]
            self.splits.append((fit, held_out, base))

    def evaluate(self, params):
        """Return (loss, rounds): the smallest mean log loss over the rounds of boosting, and where it lies."""
        params, _, sets = self._data(params)
        longest, threads = self.config.max_rounds, self.config.threads
        curves = [fit_booster(train, params, longest, self.seed, threads, valid)[1] for train, valid in sets]
        curve = np.average(curves, axis=0, weights=[held_out.sum() for _, held_out, _ in self.splits])
        return float(curve.min()), int(np.argmin(curve)) + 1

    def gain(self, params, rounds):
        """Return, for each row, the loss of the calibrated stage one minus that of the stacker, (n,)."""
        params, columns, sets = self._data(params)
        boosted = np.empty(len(self.y))
        for (_, held_out, base), (train, _) in zip(self.splits, sets, strict=True):
            booster, _ = fit_booster(train, params, rounds, self.seed, self.config.threads)
            rows = self.X[np.ix_(held_out, columns)]
            boosted[held_out] = boosted_logit(booster, rows, base[held_out], self.config.threads)
        return log_loss(self.y, expit(self.base)) - log_loss(self.y, expit(boosted))

    def _data(self, params):
        """Return LightGBM's parameters, the columns in scope, and each split's Datasets: binned once a scope."""
        params, scope = split_scope(params)
        columns = scope_columns(self.names, self.label, scope)
        if scope not in self.datasets:
            X, names = self.X[:, columns], [self.names[i] for i in columns]
            self.datasets[scope] = []
            for fit, held_out, base in self.splits:
                train = make_dataset(X[fit], self.y[fit], base[fit], names, None, self.config.threads)
                valid = make_dataset(X[held_out], self.y[held_out], base[held_out], names, train, self.config.threads)
                self.datasets[scope].append((train, valid))
        return params, columns, self.datasets[scope]


def split_scope(params):
    """Split a trial's parameters into LightGBM's own and the scope of the features."""
    return {name: value for name, value in params.items() if name != "scope"}, params["scope"]


def run_trials(study, folds, trials, seed, progress=None):
    """Bring an optuna study to `trials` finished trials, continuing where an earlier call stopped.

    The sampler's seed is a function of `seed` and of the number of finished trials, and a trial that a killed process left
    running is failed and run again, so that an interrupted study ends with the same trials as an unbroken one.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    for number in range(len(_finished(study)), trials):
        if number == 0:
            loss, rounds = folds.evaluate(FIRST)
            study.add_trial(create_trial(params=FIRST, distributions=SPACE, value=loss, user_attrs={"rounds": rounds}))
        else:
            study.sampler = optuna.samplers.TPESampler(seed=derive_seed(seed, "trial", number), n_startup_trials=5)
            trial = study.ask(SPACE)
            loss, rounds = folds.evaluate(trial.params)
            trial.set_user_attr("rounds", rounds)
            study.tell(trial, loss)
        if progress:
            progress(number + 1, study.best_value)


def best_config(study, folds, patients, trials):
    """Return {"stacked", "why", "rounds", "params", "trials", "inner_loss", "inner_calibrated"} of a finished study.

    Only the first `trials` finished trials count. The best one is taken where its gain over trial 0, the fair guess, is beyond
    doubt on the inner folds, else trial 0: with few patients the best of many trials is the luckiest. A label is stacked where
    the gain of the one taken over the calibrated stage one is beyond doubt. Beyond doubt: the interval over patients (n,) at
    the level of the config lies above zero.
    """
    finished = _finished(study)[:trials]
    first, best = finished[0], min(finished, key=lambda trial: trial.value)
    taken, gain = first, folds.gain(first.params, first.user_attrs["rounds"])
    if best.number != first.number:
        best_gain = folds.gain(best.params, best.user_attrs["rounds"])
        if _low(folds, best_gain - gain, patients) > 0:
            taken, gain = best, best_gain
    low = _low(folds, gain, patients)
    doubt = f"its gain on the inner folds, {gain.mean():+.4f}, is not beyond doubt (from {low:+.4f} up); {INSTEAD}"
    return {
        "stacked": low > 0,
        "why": "" if low > 0 else doubt,
        "rounds": taken.user_attrs["rounds"],
        "trials": len(finished),
        "inner_loss": taken.value,
        "inner_calibrated": float(log_loss(folds.y, expit(folds.base)).mean()),
        "params": taken.params,
    }


def _low(folds, gain, patients):
    return patient_bootstrap(gain, patients, seed=folds.seed, level=folds.config.confidence)[0]


def _finished(study):
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
