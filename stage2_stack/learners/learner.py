"""The interface of a learner, which fits, stores and explains one kind of model."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stage2_stack.learners.binned_features import BinnedFeatures

Floats = NDArray[np.float64]  # logits, labels, losses, importances
Values = NDArray[np.float32]  # of features
Ints = NDArray[np.int_]  # numbers of rows or columns


class Learner(Protocol):
    """Fit models that start from a logit of each row and add to it round by round.

    A round is one tree of a booster, or one epoch of a network.
    """

    @property
    def suffix(self) -> str:
        """The suffix of the files that models are stored in; none of them is a pickle."""

    @property
    def thread_safe(self) -> bool:
        """Whether several threads of one process may fit at once."""

    def fit(
        self,
        data: Any,
        params: Mapping[str, Any],
        rounds: int,
        seed: int,
        threads: int,
        valid: Sequence[Any] = (),
    ) -> tuple[Any, Floats]:
        """Fit `rounds` rounds.

        Returns (model, curves): the log loss on each of v `valid` after each round, (v, rounds).
        The first rounds of a longer fit with the same seed are those of a shorter one.
        """

    def added_logits(
        self, model: Any, values: Any, threads: int, rounds: int | None = None
    ) -> Floats:
        """Return the logits (m,) that a model adds to the starting logits of m rows.

        values: the features (m, c) that the model reads; rounds: the number of rounds; None: all
        """

    def gain(self, model: Any) -> Floats | None:
        """Return each column's share of the total gain, (c,), summing to 1; None if unknown."""

    def save(self, model: Any) -> bytes:
        """Return the model as the bytes of a file, the same each time."""

    def load(self, raw: bytes) -> Any:
        """Return the model in the bytes of a file."""


class TreeLearner(Learner, Protocol):
    """A learner of boosted trees, on the columns of a matrix."""

    def dataset(
        self, features: BinnedFeatures, columns: Ints, rows: Ints, y: Floats, base: Floats
    ) -> Any:
        """Return the training or validation data of some rows.

        columns: (c,); rows: (m,), rising; y: (m,) labels of 0 and 1; base: (m,) starting logits
        """

    def contributions(self, model: Any, values: Values, threads: int) -> Floats | None:
        """Return the SHAP values of m rows, logits (m, c); None for a model without trees.

        They sum to `added_logits`, less a constant that is the same for all rows.
        """

    def column_count(self, model: Any) -> int | None:
        """Return the number of columns that the model reads; None for a model without trees."""
