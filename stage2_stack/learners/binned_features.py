"""A matrix of features that LightGBM bins once for all labels, folds, seeds and trials."""

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage2_stack.learners import tail_bins as tails

FIXED = {  # parameters of every LightGBM Dataset and booster here
    "objective": "binary",
    "metric": "binary_logloss",
    "deterministic": True,
    "force_col_wise": True,  # with `deterministic`: the same model with any number of threads
    "feature_pre_filter": False,  # min_data_in_leaf is tuned on a Dataset that is built once
    "bagging_freq": 1,
    "verbosity": -1,
}

BLOCK = 4096  # rows whose values are in memory at once for predictions
COLUMNS_AT_ONCE = 256  # columns of an array that are binned at once

# returns the Dataset that is stored under plain values; or it makes one by the function, stores it
# and returns it
BinStore = Callable[[Mapping[str, Any], Callable[[], Any]], Any]


class BinnedFeatures:
    """A feature matrix; each set of its columns is binned once and reused until `keep_only`.

    The bin edges depend on the values of all rows, those of the held-out fold too, but never on a
    label. A Dataset whose labels are set afterwards gives the same model, byte for byte, as one
    that is built with them, and so does one that is read from LightGBM's binary file.
    """

    kind = "features"  # of rows, in the key of the store

    def __init__(
        self,
        X: NDArray[np.float32],
        names: Sequence[str],
        threads: int = 1,
        store: BinStore | None = None,
        tail_bins: int = 0,
    ) -> None:
        """X: (n, f) float32, columns `names`; it may be a memory map.

        store: of the bins of X; None: they are made in memory; tail_bins: as in StackConfig
        """
        self.X, self.names, self.threads, self.store = X, list(names), threads, store
        self.tail_bins = tail_bins
        self._binned_columns: dict[bytes, Any] = {}
        self._lock = threading.Lock()

    def dataset(
        self,
        columns: NDArray[np.int_],
        rows: NDArray[np.int_],
        y: NDArray[np.float64],
        base: NDArray[np.float64],
    ) -> Any:
        """Return LightGBM's Dataset of some rows and columns.

        columns: (c,); rows: (m,), rising; y: (m,) labels of 0 and 1; base: (m,) starting logits
        """
        part = self._binned(columns).subset(np.asarray(rows, np.int32), params=self._params())
        return relabel(part.construct(), y, base)

    def values(self, columns: NDArray[np.int_], rows: NDArray[np.int_]) -> NDArray[np.float32]:
        """Return the values (m, c) of some rows and columns."""
        return self.X[rows] if len(columns) == len(self.names) else self.X[np.ix_(rows, columns)]

    def apply_by_block(
        self,
        function: Callable[[NDArray[np.float32]], NDArray[np.float64]],
        columns: NDArray[np.int_],
        rows: NDArray[np.int_],
    ) -> NDArray[np.float64]:
        """Return what `function` returns for the values (m, c) of some rows, each row by itself.

        It is called with BLOCK rows at most: their values take more memory than their bins.
        """
        starts = range(0, max(len(rows), 1), BLOCK)
        blocks = (self.values(columns, rows[start : start + BLOCK]) for start in starts)
        return np.concatenate([function(block) for block in blocks])

    def bin_columns(self, columns: NDArray[np.int_]) -> None:
        """Bin columns, or read their bins from the store, before they are needed."""
        self._binned(columns)

    def keep_only(self, column_sets: Iterable[NDArray[np.int_]] = ()) -> None:
        """Free the bins of all other sets of columns: a byte or two for each row and column.

        column_sets: int (c,) each
        """
        keep = {np.asarray(columns).tobytes() for columns in column_sets}
        with self._lock:
            self._binned_columns = {
                key: binned for key, binned in self._binned_columns.items() if key in keep
            }

    def _matrices(self, columns: NDArray[np.int_]) -> Iterator[tuple[NDArray[np.int_], Any]]:
        """Yield some of the columns (p,) and their values (n, p), until all are yielded.

        The values of all rows are an array, or a lightgbm.Sequence. LightGBM holds a sample of
        200,000 rows while it makes the edges of the bins, in 18 bytes a value: for thousands of
        columns at once that would be more than all bins.
        """
        for start in range(0, len(columns), COLUMNS_AT_ONCE):
            part = columns[start : start + COLUMNS_AT_ONCE]
            first, last = int(part[0]), int(part[-1])
            adjacent = np.array_equal(part, np.arange(first, last + 1))
            yield part, self.X[:, first : last + 1] if adjacent else self.X[:, part]

    def _binned(self, columns: NDArray[np.int_]) -> Any:
        key = np.asarray(columns).tobytes()
        with self._lock:  # fits that run side by side need the same columns at once
            if key not in self._binned_columns:
                self._binned_columns[key] = self._stored_or_made(columns)
            return self._binned_columns[key]

    def _stored_or_made(self, columns: NDArray[np.int_]) -> Any:
        from lightgbm import Dataset  # takes seconds to import; other boosters do without it

        def make() -> Any:
            binned = None
            for part, data in self._matrices(columns):
                names, no_labels = self._names(part), np.zeros(len(data), np.float32)
                edges = self._edges(part, len(data)) if self.tail_bins else None
                one = Dataset(data, no_labels, edges, feature_name=names, params=self._params())
                binned = one.construct() if binned is None else join(binned, one.construct())
            return binned

        key = bins_key(self._names(columns), self.kind, self.tail_bins)
        return make() if self.store is None else self.store(key, make)

    def _names(self, columns: NDArray[np.int_]) -> list[str]:
        return [self.names[i] for i in columns]

    def _edges(self, columns: NDArray[np.int_], count: int) -> Any:
        """Return a small Dataset whose bins all rows get. count: of the rows"""
        from lightgbm import Dataset

        values = self.values(columns, tails.sampled_rows(count))
        centres = tails.bin_centres(values, self.tail_bins)
        return Dataset(centres, np.zeros(len(centres)), params=self._params()).construct()

    def _params(self) -> dict[str, Any]:
        return {**_parameters(self.tail_bins), "num_threads": self.threads}


def bins_key(
    names: Sequence[str], kind: str = BinnedFeatures.kind, tail_bins: int = 0
) -> dict[str, Any]:
    """Return plain values that bins depend on beside X, as a BinStore takes them.

    names: of the columns; kind: of the rows; tail_bins: as in StackConfig
    """
    key = {"rows": kind, "columns": list(names), "parameters": _parameters(tail_bins)}
    return key | ({"tail_bins": tail_bins} if tail_bins else {})


def _parameters(tail_bins: int) -> dict[str, Any]:
    return {**FIXED, **(tails.PARAMS if tail_bins else {})}


def join(data: Any, more: Any) -> Any:
    """Add the columns of another built Dataset with the same rows to a built one; return it.

    A booster is the same, byte for byte, as on columns that are binned together.
    """
    with warnings.catch_warnings():  # that the values, which are freed, cannot be joined, too
        warnings.simplefilter("ignore", UserWarning)
        return data.add_features_from(more)


def relabel(data: Any, y: NDArray[np.float64], base: NDArray[np.float64]) -> Any:
    """Set the labels (m,) of 0 and 1 and the starting logits (m,) of a built Dataset; return it."""
    data.set_label(y)
    data.set_init_score(base)
    return data
