"""What the jobs of stage one read: slices, folds, pixels, and the settings of each CNN."""

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.pixel_cache.reader import PixelCache
from ct.storage.atomic_write import discard
from ct.storage.file_formats import read_table
from pipeline.run_context import Run
from stage1_cnn.batches.dataset import neighbour_rows
from stage1_cnn.config import CnnConfig

# slices that a fold's CNN predicts: those that it was not trained on, or those of the test split
PredictedSlices = Literal["held_out", "test"]


class StageOneInputs:
    """The slices of a run (n rows), their folds and their pixels."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.slices: pd.DataFrame = read_table(run.dir.slices)
        folds = read_table(run.dir.folds)["fold"]
        self.fold: NDArray[np.int8] = folds.reindex(self.slices.index).to_numpy()
        self.readable: NDArray[np.bool_] = self.slices["readable"].to_numpy(bool)
        self._neighbours: dict[int, NDArray[np.int64]] = {}

    @cached_property
    def cache(self) -> PixelCache:
        """The pixel cache, whose rows are those of the slice table."""
        cache = PixelCache(self.run.dir.pixels)
        if list(cache.slice_ids) != list(self.slices.index):
            raise ValueError("the pixel cache holds other slices than the slice table")
        return cache

    def config(self, name: str) -> CnnConfig:
        """Return the CnnConfig of this name."""
        return self.run.recipe.stage1.model(name)

    def neighbours(self, reach: int) -> NDArray[np.int64]:
        """Return `neighbour_rows` of all slices, (n, 2 * reach + 1)."""
        if reach not in self._neighbours:
            self._neighbours[reach] = neighbour_rows(self.slices, reach)
        return self._neighbours[reach]

    def rows(self, which: PredictedSlices, k: int) -> NDArray[np.int64]:
        """Return the row numbers of the "test" slices, or of those "held_out" by fold `k`."""
        if which == "test":
            return np.flatnonzero(self.slices["split"] == "test")
        return np.flatnonzero((self.slices["split"] == "train") & (self.fold == k))

    def checkpoint(self, name: str, k: int) -> Path:
        """Return the path of the checkpoint of an unfinished training."""
        return self.run.dir.fold(name, k) / "checkpoint.safetensors"

    def discard_checkpoint(self, name: str, k: int) -> None:
        """Remove the checkpoint of a training that has ended."""
        discard(self.checkpoint(name, k))
