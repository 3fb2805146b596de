"""Loads what a run has left so far; what is not there yet is None or empty, and its section of the
page says so.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
import pandas as pd
from scipy.special import expit

from ct.ensemble import combine_folds, mean_logits
from ct.labels import LABELS
from ct.pixel_cache.reader import PixelCache
from ct.privacy.pseudonyms import public_paths
from ct.privacy.quarantine_reasons import public_reason
from ct.storage.file_formats import read_json, read_table, require
from ct.storage.receipt_reader import read_receipt
from ct.tables.spreadsheet import read_sheet
from ct.windows import apply_window, window_bounds
from ct.yaml_file import read_yaml

STAGES = ("ingest", "folds", "train", "predict", "features", "tune", "stack", "submit")
# of the recipe's `data`: only their last part is anybody's business
PATH_KEYS = {"source", "labels", "sample", "slices"}
ABSOLUTE = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?[/\\](?:[^\s/\\'\"]+[/\\])+")


@dataclass(frozen=True)
class Artifacts:
    """One run. Tables of probabilities have the columns LABELS and are indexed by slice id."""

    recipe: dict
    slices: pd.DataFrame  # with the column `fold`, NaN where the folds are not made yet
    quarantine: pd.DataFrame
    ingest: dict
    curves: dict  # model -> fold -> list of epochs
    imports: dict  # imported model -> list of notes
    # mean of the CNNs and imported models, out of fold; NaN where a slice is unreadable
    raw: pd.DataFrame | None
    raw_test: pd.DataFrame | None  # mean of the models, then of the folds
    calibrated: pd.DataFrame | None
    calibrated_test: pd.DataFrame | None
    final: pd.DataFrame | None
    final_test: pd.DataFrame | None
    scores: dict | None
    importances: pd.DataFrame | None  # each feature's share of a label's gain
    contributions: pd.DataFrame | None  # likewise its mean absolute contribution, logits
    meanings: dict  # feature -> what it is, in words
    configs: dict | None
    trials: pd.DataFrame | None  # of all searches of stage two's settings
    tuning: dict  # label -> which settings mattered
    receipts: dict  # stage -> receipt

    @property
    def models(self):
        """The names of the CNNs, in the recipe's order."""
        return [m["name"] for m in self.recipe.get("stage1", {}).get("models", [])]

    @property
    def labelled(self):
        """The rows of the slice table that are in train and have all six labels."""
        known = self.slices[list(LABELS)].notna().all(axis=1)
        return self.slices[known & (self.slices["split"] == "train")]

    @property
    def compared(self):
        """The two opinions that stand beside each other, or the only one that is there."""
        return ("raw",) if self.final is None else ("calibrated", "final")

    def opinions(self, kinds, rows=None):
        """Return the labels (n, 6) and {kind: probabilities (n, 6)} of those kinds that are there,
        NaN where unknown.

        kinds: of "raw", "calibrated", "final"; rows: of the slice table, the labelled ones of train
        if None
        """
        rows = self.labelled if rows is None else rows
        tables = {kind: table for kind in kinds if (table := getattr(self, kind)) is not None}
        found = {
            kind: table.reindex(rows.index)[list(LABELS)].to_numpy(np.float64)
            for kind, table in tables.items()
        }
        return rows[list(LABELS)].to_numpy(np.float64), found


def read_run(run):
    """Read the artifacts of a ct.run_dir.RunDir. Raises InputError where recipe, slices or ingest's
    facts are missing.
    """
    recipe = read_yaml(require(run.recipe))
    slices = read_table(run.slices)
    folds = _table(run.folds)
    slices = slices.assign(fold=np.nan if folds is None else folds["fold"].reindex(slices.index))
    stage1 = recipe.get("stage1", {})
    models, imports = [m["name"] for m in stage1.get("models", [])], stage1.get("imports", [])
    numbers = range(int(recipe.get("folds", {}).get("k", 0)))
    clip = (recipe.get("features") or {}).get("clip", 1e-5)
    oof = {m: _table(run.oof(m)) for m in models}
    oof |= {m: _table(run.imported_oof(m)) for m in imports}
    per_fold = []
    for k in numbers:
        test = {m: _table(run.fold(m, k) / "test.parquet") for m in models}
        test |= {m: _table(run.imported_test_path(m, k)) for m in imports}
        per_fold.append(_mean_of_models(test, clip))
    return Artifacts(
        recipe=without_paths(recipe),
        slices=slices,
        quarantine=_quarantine(run.quarantine),
        ingest=read_json(run.ingest),
        curves={m: _curves(run, m, numbers) for m in models},
        imports={m: (_json(run.imported_notes(m)) or {}).get("notes", []) for m in imports},
        raw=_mean_of_models(oof, clip),
        raw_test=_combined(per_fold, slices["fold"]),
        calibrated=_table(run.stage2 / "calibrated.parquet"),
        calibrated_test=_table(run.stage2 / "calibrated_test.parquet"),
        final=_table(run.stage2 / "oof.parquet"),
        final_test=_table(run.stage2 / "test.parquet"),
        scores=_json(run.stage2 / "scores.json"),
        importances=_table(run.stage2 / "importances.parquet"),
        contributions=_table(run.stage2 / "contributions.parquet"),
        meanings=_json(run.stage2 / "features" / "names.json") or {},
        configs=_json(run.stage2 / "configs.json"),
        trials=_table(run.stage2 / "trials.parquet"),
        tuning=_json(run.stage2 / "tuning.json") or {},
        receipts={
            s: receipt for s in STAGES if (receipt := read_receipt(run.receipt(s))) is not None
        },
    )


def without_paths(value, key=None):
    """Return a recipe with every absolute path, and the paths of its `data`, cut down to the last
    part.

    Of a database's URL, which may hold a password, the kind is left.
    """
    if isinstance(value, dict):
        return {k: without_paths(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [without_paths(v, key) for v in value]
    if isinstance(value, str) and "://" in value:
        return f"{value.partition('://')[0]}://…"
    if isinstance(value, str) and (
        key in PATH_KEYS or value.startswith(("/", "~", "\\")) or value[1:3] in (":\\", ":/")
    ):
        return last_part(value)
    return value


def last_part(path):
    """Return the last part of a path of either kind of system."""
    return PureWindowsPath(path).name or path


def scrub(text):
    """Return a line of text in which each absolute path has lost its folders."""
    return ABSOLUTE.sub("…/", str(text))


def thumbnails(run, art):
    """Return a function from slice ids to brain-window pictures (n, size, size) in [0, 1], or None
    without a pixel cache.
    """
    cache = open_pixels(run)
    if cache is None:
        return None
    low, high = window_bounds("brain")
    return lambda ids: apply_window(cache.read(art.slices.index.get_indexer(ids)), low, high)


def open_pixels(run):
    """Return the PixelCache of a ct.run_dir.RunDir, or None where it has none."""
    return PixelCache(run.pixels) if run.pixels.exists() else None


def _table(path):
    return read_table(path) if Path(path).exists() else None


def _json(path):
    return read_json(path) if Path(path).exists() else None


def _quarantine(path):
    columns = ["path", "slice_id", "split", "kind", "reason"]
    if not Path(path).exists():
        return pd.DataFrame(columns=columns)
    try:
        table = read_sheet(path)
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=columns)
    reasons = [scrub(public_reason(reason)) for reason in table["reason"]]
    return table.assign(path=public_paths(table["path"], table["slice_id"]), reason=reasons)


def _curves(run, model, numbers):
    found = {k: _json(run.fold(model, k) / "curve.json") for k in numbers}
    return {k: curve for k, curve in found.items() if curve}


def _mean_of_models(tables, clip):
    """Return the mean of the models' logits as probabilities (n, 6); None where a table is missing.

    tables: {model: table of probabilities, or None}
    """
    if not tables or any(table is None for table in tables.values()):
        return None
    index = next(iter(tables.values())).index
    predictions = {m: t.reindex(index)[list(LABELS)].to_numpy() for m, t in tables.items()}
    return pd.DataFrame(expit(mean_logits(predictions, clip)), index, list(LABELS))


def _combined(per_fold, fold):
    """Return the tables (n, 6) of all folds combined; None where one is missing.

    fold: Series of the fold of each slice; -1 or NaN where the patient is not in train
    """
    if not per_fold or any(table is None for table in per_fold):
        return None
    index = per_fold[0].index
    values = np.stack([table.reindex(index).to_numpy() for table in per_fold])
    test_fold = fold.reindex(index).fillna(-1).to_numpy(np.int64)
    return pd.DataFrame(combine_folds(values, test_fold), index, list(LABELS))
