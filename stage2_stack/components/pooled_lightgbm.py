"""Component `pooled`: one LightGBM booster for the five subtypes, their rows one below the other.

A rare subtype learns from the common ones: a bleed changes along a series in much the same way in
all subtypes. A row's own label comes first, under names that are the same for all subtypes;
then the other subtypes' logits, largest first; then `any`, the geometry, and five columns that
mark the subtype.
"""

from collections.abc import Sequence
from typing import Any

import lightgbm as lgb
import numpy as np

from ct.labels import SUBTYPES
from ct.seeds import derive_seed
from features.columns import scope_columns
from stage2_stack.components.component import Component, InferenceContext
from stage2_stack.learners.binned_features import BLOCK, BinnedFeatures, BinStore
from stage2_stack.learners.learner import Floats, Ints, Values
from stage2_stack.learners.lightgbm_booster import LightGBM, check_lightgbm_file
from stage2_stack.learners.model_input import TabularInput
from stage2_stack.learners.nested_fit import FitSettings, fit_nested
from stage2_stack.nested_cv import FittedComponent
from stage2_stack.stack_context import StackContext

PARAMS = {
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 100,  # of five rows a slice
    "feature_fraction": 0.3,
    "bagging_fraction": 0.7,
    "lambda_l2": 10.0,
}
OTHERS = tuple(f"other_{place}" for place in range(1, len(SUBTYPES)))


class PooledLightGBM(Component):
    """LightGBM with fixed settings; the rounds are chosen on the nested rows."""

    title = "LightGBM, pooled"
    tuned_on = "rounds on the other folds' nested predictions"
    labels, joint = SUBTYPES, True
    learner = LightGBM()
    reads = ("seeds", "max_rounds", "positive_patients", "calibrate_by")

    def fit(self, context: StackContext, labels: Sequence[str]) -> dict[str, FittedComponent]:
        """Fit the boosters of all subtypes together."""
        usable = context.usable_folds(labels)
        if not any(usable):
            return {}
        data = context.data
        store = context.features.store
        features = PooledFeatures(data.X, data.names, context.config.threads, store)
        y = np.stack([context.targets(label) for label in labels])
        source = self._input(features, context.cnn_logits(labels), y)
        fitted = fit_nested(
            context.folds,
            [source] * len(usable),
            [FitSettings(PARAMS) if use else None for use in usable],
            context.config,
            derive_seed(context.seed, self.name),
            context.side_by_side,
        )
        return {
            label: of_label._replace(
                gain={k: to_features(v, data.names, label) for k, v in of_label.gain.items()},
                contributions={
                    k: to_features(v, data.names, label) for k, v in of_label.contributions.items()
                },
            )
            for label, of_label in zip(labels, fitted, strict=True)
        }

    def predict(
        self, rows: InferenceContext, models: Sequence[Any], labels: Sequence[str]
    ) -> Floats:
        """Return the logits of the subtypes, (5, n)."""
        features = PooledFeatures(rows.X, rows.names, rows.threads)
        source = self._input(features, rows.cnn_logits(labels), None)
        platts = [rows.calibrations[label] for label in labels]
        return source.predict(models, platts, np.arange(len(rows.X)))

    def check_file(self, raw: bytes, names: list[str]) -> None:
        """Raise ValueError where bytes are no LightGBM model on just the pooled features."""
        check_lightgbm_file(raw, pooled_names(names), every_feature=True)

    def _input(
        self, features: "PooledFeatures", cnn_logits: Values, y: Floats | None
    ) -> TabularInput:
        return TabularInput(features, np.arange(len(features.names)), cnn_logits, y, self.learner)


class PooledFeatures(BinnedFeatures):
    """The pooled features; their values, five rows for each of X, are computed when needed."""

    kind = "pooled"

    def __init__(
        self, X: Values, names: Sequence[str], threads: int = 1, store: BinStore | None = None
    ) -> None:
        """X: (n, f) float32, columns `names`; it may be a memory map. store: of X's bins."""
        super().__init__(X, pooled_names(names), threads, store)
        self.own_names = list(names)

    def values(self, columns: Ints, rows: Ints) -> Values:
        """Return the values (m, c) of some of the 5 * n rows and some columns."""
        numbers, rows = np.divmod(rows, len(self.X))
        values = np.empty((len(rows), len(columns)), np.float32)
        for number in np.unique(numbers):
            at = np.flatnonzero(numbers == number)
            pooled = pooled_rows(self.X, self.own_names, number, rows[at])
            values[at] = pooled if len(columns) == len(self.names) else pooled[:, columns]
        return values

    def _matrix(self, columns: Ints) -> "PooledRows":
        return PooledRows(self, columns)


class PooledRows(lgb.Sequence):
    """All rows of PooledFeatures, for LightGBM to bin: it reads them block by block.

    It takes the same sample of rows for the edges of the bins as from an array.
    """

    batch_size = BLOCK  # rows that LightGBM reads at once

    def __init__(self, features: PooledFeatures, columns: Ints) -> None:
        self.features, self.columns = features, columns
        self._start, self._block = 0, np.empty((0, len(columns)), np.float32)

    def __len__(self) -> int:
        return len(SUBTYPES) * len(self.features.X)

    def __getitem__(self, rows: Any) -> Any:
        """Return the values (c,) float64 of a sampled row, or (m, c) float32 of a slice of rows.

        LightGBM asks for sampled rows one by one, in rising order, and for float64.
        """
        if isinstance(rows, slice):
            return self.features.values(self.columns, np.arange(rows.start, rows.stop))
        if not self._start <= rows < self._start + len(self._block):
            self._start = rows - rows % BLOCK
            self._block = self[self._start : min(self._start + BLOCK, len(self))]
        return self._block[rows - self._start].astype(np.float64)


def own_kinds(names: Sequence[str]) -> list[str]:
    """Return what follows the label in the names of a subtype's features: "", "_z-1", ..."""
    first = SUBTYPES[0]
    return [
        name.removeprefix(first) for name in names if name == first or name.startswith(f"{first}_")
    ]


def pooled_names(names: Sequence[str]) -> list[str]:
    """Return the names of the pooled features that are made of features `names`."""
    shared = [names[i] for i in scope_columns(names, "any", "study")]
    return [
        *(f"own{kind}" for kind in own_kinds(names)),
        *OTHERS,
        *shared,
        *(f"is_{label}" for label in SUBTYPES),
    ]


def pooled_rows(X: Values, names: Sequence[str], number: int, rows: Ints | None = None) -> Values:
    """Return the pooled features (m, p) float32 of one subtype, SUBTYPES[number].

    X: (n, f); rows: int (m,); None for all
    """
    place, label = {name: i for i, name in enumerate(names)}, SUBTYPES[number]

    def values(columns: Any) -> Values:
        return X[:, columns] if rows is None else X[np.ix_(rows, columns)]

    logits = values([place[subtype] for subtype in SUBTYPES])
    own = values([place[label + kind] for kind in own_kinds(names)])
    others = -np.sort(-np.delete(logits, number, axis=1), axis=1)  # NaN last
    one_hot = np.zeros((len(logits), len(SUBTYPES)), np.float32)
    one_hot[:, number] = 1
    return np.hstack([own, others, values(scope_columns(names, "any", "study")), one_hot])


def to_features(values: Floats, names: Sequence[str], label: str) -> Floats:
    """Return values (p,) of the pooled features by the columns `names` of one subtype, (f,).

    Pooled features that are no column of X, such as `other_1`, are left out.
    """
    place, of_features = {name: i for i, name in enumerate(names)}, np.zeros(len(names))
    for pooled_name, value in zip(pooled_names(names), values, strict=True):
        name = pooled_name
        if pooled_name.startswith("own"):
            name = label + pooled_name.removeprefix("own")
        if name in place:
            of_features[place[name]] += value
    return of_features
