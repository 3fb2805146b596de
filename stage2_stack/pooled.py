"""One booster for the five subtypes: their rows one below the other, so that a rare label learns
from the common ones.

What a bleed looks like to a reader who scrolls differs little between subtypes: the run of high
logits, its ends, what the rest of the study says. A row's own label comes first, under names that
say nothing of which it is; then the other subtypes' logits, largest first; then `any`, the
geometry, and five columns that tell the label.
"""

import numpy as np

from ct.labels import SUBTYPES
from features.columns import scope_columns
from stage2_stack.boost import Bins

PARAMS = {
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 100,  # of five rows a slice
    "feature_fraction": 0.3,
    "bagging_fraction": 0.7,
    "lambda_l2": 10.0,
}
OTHERS = tuple(f"other_{place}" for place in range(1, len(SUBTYPES)))


def own_kinds(names):
    """Return what follows the label in the names of a subtype's features, in their order: "",
    "_z-1", ...
    """
    first = SUBTYPES[0]
    return [
        name.removeprefix(first) for name in names if name == first or name.startswith(f"{first}_")
    ]


def pooled_names(names):
    """Return the names of the pooled features."""
    shared = [names[i] for i in scope_columns(names, "any", "study")]
    return [
        *(f"own{kind}" for kind in own_kinds(names)),
        *OTHERS,
        *shared,
        *(f"is_{label}" for label in SUBTYPES),
    ]


def pooled_matrix(X, names):
    """Return the pooled features (5 * n, p) float32 of X (n, f), the subtypes one below the other
    in the order SUBTYPES.
    """
    made = np.empty((len(SUBTYPES), len(X), len(pooled_names(names))), np.float32)
    for number in range(len(SUBTYPES)):
        made[number] = pooled_rows(X, names, number)
    return made.reshape(-1, made.shape[2])


def pooled_rows(
    X: np.ndarray, names: list, number: int, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return the pooled features (m, p) float32 of some rows, int (m,), of X (n, f) for one
    subtype, SUBTYPES[number].

    rows: None for all
    """
    place, label = {name: i for i, name in enumerate(names)}, SUBTYPES[number]

    def values(columns):
        return X[:, columns] if rows is None else X[np.ix_(rows, columns)]

    logits = values([place[subtype] for subtype in SUBTYPES])
    own = values([place[label + kind] for kind in own_kinds(names)])
    others = -np.sort(-np.delete(logits, number, axis=1), axis=1)  # NaN last
    told = np.zeros((len(logits), len(SUBTYPES)), np.float32)
    told[:, number] = 1
    return np.hstack([own, others, values(scope_columns(names, "any", "study")), told])


class PooledBins(Bins):
    """Bins of the pooled features, whose raw values are made when they are asked for: five times
    the rows of X.
    """

    def __init__(self, X, names, threads=1):
        """X: (n, f) float32, columns `names`; it may be a memory map."""
        super().__init__(X, pooled_names(names), threads)
        self.own_names = list(names)

    def values(self, columns, rows):
        """Return the raw values (m, c) of some of the 5 * n rows and some columns."""
        numbers, rows = np.divmod(rows, len(self.X))
        made = np.empty((len(rows), len(columns)), np.float32)
        for number in np.unique(numbers):
            at = np.flatnonzero(numbers == number)
            pooled = pooled_rows(self.X, self.own_names, number, rows[at])
            made[at] = pooled if len(columns) == len(self.names) else pooled[:, columns]
        return made

    def _matrix(self, columns):
        pooled = pooled_matrix(self.X, self.own_names)
        return pooled if len(columns) == len(self.names) else pooled[:, columns]


def as_own(values, names, label):
    """Return what was found of the pooled features (p,) as that of `names`, as they stand for one
    subtype: (f,).
    """
    place, found = {name: i for i, name in enumerate(names)}, np.zeros(len(names))
    for name, value in zip(pooled_names(names), values, strict=True):
        own = label + name.removeprefix("own") if name.startswith("own") else name
        if own in place:
            found[place[own]] += value
    return found
