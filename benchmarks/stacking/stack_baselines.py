"""Baselines of stage two on any table of predictions; each returns probabilities (n, 6).

All are out of fold and calibrated by Platt's method without the fold that they are scored on. The
number of rounds of fold k comes from boosters that were trained neither on fold k nor on the fold
that they were evaluated on.
"""

from itertools import combinations

import lightgbm as lgb
import numpy as np
from scipy.special import expit

from ct.averaging import held_out_mean, mean_logits
from ct.labels import LABELS
from features.build import build_features
from features.cnn_weights import cross_fit_weights, equal_weights, without_left_out
from features.markov_fitting import cross_fit_chains
from features.neighbours import neighbour_features, shift
from stage2_stack.calibration import cross_fit, fit_platt
from stage2_stack.learners.binned_features import FIXED

PUBLISHED_WIDTHS = {  # Gaussian smoothing by public solvers, standard deviation in slices
    "any": 0.7,
    "epidural": 2.9,
    "intraparenchymal": 0.6,
    "intraventricular": 0.55,
    "subarachnoid": 1.1,
    "subdural": 1.5,
}
PLAIN_REACH = 9
PLAIN = {  # a fair untuned booster for these tables
    "learning_rate": 0.1,
    "num_leaves": 15,
    "min_data_in_leaf": 30,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.7,
    "lambda_l2": 10.0,
}
MAX_ROUNDS = 150


def raw_mean(simulated):
    """Return the mean of the CNNs' logits, calibrated."""
    return calibrated(mean_logits(simulated.logits()), simulated)


def smoothed(simulated, widths=None):
    """Return the Gaussian mean of the mean logits over the slices of a series, calibrated.

    widths: {label: slices}
    """
    widths = PUBLISHED_WIDTHS if widths is None else widths
    logits = mean_logits(simulated.logits()).astype(np.float64)
    total, weight = np.zeros(logits.shape), np.zeros(logits.shape)
    spread = np.array([widths[label] for label in LABELS])
    for step in range(-12, 13):
        value = shift(logits, simulated.slices, step)
        w = np.exp(-0.5 * (step / spread) ** 2) * ~np.isnan(value)
        total, weight = total + w * np.nan_to_num(value), weight + w
    return calibrated(total / weight, simulated)


def without_context(simulated, params=PLAIN, seed=0):
    """Return a stacker on all six logits of all CNNs of the slice itself, and nothing else."""
    return boosted(
        np.concatenate(list(simulated.logits().values()), axis=1),
        simulated,
        params,
        seed,
    )


def plain_neighbours(simulated, params=PLAIN, seed=0):
    """Return the public solvers' stacker: one LightGBM per label on nine neighbours each way.

    It reads the mean logits of the slice and of its neighbours.
    """
    logits = mean_logits(simulated.logits())
    around, _ = neighbour_features(simulated.slices, logits, LABELS, PLAIN_REACH)
    return boosted(np.concatenate([logits, around], axis=1), simulated, params, seed)


def boosted(x, simulated, params, seed=0):
    """Return the out-of-fold probabilities (n, 6) of one booster per label on x (n, f).

    params: LightGBM's, or {label: LightGBM's}
    """
    probs, x = np.empty(simulated.y.shape), x.astype(np.float32)
    data = lgb.Dataset(x, params={**FIXED, "num_threads": 1}, free_raw_data=False).construct()
    for column, label in enumerate(LABELS):
        own = params.get(label, params)
        probs[:, column] = nested_boost(
            x, data, simulated.y[:, column], simulated.fold, {**own, "seed": seed}
        )
    return probs


def nested_boost(x, data, y, fold, params, rounds=MAX_ROUNDS):
    """Return calibrated out-of-fold probabilities (n,) of boosters on x (n, f), binned in `data`.

    A booster without the folds j and k serves twice: judged on j it helps to choose the rounds of
    fold k, and judged on k those of j. Their scores calibrate fold k's booster, too.
    """
    data.set_label(y)
    folds, curves, pairs = np.unique(fold), {}, {}
    for pair in combinations(folds, 2):
        pairs[pair], found = _train(
            data, ~np.isin(fold, pair), params, rounds, [fold == k for k in pair]
        )
        curves |= {pair: found[0], pair[::-1]: found[1]}  # [j, k]: judged on j, without j and k
    probs = np.empty(len(y))
    for k in folds:
        others = [j for j in folds if j != k]
        best = (
            int(
                np.argmin(
                    np.average(
                        [curves[j, k] for j in others],
                        axis=0,
                        weights=[(fold == j).sum() for j in others],
                    )
                )
            )
            + 1
        )
        score = np.empty(len(y))
        for j in others:
            score[fold == j] = pairs[min(j, k), max(j, k)].predict(
                x[fold == j], raw_score=True, num_iteration=best, num_threads=1
            )
        final, _ = _train(data, fold != k, params, best)
        score[fold == k] = final.predict(x[fold == k], raw_score=True, num_threads=1)
        platt = fit_platt(score[fold != k], y[fold != k])
        probs[fold == k] = expit(platt.logit(score[fold == k]))
    return probs


def _train(data, rows, params, rounds, valid=()):
    """Return a booster on the given rows (bool), and its loss on each set of rows in `valid`.

    The losses are those after each round.
    """
    curves = {}
    sets = [data.subset(np.flatnonzero(v)) for v in valid]
    booster = lgb.train(
        {**FIXED, "num_threads": 1, **params},
        data.subset(np.flatnonzero(rows)),
        num_boost_round=rounds,
        valid_sets=sets,
        valid_names=[str(i) for i in range(len(sets))],
        callbacks=[lgb.record_evaluation(curves)],
    )
    return booster, [np.array(curves[str(i)]["binary_logloss"]) for i in range(len(sets))]


def calibrated(logits, simulated):
    """Return probabilities (n, 6) of logits (n, 6), each label by the Platt of the other folds."""
    fold, y = simulated.fold, simulated.y
    return expit(
        np.column_stack(
            [cross_fit(logits[:, j], y[:, j], fold, fold.max() + 1)[0] for j in range(y.shape[1])]
        )
    )


def permuted(simulated, seed, within="study"):
    """Return the same table with the slices permuted: labels and predictions move, places stay.

    within: "study" permutes inside each series: the order is lost, but not what the slices of a
    series have in common; "fold" permutes over all series of a fold: no context is left
    """
    rng = np.random.default_rng(seed)
    group = (
        simulated.fold if within == "fold" else np.cumsum(simulated.slices["place"].to_numpy() == 0)
    )
    order = np.empty(len(group), dtype=int)
    order[np.argsort(group, kind="stable")] = np.lexsort([rng.random(len(group)), group])
    slices = simulated.slices.copy()
    slices[list(LABELS)] = slices[list(LABELS)].to_numpy()[order]
    probs = {name: p[order] for name, p in simulated.probs.items()}
    return simulated._replace(slices=slices, y=simulated.y[order], probs=probs)


def stack_features(simulated, config):
    """Return the features (n, f) of a FeatureConfig and their names, as the stage makes them."""
    logits, y, fold = simulated.logits(), simulated.y, simulated.fold
    folds = int(fold.max()) + 1
    weights = equal_weights(len(logits), folds)
    if config.cnn_weights == "fitted":
        patients = simulated.slices["patient_id"].to_numpy(object)
        weights = cross_fit_weights(logits, y, patients, fold, folds)
    mean = held_out_mean(logits, fold, weights)
    chain = None
    if config.chain:
        chain, _ = cross_fit_chains(simulated.slices, mean, y, fold, folds)
    kept = without_left_out(logits, fold, weights)
    return build_features(simulated.slices, kept, config, markov_logits=chain, cnn_mean=mean)
