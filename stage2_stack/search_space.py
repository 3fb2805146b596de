"""Where optuna looks: the settings of a per-label booster and their ranges."""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from features.columns import SCOPES

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
# for a label with hundreds of positive studies in all the competition, tens in one's own data
RARE = {
    **SPACE,
    "scope": CategoricalDistribution(("context", "study")),
    "learning_rate": FloatDistribution(0.02, 0.1, log=True),
    "num_leaves": IntDistribution(3, 12, log=True),
    "min_data_in_leaf": IntDistribution(15, 200, log=True),
    "feature_fraction": FloatDistribution(0.1, 0.6),
    "lambda_l2": FloatDistribution(3.0, 300.0, log=True),
}


def space_of(label):
    """Return {setting: optuna distribution} of the boosters of a label."""
    return RARE if label == "epidural" else SPACE


def suggest(trial, space):
    """Return {setting: value} that an optuna trial draws from a space."""
    found = {}
    for name, where in space.items():
        if isinstance(where, CategoricalDistribution):
            found[name] = trial.suggest_categorical(name, where.choices)
        else:
            kind = trial.suggest_int if isinstance(where, IntDistribution) else trial.suggest_float
            found[name] = kind(name, where.low, where.high, log=where.log)
    return found


def split_scope(params):
    """Split a trial's parameters into LightGBM's own and the scope of the features."""
    return {name: value for name, value in params.items() if name != "scope"}, params["scope"]
