"""The input of every component's fit: training slices, nested folds, settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ct.labels import LABELS
from ct.seeds import derive_seed
from stage2_stack.config import StackConfig
from stage2_stack.learners.binned_features import BinnedFeatures, BinStore
from stage2_stack.learners.nested_fit import ALL_CORES, SideBySide
from stage2_stack.nested_cv import NestedFolds, NestedPredictions, why_not_stacked

# label -> the configurations of the K folds, as returned by tuning.best_trial.best_config
Tuned = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass
class StackData:
    """The training slices of stage two."""

    X: NDArray[np.float32]  # (n, f); it may be a memory map
    y: NDArray[np.float64]  # (n, 6) 0, 1 or NaN; a row without all labels is predicted, not fitted
    fold: NDArray[Any]  # (n,) 0 ... K-1
    patients: NDArray[Any]  # (n,)
    names: list[str]  # f names of the columns of X
    # (s,) first row of each series, whose rows are adjacent, from bottom to top; for `gru`
    starts: NDArray[np.int_] | None = None
    test_starts: NDArray[np.int_] | None = None  # (t,) the same for the test slices
    clipped: bool = True  # whether the logits of the models may lie on a floor, as in `fit_platt`

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """Whether a row has all labels, (n,)."""
        return np.asarray(~np.isnan(self.y).any(axis=1))


@dataclass
class StackContext:
    """The training slices, their nested folds and the settings."""

    data: StackData
    folds: NestedFolds
    features: BinnedFeatures  # of data.X
    tuned: Tuned
    config: StackConfig
    seed: int
    # label that is already blended -> its predictions of stage two
    finished: dict[str, NestedPredictions] = field(default_factory=dict)
    side_by_side: SideBySide = ALL_CORES  # how many fits run at the same time

    def targets(self, label: str) -> NDArray[np.float64]:
        """Return the labels (n,) of the rows that models are fitted on, NaN elsewhere."""
        return np.where(self.folds.labelled, self.data.y[:, LABELS.index(label)], np.nan)

    def cnn_logits(self, labels: Sequence[str]) -> NDArray[np.float32]:
        """Return the mean logits of the CNNs, (c, n)."""
        return self.data.X[:, [self.data.names.index(label) for label in labels]].T

    def why_not_stacked(self, label: str, k: int) -> str:
        """Return why a label cannot be stacked for fold k, or ""."""
        fit = self.folds.outer_split(k).fit
        return why_not_stacked(
            self.targets(label)[fit],
            self.data.patients[fit],
            self.config.positive_patients,
            self.config.calibrate_by,
        )

    def usable_folds(self, labels: Sequence[str]) -> list[bool]:
        """Return for each fold whether at least one of the labels can be stacked."""
        return [
            any(not self.why_not_stacked(label, k) for label in labels)
            for k in range(self.folds.k_folds)
        ]


def make_context(
    data: StackData,
    k_folds: int,
    tuned: Tuned,
    config: StackConfig,
    seed: int,
    store: BinStore | None = None,
) -> StackContext:
    """Return the StackContext of a run with this seed. store: of the bins of data.X."""
    strata = np.nan_to_num(data.y[:, 0])
    folds = NestedFolds(
        data.fold,
        data.labelled,
        data.patients,
        strata,
        k_folds,
        derive_seed(seed, "stack"),
        data.clipped,
    )
    features = BinnedFeatures(data.X, data.names, config.threads, store, config.tail_bins)
    return StackContext(data, folds, features, tuned, config, seed)
