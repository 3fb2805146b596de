"""LightGBM boosters that start from a calibrated logit: without any round they equal stage one.

Models, predictions and recorded losses are the same, byte for byte, with any number of threads:
with `deterministic` and `force_col_wise` LightGBM's trees are. Its own log loss is not, since each
thread sums up its part of the rows. Therefore `fit_booster` computes the losses itself.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import lightgbm as lgb
import numpy as np

from ct.errors import printable
from ct.metrics import KAGGLE_CLIP
from stage2_stack.learners.binned_features import FIXED, BinnedFeatures
from stage2_stack.learners.learner import Floats, Ints, Values
from stage2_stack.learners.lightgbm_text import check_booster_text

LOSS = "log_loss"
THREADS = re.compile(r"\[num_threads: \d+\]")  # in the parameters at the end of a model's text


def fit_booster(
    data: lgb.Dataset,
    params: Mapping[str, Any],
    rounds: int,
    seed: int,
    threads: int,
    valid: Sequence[lgb.Dataset] = (),
) -> tuple[lgb.Booster, Floats]:
    """Boost `rounds` rounds on a Dataset.

    valid: v Datasets. Returns (booster, curves): the log loss on each after each round, (v,
    rounds).
    """
    record: dict[str, Any] = {}
    names = [f"valid{number}" for number in range(len(valid))]
    settings = {**FIXED, **params, "seed": seed, "num_threads": threads}
    if names:
        settings["metric"] = "None"  # do not compute LightGBM's own, too
    booster = lgb.train(
        settings,
        data,
        num_boost_round=rounds,
        valid_sets=list(valid),
        valid_names=names,
        feval=_mean_log_loss if names else None,
        callbacks=[lgb.record_evaluation(record)] if names else [],
    )
    curves = np.array([record[name][LOSS] for name in names])
    return booster, curves.reshape(len(names), rounds)


def _mean_log_loss(probabilities: Floats, data: lgb.Dataset) -> tuple[str, float, bool]:
    """Return (name, mean log loss, whether more is better), as `lightgbm.train` needs them."""
    of_label = np.where(np.asarray(data.get_label()) > 0, probabilities, 1 - probabilities)
    return LOSS, -float(np.log(np.maximum(of_label, KAGGLE_CLIP)).mean()), False


def boosted_logit(
    booster: lgb.Booster,
    X: Values,
    base: Floats | float,
    threads: int = 1,
    rounds: int | None = None,
) -> Floats:
    """Return the logits (n,) after `rounds` rounds (None: all).

    X: (n, f) float32; base: (n,) starting logits, or one number for all rows
    """
    added: Any = booster.predict(X, raw_score=True, num_threads=threads, num_iteration=rounds or -1)
    return np.asarray(base + added)


def gain_share(model: lgb.Booster) -> Floats:
    """Return each feature's share of the total gain, (f,), summing to 1; all 0 without a split."""
    gain: Floats = model.feature_importance("gain").astype(np.float64)
    return gain / max(gain.sum(), 1e-12)


class LightGBM:
    """The learner of LightGBM, on bins that are made once."""

    suffix, thread_safe = ".txt", True
    fit, gain = staticmethod(fit_booster), staticmethod(gain_share)

    def dataset(
        self, features: BinnedFeatures, columns: Ints, rows: Ints, y: Floats, base: Floats
    ) -> lgb.Dataset:
        """Return LightGBM's Dataset."""
        return features.dataset(columns, rows, y, base)

    def added_logits(
        self, model: lgb.Booster, values: Values, threads: int, rounds: int | None = None
    ) -> Floats:
        """Return the raw scores of the trees."""
        return boosted_logit(model, values, 0.0, threads, rounds)

    def contributions(self, model: lgb.Booster, values: Values, threads: int) -> Floats:
        """Return LightGBM's own SHAP values."""
        shap: Any = model.predict(values, pred_contrib=True, num_threads=threads)
        return np.asarray(shap[:, :-1])  # without the constant

    def column_count(self, model: lgb.Booster) -> int:
        """Return the number of features of the training data."""
        return int(model.num_feature())

    def save(self, model: lgb.Booster) -> bytes:
        """Return LightGBM's text, with 1 as its number of threads, whatever the fit had."""
        return bytes(THREADS.sub("[num_threads: 1]", model.model_to_string()).encode())

    def load(self, raw: bytes) -> lgb.Booster:
        """Read LightGBM's text."""
        return lgb.Booster(model_str=raw.decode())


def check_lightgbm_file(raw: bytes, names: list[str], every_feature: bool) -> None:
    """Raise ValueError where bytes are no LightGBM model on the features `names`.

    every_feature: the model reads all of them in their order; else it may read some
    """
    model_names = check_booster_text(raw.decode("ascii", "replace"))
    if every_feature and model_names != names:
        raise ValueError("it reads other features than the pooled ones")
    if unknown := sorted(set(model_names) - set(names)):
        raise ValueError(f"it reads the feature {printable(unknown[0])!r}, which is not there")
    try:
        lgb.Booster(model_str=raw.decode())
    except lgb.basic.LightGBMError as error:
        raise ValueError(f"LightGBM does not read it ({printable(error)})") from None
