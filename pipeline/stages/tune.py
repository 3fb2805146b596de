"""The stage `tune`: a unit for each label and outer fold, an optuna study on the other folds."""

import functools
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray

from ct.errors import number_of
from ct.labels import COMMON_FIRST, LABELS
from ct.run_dir import RunDir
from ct.storage.file_formats import read_json, write_json, write_table
from ct.storage.file_lock import file_lock
from features.columns import SCOPES, scope_columns
from pipeline.engines.placement import threads_each
from pipeline.optuna_studies.booster_search import Search, search_booster, search_path
from pipeline.optuna_studies.trial_database import check_store
from pipeline.receipt import Receipt
from pipeline.registry import SEARCH_KEYS
from pipeline.run_context import Run
from pipeline.stage_data.binned_files import BinnedFiles
from pipeline.stage_data.run_tables import load_rows
from pipeline.stage_data.stage_two_resources import (
    bins_memory_mb,
    search_memory_mb,
    table_size,
)
from pipeline.units.unit import Log, MakeBar, Resources, Unit
from pipeline.units.unit_lock import LOCKS
from stage2_stack.learners.binned_features import BinnedFeatures, bins_key
from stage2_stack.tuning.optuna_history import COLUMNS, mean_importances

# (time.time() at which all units must end, a unit's share of the time that is left when it begins)
TimeShare = tuple[float, float]
BINNED = ("", *LABELS)  # of the BinFeatures


@dataclass(frozen=True)
class BinFeatures(Unit):
    """Bin all columns, or those of a label's narrower scopes, for the searches that read them.

    A search would bin them itself, with more memory than it takes.
    """

    label: str  # "" for all columns
    read: dict[str, str]  # digests of what the stage reads
    memory_mb: int = 0
    tail_bins: int = 0  # as in StackConfig

    @property
    def name(self) -> str:
        """Return "tune/bins/<label>", or "tune/bins/all"."""
        return f"tune/bins/{self.label or 'all'}"

    def takes(self) -> Resources:
        """Return one core."""
        return Resources(memory_mb=self.memory_mb)

    def why_not_done(self, verify: bool = False) -> str:
        """Return "not made yet", or "" where the files are there."""
        run = RunDir(self.root)
        names = list(read_json(run.stage2 / "features" / "names.json"))
        store = BinnedFiles(run, self.read, 1)
        keys = [
            bins_key([names[i] for i in columns], tail_bins=self.tail_bins)
            for columns in self._columns(names)
        ]
        return "" if all(store.has(key, verify) for key in keys) else "not made yet"

    def run(self, log: Log, bar: MakeBar) -> None:
        """Bin the columns."""
        run = RunDir(self.root)
        X, *_, names = load_rows(run)
        store = BinnedFiles(run, self.read, 1)
        features = BinnedFeatures(X, names, 1, store, self.tail_bins)
        for columns in self._columns(names):
            features.bin_columns(columns)
            features.keep_only()

    def _columns(self, names: list[str]) -> list[NDArray[np.int_]]:
        """Return the sets of columns."""
        scopes = [scope for scope in SCOPES if scope != "all"] if self.label else ["all"]
        return [scope_columns(names, self.label, scope) for scope in scopes]


@dataclass(frozen=True)
class TuneLabel(Unit):
    """Search the settings of one label's booster on the rows outside one fold."""

    label: str
    fold: int
    read: dict[str, str]  # digests of what the stage reads
    threads: int = 1  # of a fit; the result does not depend on it
    memory_mb: int = 0
    share: TimeShare | None = None  # None without a limit of time

    @property
    def name(self) -> str:
        """Return "tune/<label>/fold<k>"."""
        return f"tune/{self.label}/fold{self.fold}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the names of the bins that it reads."""
        return "tune/bins/all", f"tune/bins/{self.label}"

    def takes(self) -> Resources:
        """Return a core for each thread of a fit."""
        return Resources(self.threads, memory_mb=self.memory_mb)

    def why_not_done(self, verify: bool = False) -> str:
        """Return why the settings must be searched, or ""."""
        run = Run(self.root)
        return run.why_unit_is_stale(
            self._file(".receipt.json"), self._part(run), self.read, verify
        )

    def run(self, log: Log, bar: MakeBar) -> None:
        """Run the trials of the study, or continue them."""
        # optuna would log the traceback of an interrupt
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        run, result_file = Run(self.root, log, bar), self._file(".json")
        part, config = self._part(run), run.recipe.stage2
        if config.storage:
            _check_store_once(self.root, config.storage)
        receipt = Receipt(run.dir.root, self._file(".receipt.json"), "tune", part, self.read)
        with receipt, bar(config.trials, f"{self.label}-fold{self.fold}", "trial") as trials:

            def show(number: int, best: float) -> None:
                trials.set_postfix_str(f"{best:.4f} at best", refresh=False)
                if trials.n == 0:
                    trials.reach(number - 1, kept=True)  # trials of an interrupted search
                trials.reach(number)

            search = Search(
                self.root,
                config.model_copy(update={"threads": self.threads}),
                {"seed": run.recipe.seed, "label": self.label, "fold": self.fold}
                | {"read": self.read},
                log,
                show,
                _deadline(self.share),
                run.recipe.stage1.clipped,
            )
            write_json(result_file, search_booster(search))
            receipt.made = [result_file]

    def summary(self) -> str:
        """Return the number of trials, and the loss before and after."""
        result, start = self.result(), f"{self.label} fold {self.fold}: "
        if not result["stacked"]:
            return f"{start}not stacked: {result['why']}"
        before, after = result["inner_calibrated"], result["inner_loss"]
        return (
            f"{start}{number_of(result['trials'], 'trial')}, inner loss {before:.4f} -> {after:.4f}"
        )

    def result(self) -> dict[str, Any]:
        """Return the result, as `search_booster` does."""
        values: dict[str, Any] = read_json(self._file(".json"))
        return values

    def _file(self, suffix: str) -> Path:
        return search_path(self.root, self.label, self.fold).with_suffix(suffix)

    def _part(self, run: Run) -> dict[str, Any]:
        """Return the unit's part of the recipe."""
        settings = run.recipe_part(("seed", *SEARCH_KEYS))
        return settings | {"label": self.label, "fold": self.fold}


def tuning_units(run: Run, read: dict[str, str]) -> list[Unit]:
    """Return a TuneLabel for each label and fold, and the BinFeatures that the missing ones need.

    The searches of common labels, which tend to take longest, come first: those that end last, side
    by side, are short. The BinFeatures come last: a shard counts the searches alike whether bins
    are missing or not.
    """
    pairs = [(label, k) for label in COMMON_FIRST for k in range(run.recipe.folds.k)]
    cores, total, root = run.engine.cores(), len(pairs), str(run.dir.root)
    end = time.time() + run.timeout if run.timeout else None
    rows, names = table_size(run.dir)
    searches: list[Unit] = []
    for label, k in pairs:
        share = (end, min(1, min(cores, total) / (total - len(searches)))) if end else None
        threads = max(run.recipe.stage2.threads, threads_each(cores, total))
        memory = search_memory_mb(rows, names, run.recipe.folds.k, label)
        searches.append(TuneLabel(root, label, k, read, threads, memory, share))
    needed = {name for each in searches if each.why_not_done() for name in each.needs}
    bins = [
        BinFeatures(
            root, each, read, bins_memory_mb(rows, names, each), run.recipe.stage2.tail_bins
        )
        for each in BINNED
    ]
    if not rows:
        return searches  # `features` is not done
    return [*searches, *(each for each in bins if each.name in needed)]


def tune(run: Run, receipt: Receipt) -> None:
    """Join the results of all labels and folds: configurations, trials, importances."""
    config, folder = run.recipe.stage2, run.dir.stage2
    configs: dict[str, list[dict[str, Any]]] = {label: [] for label in LABELS}
    shares: dict[str, dict[int, Any]] = {label: {} for label in LABELS}
    history = []
    for label in LABELS:
        for k in range(run.recipe.folds.k):
            result = TuneLabel(str(run.dir.root), label, k, receipt.values["read"]).result()
            history += [{"label": label, "fold": k, **row} for row in result.pop("history")]
            shares[label][k] = result.pop("importances")
            configs[label].append({"fold": k, **result})
    write_json(folder / "configs.json", configs)
    write_table(folder / "trials.parquet", pd.DataFrame(history, columns=COLUMNS))
    write_json(
        folder / "tuning.json", {label: mean_importances(folds) for label, folds in shares.items()}
    )
    receipt.made = [folder / name for name in ("configs.json", "trials.parquet", "tuning.json")]
    chosen = [result for label in LABELS for result in configs[label]]
    cut = [result["trials"] for result in chosen if 0 < result["trials"] < config.trials]
    if cut:
        limit = f"={run.timeout}" if run.timeout else ""  # it may be that of an earlier call
        receipt.values["not_repeatable"] = [f"tune --timeout{limit}"]
        run.log(
            f"  the time was up in {number_of(len(cut), 'study')}, "
            f"the shortest after {min(cut)} of {config.trials} trials; "
            f"`tune --trials={config.trials + 1}` continues them"
        )


def _deadline(share: TimeShare | None) -> float:
    """Return the time.time() after which a unit that begins now begins no trial."""
    if share is None:
        return math.inf
    now = time.time()
    return now + (share[0] - now) * share[1]


@functools.cache
def _check_store_once(root: str, storage: str) -> None:
    """Check a database, which makes its tables: processes would make them all at once."""
    path = Path(root) / LOCKS / "store.lock"
    path.parent.mkdir(exist_ok=True)
    with file_lock(path, wait=True):
        check_store(storage)
