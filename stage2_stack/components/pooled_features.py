"""Features of the component `pooled`: five rows for each slice, one of each subtype.

A row's own label comes first, under names that are the same for all subtypes; then the other
subtypes' logits, largest first; then `any`, the geometry, and five columns that mark the subtype.

Symmetric features do not know which way is up: of the values at one distance below and above a
slice they hold the smaller and the larger one. Twice as many examples then show the same pattern.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import lightgbm as lgb
import numpy as np

from ct.labels import SUBTYPES
from features.columns import scope_columns
from stage2_stack.learners.binned_features import BLOCK, BinnedFeatures, BinStore
from stage2_stack.learners.learner import Floats, Ints, Values

OTHERS = tuple(f"other_{place}" for place in range(1, len(SUBTYPES)))
BELOW = re.compile(r"_(d?z)-(\d+)")  # in the name of the value of a slice below


class PooledFeatures(BinnedFeatures):
    """The pooled features; their values, five rows for each of X, are computed when needed."""

    kind = "pooled"

    def __init__(
        self,
        X: Values,
        names: Sequence[str],
        threads: int = 1,
        store: BinStore | None = None,
        symmetric: bool = False,
        tail_bins: int = 0,
    ) -> None:
        """symmetric: as in StackConfig; the rest as in BinnedFeatures."""
        super().__init__(X, pooled_names(names, symmetric), threads, store, tail_bins)
        self.own_names = list(names)
        self.pairs = pairs_of(pooled_names(names)) if symmetric else np.empty((0, 2), int)

    def values(self, columns: Ints, rows: Ints) -> Values:
        """Return the values (m, c) of some of the 5 * n rows and some columns."""
        numbers, rows = np.divmod(rows, len(self.X))
        values = np.empty((len(rows), len(columns)), np.float32)
        for number in np.unique(numbers):
            at = np.flatnonzero(numbers == number)
            pooled = pooled_rows(self.X, self.own_names, number, rows[at])
            sort_pairs(pooled, self.pairs)
            values[at] = pooled if len(columns) == len(self.names) else pooled[:, columns]
        return values

    def _matrices(self, columns: Ints) -> Iterator[tuple[Ints, "PooledRows"]]:
        yield columns, PooledRows(self, columns)


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


def pooled_names(names: Sequence[str], symmetric: bool = False) -> list[str]:
    """Return the names of the pooled features that are made of features `names`.

    Of symmetric ones, "own_z-2" and "own_z+2" are "own_z2_low" and "own_z2_high".
    """
    shared = [names[i] for i in scope_columns(names, "any", "study")]
    pooled = [
        *(f"own{kind}" for kind in own_kinds(names)),
        *OTHERS,
        *shared,
        *(f"is_{label}" for label in SUBTYPES),
    ]
    for below, above in pairs_of(pooled) if symmetric else ():
        name = pooled[below]  # a CNN's name, at its end, may look like a distance, or hold "_low"
        pooled[below] = BELOW.sub(r"_\1\2_low", name, count=1)
        pooled[above] = BELOW.sub(r"_\1\2_high", name, count=1)
    return pooled


def pairs_of(pooled: Sequence[str]) -> Ints:
    """Return the columns (p, 2) of the values at one distance below and above a slice.

    pooled: names that are not symmetric
    """
    place = {name: i for i, name in enumerate(pooled)}
    pairs = [
        (i, place[above])
        for name, i in place.items()
        if (above := BELOW.sub(r"_\1+\2", name, count=1)) != name and above in place
    ]
    return np.array(pairs, dtype=int).reshape(-1, 2)


def sort_pairs(values: Values, pairs: Ints) -> None:
    """Put the smaller value of each pair of columns (p, 2) first, in place. NaN gives way."""
    below, above = values[:, pairs[:, 0]], values[:, pairs[:, 1]]
    values[:, pairs[:, 0]], values[:, pairs[:, 1]] = np.fmin(below, above), np.fmax(below, above)


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


def to_features(
    values: Floats, names: Sequence[str], label: str, symmetric: bool = False
) -> Floats:
    """Return values (p,) of the pooled features by the columns `names` of one subtype, (f,).

    Pooled features that are no column of X, such as `other_1`, are left out. A pair of symmetric
    features counts half for the slice below and half for the one above.
    """
    values, pooled = np.array(values), pooled_names(names)
    for pair in pairs_of(pooled) if symmetric else ():
        values[pair] = values[pair].mean()
    place, of_features = {name: i for i, name in enumerate(names)}, np.zeros(len(names))
    for pooled_name, value in zip(pooled, values, strict=True):
        name = pooled_name
        if pooled_name.startswith("own"):
            name = label + pooled_name.removeprefix("own")
        if name in place:
            of_features[place[name]] += value
    return of_features
