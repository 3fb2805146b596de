"""Component `lightgbm`: LightGBM boosters for each label, tuned by optuna."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage2_stack.components.label_booster import LabelBooster
from stage2_stack.learners.lightgbm_booster import LightGBM, check_lightgbm_file
from stage2_stack.learners.nested_fit import FitSettings
from stage2_stack.stack_context import StackContext
from stage2_stack.tuning.search_space import split_scope


class LabelLightGBM(LabelBooster):
    """LightGBM with the settings, rounds and feature scope that the stage `tune` chose.

    In a blend a booster is best with more rounds than alone: the others average its noise away.
    The rounds of `tune` are therefore multiplied by `blend_rounds`.
    """

    title = "LightGBM, a label each"
    tuned_on = "optuna on the other folds, each fold its own search"
    learner = LightGBM()
    reads = ("seeds", "calibrate_by", "blend_rounds", "tail_bins")

    def settings(self, context: StackContext, label: str) -> list[FitSettings | None]:
        """Return the tuned settings; None for the folds in which tuning did not stack the label."""
        settings: list[FitSettings | None] = []
        for tuned in context.tuned[label]:
            if tuned["stacked"]:
                params, scope = split_scope(tuned["params"])
                factor = context.config.blend_rounds
                settings.append(FitSettings(params, tuned["rounds"], scope=scope, factor=factor))
            else:
                settings.append(None)
        return settings

    def columns(self, names: list[str], label: str, models: Sequence[Any]) -> NDArray[np.int_]:
        """Return the columns that the first model names: its scope is tuned."""
        return np.array([names.index(name) for name in models[0].feature_name()])

    def check_file(self, raw: bytes, names: list[str]) -> None:
        """Raise ValueError where bytes are no LightGBM model on some of the features."""
        check_lightgbm_file(raw, names, every_feature=False)
