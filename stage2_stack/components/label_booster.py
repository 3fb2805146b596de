"""Base of the components that fit boosters for each label by itself."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from ct.seeds import derive_seed
from features.columns import scope_columns
from stage2_stack.components.component import Component, InferenceContext
from stage2_stack.learners.binned_features import BinnedFeatures
from stage2_stack.learners.learner import Floats, Ints, TreeLearner
from stage2_stack.learners.model_input import TabularInput
from stage2_stack.learners.nested_fit import FitSettings, fit_nested
from stage2_stack.nested_cv import FittedComponent
from stage2_stack.stack_context import StackContext

UNTUNED_SCOPE = "study"  # scope of the features of the boosters that are not tuned


class LabelBooster(Component):
    """Boosters of one label, which start from its calibrated CNN logits."""

    learner: TreeLearner

    @abstractmethod
    def settings(self, context: StackContext, label: str) -> list[FitSettings | None]:
        """Return the settings of each fold, with a scope; None for a fold without a model."""

    def columns(self, names: list[str], label: str, models: Sequence[Any]) -> Ints:
        """Return the columns that stored models read, int (c,)."""
        return scope_columns(names, label, UNTUNED_SCOPE)

    def fit(self, context: StackContext, labels: Sequence[str]) -> dict[str, FittedComponent]:
        """Fit the boosters of one label."""
        (label,) = labels
        names, settings = context.data.names, self.settings(context, label)
        scopes = [chosen.scope for chosen in settings if chosen]
        if not scopes:
            return {}
        columns = {scope: scope_columns(names, label, scope) for scope in scopes}
        cnn_logits, y = context.cnn_logits([label]), context.targets(label)[None]
        inputs = {
            scope: TabularInput(context.features, read, cnn_logits, y, self.learner)
            for scope, read in columns.items()
        }
        # fit_nested does not use the input of a fold without a model
        scope_of = [chosen.scope if chosen else scopes[0] for chosen in settings]
        (fitted,) = fit_nested(
            context.folds,
            [inputs[scope] for scope in scope_of],
            settings,
            context.config,
            derive_seed(context.seed, self.name, label),
            context.side_by_side,
        )

        def by_feature(values: dict[int, Floats]) -> dict[int, Floats]:
            return {k: spread_out(v, columns[scope_of[k]], len(names)) for k, v in values.items()}

        gain, contributions = by_feature(fitted.gain), by_feature(fitted.contributions)
        return {label: fitted._replace(gain=gain, contributions=contributions)}

    def predict(
        self, rows: InferenceContext, models: Sequence[Any], labels: Sequence[str]
    ) -> Floats:
        """Return the logits of one label, (1, n)."""
        (label,) = labels
        features = BinnedFeatures(rows.X, rows.names, rows.threads)
        columns = self.columns(rows.names, label, models)
        source = TabularInput(features, columns, rows.cnn_logits(labels), None, self.learner)
        return source.predict(models, [rows.calibrations[label]], np.arange(len(rows.X)))

    def column_count(self, label: str, names: list[str]) -> int:
        """Return how many of the features `names` a booster with fixed settings reads."""
        return len(scope_columns(names, label, UNTUNED_SCOPE))


def untuned_settings(
    context: StackContext, label: str, params: dict[str, Any]
) -> list[FitSettings | None]:
    """Return the fixed settings of each fold; None where the label cannot be stacked."""
    settings = FitSettings(params, scope=UNTUNED_SCOPE)
    return [settings if usable else None for usable in context.usable_folds([label])]


def spread_out(values: Floats, columns: Ints, count: int) -> Floats:
    """Return values (count,): `values` (c,) at `columns`, 0 elsewhere."""
    whole = np.zeros(count)
    whole[columns] = values
    return whole
