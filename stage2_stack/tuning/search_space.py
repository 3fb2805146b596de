"""The settings of a label's LightGBM booster that optuna searches, and their ranges."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from features.columns import SCOPES

Space = Mapping[str, BaseDistribution]
SPACE: dict[str, BaseDistribution] = {
    "scope": CategoricalDistribution(tuple(SCOPES)),
    "learning_rate": FloatDistribution(0.02, 0.2, log=True),
    "num_leaves": IntDistribution(3, 31, log=True),
    "min_data_in_leaf": IntDistribution(5, 100, log=True),
    "feature_fraction": FloatDistribution(0.1, 1.0),
    "bagging_fraction": FloatDistribution(0.5, 1.0),
    "lambda_l2": FloatDistribution(0.1, 100.0, log=True),
}
# trial 0: shallow, slow and strongly regularised, a reasonable guess for any label
FIRST: dict[str, Any] = {
    "scope": "context",
    "learning_rate": 0.05,
    "num_leaves": 7,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.4,
    "bagging_fraction": 0.8,
    "lambda_l2": 10.0,
}
# for a rare label: hundreds of positive studies in the competition, tens in a hospital's own data
RARE: dict[str, BaseDistribution] = {
    **SPACE,
    "scope": CategoricalDistribution(("context", "study")),
    "learning_rate": FloatDistribution(0.02, 0.1, log=True),
    "num_leaves": IntDistribution(3, 12, log=True),
    "min_data_in_leaf": IntDistribution(15, 200, log=True),
    "feature_fraction": FloatDistribution(0.1, 0.6),
    "lambda_l2": FloatDistribution(3.0, 300.0, log=True),
}


def space_of(label: str) -> dict[str, BaseDistribution]:
    """Return the space of a label's boosters: {setting: optuna distribution}."""
    return RARE if label == "epidural" else SPACE


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """Return {setting: value} that an optuna trial draws from a space."""
    params: dict[str, Any] = {}
    for name, domain in space.items():
        if isinstance(domain, CategoricalDistribution):
            params[name] = trial.suggest_categorical(name, domain.choices)
        elif isinstance(domain, IntDistribution):
            params[name] = trial.suggest_int(name, domain.low, domain.high, log=domain.log)
        elif isinstance(domain, FloatDistribution):
            params[name] = trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    return params


def split_scope(params: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Split a trial's parameters into LightGBM's own and the scope of the features."""
    return {name: value for name, value in params.items() if name != "scope"}, params["scope"]
