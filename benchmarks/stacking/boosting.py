"""Seconds and losses of stage two's boosters, compared with plain LightGBM calls.

    python -m benchmarks.stacking.boosting [--quick] [--rows=N] [--fits=N]

Six labels x 5 folds, one booster each: 300 features, 200 rounds, 63 leaves, a third of the features
per tree, 2 threads. Ours bins the matrix once, takes the rows of each booster from it, and fits two
boosters side by side, one thread each: with LightGBM's own 255 bins, and with
`stage2: {tail_bins: 63}`. Plain calls `lgb.train` with two threads,
each time on a Dataset of its own, once with LightGBM's own choice between rows and columns and once
with `force_col_wise`. Binning and boosting are timed apart, and so are the rows that ours takes.
752,803 rows; --quick takes a thirty-second. Rows and labels are made up: neighbours of noisy
logits, and NaN at the ends of series.

Ten of the thirty are fitted, or --fits=N, and the seconds are scaled up, but for what ours does
once. The ways take turns, two boosters each, so that other work on the machine affects all alike. A
loss counts as the same up to a thousandth of it: the bin edges of ours come from all rows, those of
plain from the rows of its fold. With tail bins it counts up to a hundredth: the trees are others,
and the loss of ten models differs by as much from one set of edges to the next.
"""

import functools
import itertools
import os
import sys
import time

import lightgbm as lgb
import numpy as np
from scipy.special import expit

from benchmarks.command_line import flag_parser
from ct.labels import LABELS, WEIGHTS
from ct.metrics import log_loss
from ct.system.parallel_jobs import cores, run_threads
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.learners.lightgbm_booster import boosted_logit, fit_booster

TAIL_BINS = 63
ROWS, FEATURES, ROUNDS, FOLDS, ALL = 752_803, 300, 200, 5, 30
THREADS = int(os.environ.get("ICH_BENCH_THREADS", "2"))  # fewer on a box that others use
PARAMS = {
    "objective": "binary",
    "learning_rate": 0.1,
    "num_leaves": 63,
    "feature_fraction": 0.3,
    "verbosity": -1,
    "seed": 0,
    "num_threads": THREADS,
}
OURS = {"ours": 0, f"ours, {TAIL_BINS} tail bins": TAIL_BINS}  # tail_bins of each way
BAR = 0.6  # share of the time of plain calls


def main():
    options = flag_parser(__doc__)
    options.add_argument("--rows", type=int)
    options.add_argument("--fits", type=int, default=10, choices=(10, 20, ALL))
    options = options.parse_args()
    rows = options.rows or (ROWS // 32 if options.quick else ROWS)
    print(
        f"{cores()} cores; {rows:,} rows, {FEATURES} features, {ROUNDS} rounds; seconds of two "
        "boosters:"
    )
    seconds, losses = measure(*made_up(rows), options.fits // FOLDS)
    print(
        f"\n{'six labels x 5 folds':24}binning  rows taken  boosting  total, s   loss of "
        f"{options.fits} models"
    )
    for way, (once, each, boosting) in seconds.items():
        print(
            f"{way:22}{once:9.1f}{each:12.1f}{boosting:10.1f}{once + each + boosting:10.1f}   "
            f"{losses[way]:.6f}"
        )
    missed = []
    same = dict(zip(OURS, (1.001, 1.01), strict=True))
    for ours_way, way in itertools.product(OURS, PLAIN):
        share = sum(seconds[ours_way]) / sum(seconds[way])
        print(f"{ours_way} / {way}: {share:.2f} of the time")
        if share > BAR:
            missed.append(f"{ours_way}: {share:.2f} of the time of {way}, the bar is {BAR}")
        if losses[ours_way] > losses[way] * same[ours_way]:
            missed.append(f"{ours_way}: loss {losses[ours_way]:.6f}; {way}: {losses[way]:.6f}")
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


def measure(X, y, fold, labels):
    """Fit the boosters of the first `labels` labels, an even number, all ways in turn.

    Returns {way: seconds of all thirty, (3,): binning, taking rows, boosting} and {way: weighted
    loss out of fold}.
    """
    # wakes the library and its threads
    lgb.train(PARAMS, lgb.Dataset(X[:1000], label=y[:1000, 0]), 5)
    ways, once = dict(PLAIN), {}
    for way, tail_bins in OURS.items():
        start = time.perf_counter()
        features = BinnedFeatures(X, [f"f{i}" for i in range(FEATURES)], tail_bins=tail_bins)
        features.bin_columns(np.arange(FEATURES))
        once[way] = np.array([time.perf_counter() - start, 0, 0])
        ways[way] = functools.partial(ours, features)
    spent = {way: np.zeros(3) for way in ways}
    predictions = {way: np.full((len(y), labels), np.nan) for way in ways}
    for pair in np.arange(labels).reshape(-1, 2):
        for k in range(FOLDS):
            turn = {
                way: np.array(fit(X, y, fold, k, pair, predictions[way]))
                for way, fit in ways.items()
            }
            for way, seconds in turn.items():
                spent[way] += seconds
            seconds_of_ways = ", ".join(
                f"{way} {seconds.sum():.1f}" for way, seconds in turn.items()
            )
            print(
                f"fold {k}, {LABELS[pair[0]]} and {LABELS[pair[1]]}: {seconds_of_ways}", flush=True
            )
    spent = {
        way: seconds * ALL / (labels * FOLDS) + once.get(way, 0) for way, seconds in spent.items()
    }
    weights = WEIGHTS[:labels] / WEIGHTS[:labels].sum()
    return spent, {
        way: log_loss(y[:, :labels], found).mean(axis=0) @ weights
        for way, found in predictions.items()
    }


def ours(features, X, y, fold, k, labels, predictions):
    """Fit the boosters of some labels on all but fold k side by side; predict fold k.

    predictions (n, labels) is filled. Returns the seconds of (nothing, taking rows, boosting).
    """
    rows, held_out = np.flatnonzero(fold != k), np.flatnonzero(fold == k)

    def fit(j):
        start = time.perf_counter()
        base = np.full(len(rows), prior(y[rows, j]))
        data = features.dataset(np.arange(FEATURES), rows, y[rows, j], base)
        return time.perf_counter() - start, fit_booster(data, PARAMS, ROUNDS, 0, 1)[0]

    start = time.perf_counter()
    fitted = run_threads(fit, labels, THREADS)
    total, taking = time.perf_counter() - start, sum(seconds for seconds, _ in fitted) / THREADS
    for j, (_, booster) in zip(labels, fitted, strict=True):
        predictions[held_out, j] = expit(
            boosted_logit(booster, X[held_out], prior(y[rows, j]), THREADS)
        )
    return 0, taking, total - taking


def plain(X, y, fold, k, labels, predictions, **params):
    """Bin and fit the boosters of some labels on all but fold k one by one; predict fold k.

    predictions (n, labels) is filled. Returns the seconds of (binning, nothing, boosting).
    """
    seconds, params = np.zeros(3), {**PARAMS, **params}
    for j in labels:
        start = time.perf_counter()
        data = lgb.Dataset(X[fold != k], label=y[fold != k, j], params=params).construct()
        binned = time.perf_counter()
        booster = lgb.train(params, data, num_boost_round=ROUNDS)
        seconds += binned - start, 0, time.perf_counter() - binned
        predictions[fold == k, j] = booster.predict(X[fold == k], num_threads=THREADS)
    return seconds


PLAIN = {
    "plain": plain,
    "plain, force_col_wise": functools.partial(plain, force_col_wise=True),
}


def prior(y):
    """The logit that LightGBM itself starts from."""
    return float(np.log(y.mean() / (1 - y.mean())))


def made_up(rows):
    """Return X (n, 300) float32, y (n, 6) and fold (n,).

    The labels are runs of positives in series of 32; X shows them through noise.
    """
    rng = np.random.default_rng(0)
    series = -(-rows // 32)
    place, number = np.tile(np.arange(32), series)[:rows], np.repeat(np.arange(series), 32)[:rows]
    y = np.empty((rows, len(LABELS)))
    for j in range(len(LABELS)):
        start, has = rng.integers(0, 26, series), rng.random(series) < 0.3
        y[:, j] = has[number] & (place >= start[number]) & (place < start[number] + 6)
    logits = (3 * y - 2.5 + rng.normal(0, 1.5, y.shape)).astype(np.float32)
    X = np.empty((FEATURES, rows), np.float32)
    for i in range(FEATURES):
        j, step = i % len(LABELS), (i // len(LABELS) + 1) // 2 * (-1) ** (i // len(LABELS))
        X[i] = np.roll(logits[:, j], -step)
        X[i, (place + step < 0) | (place + step > 31)] = np.nan
    return np.ascontiguousarray(X.T), y, rng.integers(0, FOLDS, series)[number]


if __name__ == "__main__":
    sys.exit(main())
