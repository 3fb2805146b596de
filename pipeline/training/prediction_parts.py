"""A prediction in parts, each a table and an array on disk: what an interruption leaves is kept."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyarrow.lib import ArrowException

from ct.averaging import Kind
from ct.labels import LABELS
from ct.storage.atomic_write import discard
from ct.storage.file_formats import (
    join_arrays,
    read_array,
    read_table,
    write_array,
)
from ct.storage.prediction_files import write_predictions
from ct.storage.sealed_files import is_whole, seal


class PredictionParts:
    """The parts of one prediction in a folder.

    slice_ids: of the slice table; pieces: row numbers of each part; kind: of the tables, as in
    `write_predictions`
    """

    def __init__(
        self,
        folder: Path,
        slice_ids: pd.Index,
        pieces: Sequence[NDArray[np.int64]],
        kind: Kind | None,
    ) -> None:
        self.folder, self.slice_ids, self.pieces, self.kind = folder, slice_ids, pieces, kind

    def exists(self, number: int) -> bool:
        """Return whether a part is complete; its table is written last."""
        return self._table(number).exists()

    def write(
        self, number: int, outputs: NDArray[np.float32], embeddings: NDArray[np.float16]
    ) -> None:
        """Write part `number`: outputs (m, 6), columns LABELS, and embeddings (m, d)."""
        write_array(self._embeddings(number), embeddings)
        seal(self._embeddings(number))
        index = self.slice_ids[self.pieces[number]]
        # last: a part counts as complete once its table exists
        table = pd.DataFrame(outputs, index=index, columns=list(LABELS))
        write_predictions(self._table(number), table, self.kind)
        seal(self._table(number))

    def discard_damaged(self) -> list[int]:
        """Remove the damaged parts. Returns their numbers.

        A part without a seal, of an older version, is damaged where it cannot be read.
        """
        damaged = []
        for number in range(len(self.pieces)):
            if self.exists(number) and not self._is_whole(number):
                discard(self._table(number))
                discard(self._embeddings(number))
                damaged.append(number)
        return damaged

    def join(self, path: Path) -> None:
        """Write the whole prediction: `path`.parquet and `path`_embeddings.npy.

        Raises ValueError where the parts hold other slices.
        """
        numbers = range(len(self.pieces))
        table = pd.concat([read_table(self._table(number)) for number in numbers])
        if not table.index.equals(self.slice_ids[np.concatenate(self.pieces)]):
            raise ValueError(f"{self.folder} holds predictions of other slices")
        join_arrays(
            path.with_name(f"{path.name}_embeddings.npy"),
            [self._embeddings(number) for number in numbers],
        )
        write_predictions(path.with_suffix(".parquet"), table, self.kind)

    def _is_whole(self, number: int) -> bool:
        table, embeddings = self._table(number), self._embeddings(number)
        if not (is_whole(table) and is_whole(embeddings)):
            return False
        slice_ids = self.slice_ids[self.pieces[number]]
        try:
            return read_table(table).index.equals(slice_ids) and len(read_array(embeddings)) == len(
                slice_ids
            )
        except OSError as error:
            if error.errno:  # the machine's fault, not the file's
                raise
            return False
        except (ValueError, KeyError, TypeError, ArrowException, EOFError):
            return False

    def _table(self, number: int) -> Path:
        return self.folder / f"{number:05d}.parquet"

    def _embeddings(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npy"
