"""The registry of the components that stage two blends: one file each, one line each.

This module imports no component: `stage2_stack.config` checks recipes with it, and torch,
LightGBM and XGBoost take seconds to import.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """One component of the registry."""

    name: str  # in recipes, file names and scores.json
    location: str  # module.Class in this folder
    default: bool = True  # whether a recipe that names no components has it
    package: str = ""  # the optional package, and extra of this project, that it needs
    tuned: bool = False  # whether the stage `tune` searches its settings


REGISTRY = (  # in the order in which they enter a blend
    Entry("raw", "cnn_mean.CnnMean"),
    Entry("smooth", "smoothed_mean.SmoothedMean"),
    Entry("chain", "markov_posterior.MarkovPosterior"),
    Entry("lightgbm", "label_lightgbm.LabelLightGBM", tuned=True),
    Entry("xgboost", "label_xgboost.LabelXGBoost", default=False, package="xgboost"),
    Entry("catboost", "label_catboost.LabelCatBoost", default=False, package="catboost"),
    Entry("gru", "series_gru.SeriesGRU", default=False),
    Entry("pooled", "pooled_lightgbm.PooledLightGBM"),
    Entry("subtypes", "noisy_or.NoisyOr"),
)
DEFAULT = tuple(entry.name for entry in REGISTRY if entry.default)
# all names: the defaults first, as in the ablation table
COMPONENTS = (*DEFAULT, *(entry.name for entry in REGISTRY if not entry.default))
PACKAGES = {entry.name: entry.package for entry in REGISTRY if entry.package}
TUNED = tuple(entry.name for entry in REGISTRY if entry.tuned)
