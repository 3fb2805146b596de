"""A unit of the stage `features`: the linear probe of one CNN and fold."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.errors import InputError
from ct.labels import LABELS
from ct.run_dir import RunDir
from ct.storage.file_formats import read_array, read_table, table_rows, write_arrays
from features.linear_probe import PARTS, cross_fit_probe, held_out_probe_logits
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.stage_data.patient_parts import part_in_fold, patient_split
from pipeline.units.unit import Log, MakeBar, Resources, Unit

# names of the logits in a unit's file, beside the arrays of the probes
HELD_OUT, TEST = "held_out_logits", "test_logits"
COLUMNS = ["split", "patient_id", "study_id", "series_id", *LABELS]  # of the slice table
BASE_MB = 300  # of a process with pandas, scipy and scikit-learn
SLICE_BYTES = 1500  # of the slice table and what is made of it, while tables are joined
MATRICES = PARTS + 4  # (d, d) float64: moments of each part, and what one fit makes


@dataclass(frozen=True)
class ProbeFold(Unit):
    """Fit the probes of one CNN and fold; keep their parameters and their logits.

    The file holds HELD_OUT, logits (h, 6) of the slices that the fold's CNN held out, in the order
    of the slice table; TEST, (m, 6) of the test slices; and the arrays of the probes.
    """

    model: str
    fold: int
    read: dict[str, str]  # digests of the slice table, the folds, and the fold's predictions

    @property
    def name(self) -> str:
        """Return "features/probe/<model>/fold<k>"."""
        return f"features/probe/{self.model}/fold{self.fold}"

    def takes(self) -> Resources:
        """Return one core, and the memory of the slice table and of the embeddings' moments."""
        run, size = Run(self.root), 0
        path = run.dir.fold(self.model, self.fold) / "held_out_embeddings.npy"
        if run.dir.slices.exists():
            size += SLICE_BYTES * table_rows(run.dir.slices)
        if path.exists():  # else the CNN is not trained yet, and this unit must wait
            size += MATRICES * 8 * read_array(path).shape[1] ** 2
        return Resources(1, 0, BASE_MB + size // 2**20)

    def why_not_done(self, verify: bool = False) -> str:
        """Return why the probes must be fitted, or ""."""
        run = Run(self.root)
        return run.why_unit_is_stale(self._receipt(run.dir), self._part(), self.read, verify)

    def run(self, log: Log, bar: MakeBar) -> None:
        """Fit the probes, and predict with them."""
        run, path = Run(self.root, log, bar), RunDir(self.root).probe(self.model, self.fold)
        receipt = Receipt(run.dir.root, self._receipt(run.dir), "features", self._part(), self.read)
        receipt.made = [path]
        with receipt:
            write_arrays(path, self._fit(run))

    def _fit(self, run: Run) -> dict[str, NDArray[Any]]:
        """Return the arrays of the unit's file."""
        slices = read_table(run.dir.slices, COLUMNS)
        train, test = (slices[slices["split"] == split] for split in ("train", "test"))
        split = patient_split(run, train, test)
        part = part_in_fold(split.groups[test.index], split.test_fold, split.parts, self.fold)
        return fit_probes(
            run.dir.fold(self.model, self.fold),
            train.assign(patient_id=split.groups),
            test.index,
            part,
        )

    def _receipt(self, run: RunDir) -> Path:
        return run.probe(self.model, self.fold).with_suffix(".receipt.json")

    def _part(self) -> dict[str, Any]:
        return {"cnn": self.model, "fold": self.fold}


def probe_units(run: Run, read: dict[str, str]) -> list[Unit]:
    """Return a ProbeFold for each CNN and fold; [] where the recipe has no probes.

    read: {path: digest} of what the stage reads

    Raises InputError where the recipe has probes and an imported model, which has no embeddings.
    """
    units: list[Unit] = []
    if not run.recipe.features.probe:
        return units
    if run.recipe.stage1.imports:
        raise InputError(
            "features.probe needs embeddings, which imported models lack; set it to false in "
            "recipe.yaml"
        )
    for config in run.recipe.stage1.models:
        for k in range(run.recipe.folds.k):
            own = {path: read[path] for path in read if _is_read(path, config.name, k)}
            units.append(ProbeFold(str(run.dir.root), config.name, k, own))
    return units


def _is_read(path: str, model: str, k: int) -> bool:
    """Return whether the probes of one CNN and fold depend on a file."""
    of_fold = rf"stage1/{re.escape(model)}/fold{k}/(held_out|test)(\.parquet|_embeddings\.npy)"
    return path in ("slices.parquet", "folds.parquet") or bool(re.fullmatch(of_fold, path))


def fit_probes(
    folder: Path, train: pd.DataFrame, test_index: pd.Index, part: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Fit the probes of one CNN and fold. Returns the arrays of the unit's file.

    folder: of the CNN and fold; train: slice table, patient_id is the group; test_index: ids of the
    m test slices; part: (m,), as returned by part_in_fold
    """
    rows = train.index.get_indexer(read_table(folder / "held_out.parquet").index)
    y = train[list(LABELS)].to_numpy(np.float64)[rows]
    patients = train["patient_id"].to_numpy(object)[rows]
    held_out_embeddings = read_array(folder / "held_out_embeddings.npy")
    logits, probe, part_probes = cross_fit_probe(held_out_embeddings, y, patients)

    test_embeddings = read_array(folder / "test_embeddings.npy")
    test_rows = test_index.get_indexer(read_table(folder / "test.parquet").index)
    test_logits = np.full((len(test_index), len(LABELS)), np.nan, np.float32)
    test_logits[test_rows] = held_out_probe_logits(
        probe, part_probes, test_embeddings, part[test_rows]
    )
    arrays: dict[str, NDArray[Any]] = {HELD_OUT: logits[np.argsort(rows)], TEST: test_logits}
    for prefix, each in {"": probe, **{f"part{j}.": p for j, p in enumerate(part_probes)}}.items():
        arrays |= {f"{prefix}{name}": array for name, array in vars(each).items()}
    return arrays
