"""Read the files that the stages have written to a run folder; missing ones are None or empty."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.labels import LABELS
from ct.pixel_cache.reader import PixelCache
from ct.privacy.pseudonyms import public_paths
from ct.privacy.quarantine_reasons import public_reason
from ct.run_dir import ALL_FOLDS, RunDir
from ct.storage.file_formats import read_json, read_table, require
from ct.storage.receipt_reader import read_receipt
from ct.tables.spreadsheet import read_sheet
from ct.windows import apply_window, window_bounds
from ct.yaml_file import read_yaml
from report.path_removal import recipe_without_paths, without_folders
from report.stage_one_mean import fitted_weights, mean_on_test, mean_out_of_fold, models_of

STAGES = ("ingest", "folds", "train", "predict", "features", "tune", "stack", "submit")
# kind of prediction -> its name on the page
KINDS = {"raw": "mean of the CNNs", "calibrated": "stage one, calibrated", "final": "stage two"}
# receipt of a fold's job -> the slices that the job predicts
PREDICTING_JOBS = {"train.json": "held out", "predict.json": "test"}
Environments = dict[str, tuple[str, str]]
QUARANTINE_COLUMNS = ["path", "slice_id", "split", "kind", "reason"]


@dataclass(frozen=True)
class Artifacts:
    """The files of one run. Tables of probabilities have the columns LABELS, indexed by slice id.

    recipe:        without paths
    slices:        slice table with the column `fold`, NaN before the folds are made
    quarantine:    quarantine.csv without people's file names
    ingest:        counts and lists of ingest.json
    curves:        CNN -> fold -> list of epochs
    environments:  CNN -> fold -> "held out" and "test" -> (device, precision) of the predictions
    imports:       imported model -> notes
    raw:           out-of-fold mean of the CNNs and imported models, with the weights that stage two
                   starts from; NaN where a slice is unreadable
    calibrated:    out-of-fold probabilities of calibrated stage one
    final:         out-of-fold probabilities of stage two
    ..._test:      the same on the test slices, combined over the folds
    scores:        scores.json
    importances:   share of each feature in the gain of a label
    contributions: mean absolute contribution of each feature, logits
    descriptions:  feature -> its description
    cnn_weights:   of the fit on all folds: CNN -> label -> weight in the mean; empty if equal
    configs:       configs.json: label -> configuration of each fold
    trials:        of all searches of stage two's settings
    tuning:        label -> importance of each setting
    receipts:      stage -> receipt
    """

    recipe: dict[str, Any]
    slices: pd.DataFrame
    quarantine: pd.DataFrame
    ingest: dict[str, Any]
    curves: dict[str, dict[int, list[dict[str, Any]]]]
    environments: dict[str, dict[int, Environments]]
    imports: dict[str, list[str]]
    raw: pd.DataFrame | None
    raw_test: pd.DataFrame | None
    calibrated: pd.DataFrame | None
    calibrated_test: pd.DataFrame | None
    final: pd.DataFrame | None
    final_test: pd.DataFrame | None
    scores: dict[str, Any] | None
    importances: pd.DataFrame | None
    contributions: pd.DataFrame | None
    descriptions: dict[str, str]
    cnn_weights: dict[str, dict[str, float]]
    configs: dict[str, Any] | None
    trials: pd.DataFrame | None
    tuning: dict[str, Any]
    receipts: dict[str, dict[str, Any]]

    @property
    def cnns(self) -> list[str]:
        """The names of the CNNs, in the recipe's order."""
        return [m["name"] for m in self.recipe.get("stage1", {}).get("models", [])]

    @property
    def labelled(self) -> pd.DataFrame:
        """The rows of the slice table that are in train and have all six labels."""
        known = self.slices[list(LABELS)].notna().all(axis=1)
        return self.slices[known & (self.slices["split"] == "train")]

    @property
    def compared(self) -> tuple[str, ...]:
        """The two kinds of prediction that the page compares, or the only one there is."""
        return ("raw",) if self.final is None else ("calibrated", "final")

    @property
    def best(self) -> pd.DataFrame | None:
        """The final out-of-fold probabilities; before stage two, the mean of the CNNs."""
        return self.final if self.final is not None else self.raw

    def labels_and_predictions(
        self, kinds: Iterable[str], rows: pd.DataFrame | None = None
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Return the labels (n, 6) and {kind: out-of-fold probabilities (n, 6)}, NaN where unknown.

        kinds: of KINDS; those without a table are left out; rows: of the slice table, by default
        the labelled rows of train
        """
        rows = self.labelled if rows is None else rows
        predictions = {}
        for kind in kinds:
            table = getattr(self, kind)
            if table is not None:
                predictions[kind] = table.reindex(rows.index)[list(LABELS)].to_numpy(np.float64)
        return rows[list(LABELS)].to_numpy(np.float64), predictions


def read_run(run: RunDir) -> Artifacts:
    """Return the artifacts of a run.

    Raises InputError where recipe.yaml, slices.parquet or ingest.json is missing.
    """
    recipe = read_yaml(require(run.recipe))
    slices = read_table(run.slices)
    folds = _table(run.folds)
    slices = slices.assign(fold=np.nan if folds is None else folds["fold"].reindex(slices.index))
    stage1 = recipe.get("stage1", {})
    cnns, imports = [m["name"] for m in stage1.get("models", [])], stage1.get("imports", [])
    fold_numbers = range(int(recipe.get("folds", {}).get("k", 0)))
    models = models_of(run, recipe, slices["fold"])
    return Artifacts(
        recipe=recipe_without_paths(recipe),
        slices=slices,
        quarantine=_quarantine(run.quarantine),
        ingest=read_json(run.ingest),
        curves={name: _curves(run, name, fold_numbers) for name in cnns},
        environments={
            name: {k: _environments(run, name, k) for k in fold_numbers} for name in cnns
        },
        imports={
            name: (_json(run.imported_notes(name)) or {}).get("notes", []) for name in imports
        },
        raw=mean_out_of_fold(run, models),
        raw_test=mean_on_test(run, models),
        calibrated=_table(run.stage2 / "calibrated.parquet"),
        calibrated_test=_table(run.stage2 / "calibrated_test.parquet"),
        final=_table(run.stage2 / "oof.parquet"),
        final_test=_table(run.stage2 / "test.parquet"),
        scores=_json(run.stage2 / "scores.json"),
        importances=_table(run.stage2 / "importances.parquet"),
        contributions=_table(run.stage2 / "contributions.parquet"),
        descriptions=_json(run.stage2 / "features" / "names.json") or {},
        cnn_weights=fitted_weights(run, recipe).get(ALL_FOLDS, {}),
        configs=_json(run.stage2 / "configs.json"),
        trials=_table(run.stage2 / "trials.parquet"),
        tuning=_json(run.stage2 / "tuning.json") or {},
        receipts=_receipts(run),
    )


def thumbnail_reader(
    run: RunDir, art: Artifacts
) -> Callable[[pd.Index], NDArray[np.floating]] | None:
    """Return a function from slice ids to brain-window pictures (n, size, size) in [0, 1].

    None without a pixel cache.
    """
    cache = open_pixels(run)
    if cache is None:
        return None
    low, high = window_bounds("brain")
    return lambda ids: apply_window(cache.read(art.slices.index.get_indexer(ids)), low, high)


def open_pixels(run: RunDir) -> PixelCache | None:
    """Return the pixel cache of a run, or None where it has none."""
    return PixelCache(run.pixels) if run.pixels.exists() else None


def _table(path: Path) -> pd.DataFrame | None:
    return read_table(path) if path.exists() else None


def _json(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _quarantine(path: Path) -> pd.DataFrame:
    """Return quarantine.csv with neither people's file names nor folders; empty without a file."""
    if not path.exists():
        return pd.DataFrame(columns=QUARANTINE_COLUMNS)
    try:
        table = read_sheet(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=QUARANTINE_COLUMNS)
    reasons = [without_folders(public_reason(reason)) for reason in table["reason"]]
    return table.assign(path=public_paths(table["path"], table["slice_id"]), reason=reasons)


def _receipts(run: RunDir) -> dict[str, dict[str, Any]]:
    """Return {stage: receipt} of the stages that have one."""
    receipts = {stage: read_receipt(run.receipt(stage)) for stage in STAGES}
    return {stage: receipt for stage, receipt in receipts.items() if receipt is not None}


def _curves(run: RunDir, cnn: str, fold_numbers: Iterable[int]) -> dict[int, list[dict[str, Any]]]:
    """Return {fold: list of epochs} of the folds in which the CNN has been trained."""
    curves = {k: _json(run.fold(cnn, k) / "curve.json") for k in fold_numbers}
    return {k: curve for k, curve in curves.items() if curve}


def _environments(run: RunDir, cnn: str, k: int) -> Environments:
    """Return {"held out" or "test": (device, precision)} of a fold's predictions.

    A job that is not finished, or whose receipt is of an older version, has no entry.
    """
    environments = {}
    for name, predicted in PREDICTING_JOBS.items():
        receipt = read_receipt(run.fold(cnn, k) / name) or {}
        if "device" in receipt and "precision" in receipt:
            environments[predicted] = (receipt["device"], receipt["precision"])
    return environments
