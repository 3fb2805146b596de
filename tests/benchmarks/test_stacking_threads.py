"""The benchmarks of stage two fit on one thread: two on a busy machine took sixty times as long."""

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks.stacking import (
    calibration,
    simulated_cnns,
    small_data,
    stack_baselines,
    stack_gain,
    swapped_labels,
)
from ct.labels import LABELS


def blas_threads():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


class SeenThreads(Exception):
    """Ends a function at the first call of a stand-in; its argument is the number of threads."""


def stand_in(*arguments, **keywords):
    raise SeenThreads(blas_threads())


TABLE = pd.DataFrame(np.zeros((4, 6)), columns=list(LABELS))
Y, PATIENTS = TABLE.to_numpy(), np.arange(4)


@pytest.mark.parametrize(
    ("function", "arguments", "called"),
    [
        (simulated_cnns.simulate, (TABLE, "runs", 0), (simulated_cnns, "assign_folds")),
        (stack_gain.contend, ("ours", "runs", 0, 1, None), (stack_gain, "some_studies")),
        (swapped_labels.contend, (None, "all"), (swapped_labels, "stack_only")),
        (small_data.of_draw, (TABLE, "runs", 0, "patient"), (simulated_cnns, "simulate")),
        (calibration.table, ("all", Y, Y, PATIENTS, 1.0), (calibration, "assign_folds")),
    ],
)
def test_linear_algebra_has_one_thread(monkeypatch, function, arguments, called):
    monkeypatch.setattr(*called, stand_in)
    with threadpool_limits(2, "blas"), pytest.raises(SeenThreads) as seen:
        function(*arguments)
    assert seen.value.args == ({1},)


def test_a_fit_of_stack_gain_has_one_thread(monkeypatch):
    seen = {}

    def fit_stack(rows, test_X, tuned, config, seed):
        seen["fits"] = config.threads

    def settings(rows, features, label, k, config):
        seen["bins"] = features.threads

    monkeypatch.setattr(stack_gain, "fit_stack", fit_stack)
    monkeypatch.setattr(stack_gain, "settings", settings)
    stack_gain.fit(simulated(), np.zeros((20, 2), np.float32), ["a", "b"], config())
    assert seen == {"fits": 1, "bins": 1}


def config():
    return stack_gain.stack_only().stage2


def simulated(rows=20):
    rng = np.random.default_rng(0)
    y = (rng.random((rows, 6)) < 0.5).astype(float)
    slices = pd.DataFrame({"patient_id": [f"p{row}" for row in range(rows)]})
    return simulated_cnns.Simulated(slices, y, np.arange(rows) % 3, {})


def test_the_baselines_boosters_are_trained_and_predict_with_one(monkeypatch):
    threads, train = [], stack_baselines.lgb.train
    predict = stack_baselines.lgb.Booster.predict

    def counted_train(params, *arguments, **keywords):
        threads.append(params["num_threads"])
        return train(params, *arguments, **keywords)

    def counted_predict(booster, *arguments, **keywords):
        threads.append(keywords["num_threads"])
        return predict(booster, *arguments, **keywords)

    monkeypatch.setattr(stack_baselines.lgb, "train", counted_train)
    monkeypatch.setattr(stack_baselines.lgb.Booster, "predict", counted_predict)
    small = {"num_leaves": 3, "min_data_in_leaf": 1}
    data = simulated(60)
    probs = stack_baselines.boosted(np.random.default_rng(1).random((60, 3)), data, small)
    assert np.isfinite(probs).all() and set(threads) == {1} and len(threads) > 60
