"""Optuna looks for one configuration per label and outer fold, on the other folds only."""

import math
import time
import warnings

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial
from scipy.special import expit
from sklearn.model_selection import StratifiedGroupKFold

from ct.metrics import log_loss, patient_bootstrap
from ct.seeds import derive_seed
from features.columns import scope_columns
from stage2_stack.boost import boosted_logit, fit_booster
from stage2_stack.calibration import fit_platt
from stage2_stack.search_space import FIRST, SPACE, split_scope, suggest

STARTUP = 5  # trials before the sampler and the pruner have seen enough to have an opinion
# per cent of the earlier trials that one must be among after each inner fold, or it ends
KEPT = 60.0
# bytes of binned rows that one search holds, or those of one scope where they alone are more
HELD = 500_000_000
INSTEAD = "calibrated mean of the CNNs instead"


def why_not_stacked(y, patients, needed):
    """Return why a label can't be stacked on these rows, or "" where it can. y: (n,) 0 and 1;
    patients: (n,).
    """
    positive, negative = (len(set(patients[y == value])) for value in (1, 0))
    if not positive:
        return "no positives in the training folds; their smoothed prior instead"
    if min(positive, negative) >= needed:
        return ""
    which = "positives" if positive <= negative else "negatives"
    few = min(positive, negative)
    return f"{which} in {few} patient{'s' * (few != 1)} of the training folds, fewer than {needed}; {INSTEAD}"


def inner_folds(y, fold, patients, seed):
    """Return the inner fold of each row of an outer training set, (n,): its outer fold, or, where
    only one is left (K = 2), one of three (of two, where there are no more patients) by patient.
    """
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
    """One label's inner cross-validation on one outer training set: what a configuration would
    score.

    bins: boost.Bins of all rows; rows: int (n,), rising, those of the outer training set; y: (n,) 0
    and 1; inner: (n,) folds
    """

    def __init__(self, bins, rows, y, inner, label, config, seed):
        self.bins, self.rows, self.y, self.label = bins, rows, y, label
        self.config, self.seed = config, seed
        self.splits, self.base = [], np.empty(len(y))
        self.datasets = {}  # {scope: {number of a split: its Datasets}}
        raw = bins.X[rows, bins.names.index(label)]
        for j in np.unique(inner):
            fit, held_out = np.flatnonzero(inner != j), np.flatnonzero(inner == j)
            base = fit_platt(raw[fit], y[fit]).logit(raw)  # cross-fitted, as the final one is
            self.base[held_out] = base[held_out]
            self.splits.append((fit, held_out, base))

    def evaluate(self, params, report=None):
        """Return (loss, rounds): the smallest mean log loss over the rounds of boosting, and where
        it lies.

        report: called after each fold with its number from 1 and the loss so far less that of the
        calibrated stage one
        """
        params, columns, sets = self._enter(params)
        total, start, seen = np.zeros(self.config.max_rounds), 0.0, 0
        for step, (_, held_out, _) in enumerate(self.splits, 1):
            train, valid = self._data(step - 1, columns, sets)
            _, curves = fit_booster(
                train, params, self.config.max_rounds, self.seed, self.config.threads, [valid]
            )
            total, seen = total + curves[0] * len(held_out), seen + len(held_out)
            start += log_loss(self.y[held_out], expit(self.base[held_out])).sum()
            if report:
                report(step, float((total.min() - start) / seen))
        return float(total.min() / seen), int(np.argmin(total)) + 1

    def gain(self, params, rounds):
        """Return, for each row, the loss of the calibrated stage one minus that of the stacker,
        (n,).
        """
        params, columns, sets = self._enter(params)
        boosted = np.empty(len(self.y))
        for number, (_, held_out, base) in enumerate(self.splits):
            train, _ = self._data(number, columns, sets)
            booster, _ = fit_booster(train, params, rounds, self.seed, self.config.threads)
            values = self.bins.values(columns, self.rows[held_out])
            boosted[held_out] = boosted_logit(booster, values, base[held_out], self.config.threads)
        return log_loss(self.y, expit(self.base)) - log_loss(self.y, expit(boosted))

    def _enter(self, params):
        """Return LightGBM's parameters, the columns in scope, and the Datasets that there are of
        it.

        Each split's Datasets are a copy of all binned rows. Those of other scopes are dropped where
        all would take more than HELD: with so many rows, to make them again is quick beside a fit.
        """
        params, scope = split_scope(params)
        columns = {
            each: scope_columns(self.bins.names, self.label, each)
            for each in {*self.datasets, scope}
        }
        if len(self.splits) * len(self.rows) * sum(map(len, columns.values())) > HELD:
            self.datasets = {scope: self.datasets.get(scope, {})}
        return params, columns[scope], self.datasets.setdefault(scope, {})

    def _data(self, number, columns, sets):
        """Return the Datasets of one split, (train, valid), from `sets`, or made and put there."""
        if number not in sets:
            fit, held_out, base = self.splits[number]
            parts = ((self.rows[part], self.y[part], base[part]) for part in (fit, held_out))
            sets[number] = tuple(self.bins.rows(columns, *part) for part in parts)
        return sets[number]


def run_trials(
    study, folds, trials, seed, space=SPACE, progress=None, deadline=math.inf, shared=False
):
    """Bring an optuna study to `trials` finished trials, continuing where an earlier call stopped.

    The sampler's seed is a function of `seed` and of the number of finished trials, and a trial
    that a killed process left running is failed and run again, so that an interrupted study ends
    with the same trials as an unbroken one.

    space: {setting: distribution}; deadline: of time.time(), after which no trial begins but the
    first; progress: called with the number of finished trials and the smallest loss; shared: other
    machines work on the study, too, and optuna's heartbeat alone says which trials are dead
    """
    if not shared:
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
    study.pruner = optuna.pruners.PercentilePruner(KEPT, n_startup_trials=STARTUP)
    while (number := len(finished(study))) < trials:
        if number and time.time() > deadline:
            return
        if number:
            study.sampler = optuna.samplers.TPESampler(
                seed=derive_seed(seed, "trial", number), n_startup_trials=STARTUP
            )
            study.optimize(lambda trial: _try(trial, folds, space), n_trials=1)
        else:
            _try_first(study, folds, space)
        if progress:
            progress(number + 1, study.best_value)


def finished(study):
    """Return the finished trials of a study, those that were pruned, too."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _try(trial, folds, space):
    """Return the loss of the settings that a trial draws; it is pruned once it is clearly worse
    than those before.
    """

    def report(step, loss):
        trial.report(loss, step)
        if trial.should_prune():
            raise optuna.TrialPruned

    loss, rounds = folds.evaluate(suggest(trial, space), report)
    trial.set_user_attr("rounds", rounds)
    return loss


def _try_first(study, folds, space):
    """Add the fair guess, once it is done: a killed process leaves nothing of it."""
    steps = {}
    loss, rounds = folds.evaluate(FIRST, steps.__setitem__)
    first = {
        "params": FIRST,
        "distributions": space,
        "intermediate_values": steps,
        "user_attrs": {"rounds": rounds},
    }
    study.add_trial(create_trial(value=loss, **first))


def best_config(study, folds, patients, trials):
    """Return {"stacked", "why", "rounds", "params", "trials", "inner_loss", "inner_calibrated"} of
    a finished study.

    Only the first `trials` finished trials count. The best one is taken where its gain over trial
    0, the fair guess, is beyond doubt on the inner folds, else trial 0: with few patients the best
    of many trials is the luckiest. A label is stacked where the gain of the one taken over the
    calibrated stage one is beyond doubt. Beyond doubt: the interval over patients (n,) at the level
    of the config lies above zero.
    """
    tried = finished(study)[:trials]
    first, *others = [trial for trial in tried if trial.state == TrialState.COMPLETE]
    best = min([first, *others], key=lambda trial: trial.value)
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
        "trials": len(tried),
        "inner_loss": taken.value,
        "inner_calibrated": float(log_loss(folds.y, expit(folds.base)).mean()),
        "params": taken.params,
    }


def _low(folds, gain, patients):
    return patient_bootstrap(gain, patients, seed=folds.seed, level=folds.config.confidence)[0]
