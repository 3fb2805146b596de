"""What the units of stage two take: memory, by the numbers of rows and columns, and cores.

The numbers are measured by `python -m benchmarks.stacking.stack_memory` and rounded up.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ct.labels import SUBTYPES
from ct.run_dir import RunDir
from ct.storage.file_formats import read_array, read_json
from ct.system.machine_memory import free_memory_mb
from features.columns import SCOPES, scope_columns
from stage2_stack.components import TUNED
from stage2_stack.components.component import Component
from stage2_stack.learners.binned_features import BLOCK, COLUMNS_AT_ONCE
from stage2_stack.tuning.inner_cv import MAX_BINNED_BYTES

BASE_MB = 400  # of a process with pandas, optuna, LightGBM and scipy
SAMPLE = 200_000  # rows that LightGBM makes the edges of bins from, at most
SAMPLE_BYTES = 18  # a value of the sample, while the edges are made
HISTOGRAM_BYTES = 31 * 256 * 16  # a column: leaves x bins x bytes
BLOCK_BYTES = BLOCK * 4 * 2  # a column: values of a block of rows that is predicted
DATASET_BYTES = 2  # a value of the rows that a model is fitted to: bins, and copies of them
ROW_BYTES = 200  # such a row: gradients, scores, labels, predictions
FLOAT_BYTES = 12  # a value in XGBoost and CatBoost, which make their own copy of it


class ComponentFits(NamedTuple):
    """The fits of one component, for one label or all of them."""

    component: str
    label: str
    most: int  # fits that can run at the same time
    work: int  # labels x fits

    @classmethod
    def of(cls, component: Component, label: str, k_folds: int) -> "ComponentFits":
        """Return those of a unit.

        Where the settings are the same for all folds, K (K - 1) / 2 nested models serve them all.
        """
        nested = k_folds * (k_folds - 1) // (1 if component.name in TUNED else 2)
        work = (nested + k_folds) * (1 if label else len(component.labels))
        thread_safe = component.learner is not None and component.learner.thread_safe
        return cls(component.name, label, max(nested, 1) if thread_safe else 1, work)


def fits_at_once(units: Sequence[ComponentFits], places: int, most: int) -> list[int]:
    """Return how many fits each unit runs at the same time: one, or more where there are places.

    places: for fits, on all machines together; most: places of one machine, which runs a unit

    The units that would take longest get the places that are left.
    """
    counts, free = [1] * len(units), places - len(units)
    while free > 0:
        slow = [i for i, unit in enumerate(units) if counts[i] < min(unit.most, most)]
        if not slow:
            break
        counts[max(slow, key=lambda i: units[i].work / counts[i])] += 1
        free -= 1
    return counts


def within_memory(most: int, memory_mb: Callable[[int], int]) -> tuple[int, int]:
    """Return (fits at the same time, their memory) that this machine has room for: one, at least.

    memory_mb: returns the memory of some fits at the same time
    """
    free = free_memory_mb()
    at_once = next((count for count in range(most, 1, -1) if memory_mb(count) <= free), 1)
    return at_once, memory_mb(at_once)


def table_size(run: RunDir) -> tuple[int, list[str]]:
    """Return (train slices, names of the features); (0, []) before `features` is done."""
    folder = run.stage2 / "features"
    if not ((folder / "train.npy").exists() and (folder / "names.json").exists()):
        return 0, []
    return len(read_array(folder / "train.npy")), list(read_json(folder / "names.json"))


def bins_memory_mb(rows: int, names: Sequence[str], label: str = "") -> int:
    """Return the memory of binning all columns, or those of a label's narrower scopes, MB.

    They are binned in parts. The values of a label's columns are copied, as they lie apart.
    """
    columns = len(scope_columns(names, label, "study") if label else names)
    part = min(columns, COLUMNS_AT_ONCE)
    return _mb(rows * columns + _binning(rows, part) + rows * part * (4 if label else 0))


def search_memory_mb(rows: int, names: Sequence[str], k_folds: int, label: str) -> int:
    """Return the memory of a search, MB: all columns, and Datasets of one split at a time.

    Where the Datasets of all splits and scopes are small, all of them are held.
    """
    widest, fitted = len(names), rows * (k_folds - 1) // k_folds
    scopes = sum(len(scope_columns(names, label, scope)) for scope in SCOPES)
    one_split = fitted * widest * DATASET_BYTES
    held = max(one_split, min(k_folds * fitted * scopes, MAX_BINNED_BYTES))
    bins = rows * (widest if held == one_split else scopes)
    return _mb(bins + held + fitted * ROW_BYTES + widest * (HISTOGRAM_BYTES + BLOCK_BYTES))


def fit_memory_mb(
    component: str, rows: int, names: Sequence[str], k_folds: int, at_once: int
) -> int:
    """Return the memory of the fits of a component, `at_once` of them at the same time, MB.

    Boosters of a label read bins that `tune` has left; the pooled ones are binned first.
    """
    columns, fitted = len(names), rows * (k_folds - 1) // k_folds
    outputs = rows * (k_folds + 2) * 8 * 2
    if component == "pooled":
        columns = len(names) * 2 // 5
        rows, fitted, outputs = (len(SUBTYPES) * each for each in (rows, fitted, outputs))
    # the histograms of a booster that ends may still be there while the next one makes its own
    of_fit = fitted * (columns * DATASET_BYTES + ROW_BYTES) + columns * (
        2 * HISTOGRAM_BYTES + BLOCK_BYTES
    )
    fits = rows * columns + outputs + at_once * of_fit
    return _mb(max(fits, _binning(rows, columns)) if component == "pooled" else fits)


def _binning(rows: int, columns: int) -> int:
    """Return the bytes of making and writing the bins of some columns at once."""
    return min(rows, SAMPLE) * columns * SAMPLE_BYTES + 2 * rows * columns


def _mb(size: int) -> int:
    return BASE_MB + size // 10**6
