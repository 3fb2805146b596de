"""The interface of a component, which predicts one logit per slice and label; loading one."""

import functools
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ct.labels import LABELS
from stage2_stack.calibration import Platt
from stage2_stack.components import COMPONENTS, REGISTRY
from stage2_stack.learners.learner import Learner
from stage2_stack.nested_cv import FittedComponent
from stage2_stack.stack_context import StackContext


@dataclass
class InferenceContext:
    """The slices that a stacker predicts, and the labels that it has already predicted."""

    X: NDArray[np.float32]  # (n, f)
    names: list[str]  # f names of the columns of X
    starts: NDArray[np.int_] | None  # (s,) first row of each series, for `gru`
    calibrations: Mapping[str, Platt]  # label -> calibration of the CNNs' logit; models start there
    threads: int = 1
    # label -> final probabilities (n,)
    finished: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def column(self, name: str) -> NDArray[np.float32]:
        """Return the feature of this name, (n,). Raises ValueError where there is none."""
        return self.X[:, self.names.index(name)]

    def cnn_logits(self, labels: Sequence[str]) -> NDArray[np.float32]:
        """Return the mean logits of the CNNs, (c, n)."""
        return np.stack([self.column(label) for label in labels])


class Component(ABC):
    """One component of the blend. `predict` serves a run's test slices and `score` alike."""

    title: str  # in the ablation table
    tuned_on: str  # in the ablation table; beside its calibration on the other folds
    labels: tuple[str, ...] = LABELS  # the labels that it predicts
    joint = False  # whether one model predicts all its labels, not one each
    from_subtypes = False  # whether it reads the finished probabilities of the subtypes
    learner: Learner | None = None  # None for a component without models
    # fields of StackConfig that its fit depends on, beside the settings that `tune` chose
    reads: tuple[str, ...] = (
        "seeds",
        "max_rounds",
        "positive_patients",
        "threads",
        "calibrate_by",
    )
    # whether its files have no check of their own: a child process tries them (foreign_boosters.py)
    foreign = False

    def __init__(self, name: str) -> None:
        """name: its name in the registry."""
        self.name = name

    @abstractmethod
    def fit(self, context: StackContext, labels: Sequence[str]) -> dict[str, FittedComponent]:
        """Fit its models, and predict the training slices.

        labels: all of its labels where it is joint, else one

        Returns {label: FittedComponent}, gain and contributions by the columns of X; {} where the
        features lack its column, or no fold can be stacked.
        """

    @abstractmethod
    def predict(
        self, rows: InferenceContext, models: Sequence[Any], labels: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return the logits (c, n) of labels, mean over models. labels: as in `fit`."""

    def can_predict(self, label: str, names: Sequence[str]) -> bool:
        """Return whether it can predict a label from features of these names."""
        return label in self.labels and label in names

    def file_names(self, label: str, k: int, seeds: int) -> list[str]:
        """Return the names of the files of fold k's models, one a seed; [] without models."""
        if self.learner is None:
            return []
        stem = f"{self.name}-fold{k}" if self.joint else f"{self.name}-{label}-fold{k}"
        return [f"{stem}-seed{seed}{self.learner.suffix}" for seed in range(seeds)]

    def load(self, raw: bytes) -> Any:
        """Return the model in the bytes of a file. Raises TypeError where it has no models."""
        if self.learner is None:
            raise TypeError(f"{self.name} has no models")
        return self.learner.load(raw)

    def check_file(self, raw: bytes, names: list[str]) -> None:
        """Raise ValueError where bytes are no model of this component on features `names`.

        A foreign component has no such check: see foreign_boosters.py.
        """
        raise NotImplementedError(f"{self.name} has no check of a single file")

    def column_count(self, label: str, names: list[str]) -> int:
        """Return how many of the features `names` a label's model reads."""
        return len(names)


@functools.cache
def load_component(name: str) -> Component:
    """Import and return the component of this name. Raises ValueError where there is none."""
    location = next((entry.location for entry in REGISTRY if entry.name == name), None)
    if location is None:
        raise ValueError(f"{name!r} is no component; the registry has {', '.join(COMPONENTS)}")
    module, _, kind = location.partition(".")
    loaded: Component = getattr(importlib.import_module(f"stage2_stack.components.{module}"), kind)(
        name
    )
    return loaded
