"""How much faster one LightGBM fit is with two threads than with one."""

import time

import lightgbm as lgb
import numpy as np

from stage2_stack.learners.binned_features import FIXED

ROWS, COLUMNS, ROUNDS, REPEATS = 150_000, 300, 10, 3  # a quarter of gold's rows, a third of columns


def speedup_of_two() -> float:
    """Return the seconds of a fit with one thread over those with two, the least of three each."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    y = (X[:, :10].sum(axis=1) + rng.normal(size=ROWS) > 3).astype(float)
    params = {**FIXED, "num_leaves": 63, "feature_fraction": 0.3, "learning_rate": 0.05}
    data = lgb.Dataset(X, y, params=params).construct()
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(REPEATS):
        for threads, taken in seconds.items():
            start = time.perf_counter()
            lgb.train({**params, "num_threads": threads}, data, ROUNDS)
            taken.append(time.perf_counter() - start)
    return min(seconds[1]) / min(seconds[2])
