"""The feature matrix: all feature families side by side, float32, in one fixed column order."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike, NDArray

from ct.averaging import mean_logits, over_models
from ct.labels import LABELS
from ct.slices import check_slice_table
from features.config import FeatureConfig
from features.geometry import GROUPS, geometry_features, source_columns
from features.neighbours import (
    STEP_PLACES,
    Features,
    best_smooth_features,
    difference_features,
    neighbour_features,
    smooth_features,
)
from features.rolling_windows import rolling_features, sided_features
from features.series import SliceTable, study_starts
from features.study import OTHER_KINDS, other_study_features, study_features

# columns of the slice table that every family may read
COMMON_COLUMNS = ("study_id", "split", "place", "series_slices", "position_mm")
# rows that are built at once, about; their columns of one family fit into the processor's cache
BLOCK_ROWS = 16_384

Logits = Mapping[str, NDArray[np.float32]]  # model or source -> logits (n, 6)


def build_features(
    slices: pd.DataFrame,
    logits: Logits,
    config: FeatureConfig,
    markov_logits: NDArray[np.float32] | None = None,
    probe_logits: Logits | None = None,
    cnn_mean: NDArray[np.float32] | None = None,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], list[str]]:
    """Build the feature matrix of stage two from the logits of stage one and the slice table.

    slices:        (n rows) slice table, sorted by study, series and place
    logits:        {model: (n, 6)}, columns LABELS, NaN for unreadable slices, and where a model is
                   left out (features/cnn_weights.py)
    markov_logits: (n, 6), from features/markov.py; required where config.chain, else None
    probe_logits:  {model: (n, 6)}, from features/linear_probe.py; required where config.probe, else
                   None
    cnn_mean:      (n, 6) weighted mean over CNNs, from features/cnn_weights.py; None: equal weights
    out:           float32 (n, f) to write to, such as a memory map; None: a new array

    Returns X (n, f) float32, in Fortran order unless `out` is not, and the f names. Their order
    depends on the config and the names of the models alone. Labels and folds reach X only through
    `markov_logits`, `probe_logits` and `cnn_mean`. Raises ValueError where the table is not sorted
    or a series is incomplete (neighbours would cross series), and where `markov_logits` or
    `probe_logits` does not match the config.
    """
    check_slice_table(slices)
    sources = logits_by_source(slices, logits, config, markov_logits, probe_logits, cnn_mean)
    names, table = feature_names(logits, config), _numeric_table(slices, config)
    X = np.empty((len(names), len(slices)), np.float32).T if out is None else out
    if X.shape != (len(slices), len(names)) or X.dtype != np.float32:
        raise ValueError(
            f"out is {X.dtype} {X.shape}, the features are float32 {(len(slices), len(names))}"
        )
    for rows in _blocks(table):
        block_table = {name: values[rows] for name, values in table.items()}
        block_sources = {suffix: values[rows] for suffix, values in sources.items()}
        end = 0
        for columns, _ in _families(block_table, block_sources, config):
            start, end = end, end + columns.shape[1]
            X[rows, start:end] = columns
    return X, names


def feature_names(models: Iterable[str], config: FeatureConfig) -> list[str]:
    """Return the feature names in column order, found by building on zero rows."""
    empty = np.empty((0, len(LABELS)), np.float32)
    each = dict.fromkeys(models, empty)
    columns = [*COMMON_COLUMNS, "patient_id", *source_columns(_groups(config))]
    table = pd.DataFrame({name: np.empty(0) for name in columns})
    sources = logits_by_source(
        table, each, config, empty if config.chain else None, each if config.probe else None
    )
    names = []
    for _, family_names in _families(_numeric_table(table, config), sources, config):
        names += family_names
    return names


def logits_by_source(
    slices: SliceTable,
    logits: Logits,
    config: FeatureConfig,
    markov_logits: NDArray[np.float32] | None,
    probe_logits: Logits | None,
    cnn_mean: NDArray[np.float32] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Return the logits of each source: mean over CNNs, each CNN, spread, Markov chain, probes.

    Returns {suffix of the feature names: (n, 6), Fortran order}; the suffix of the mean is "".
    Raises ValueError where `markov_logits` or `probe_logits` does not match the config.
    """
    if (markov_logits is not None, probe_logits is not None) != (config.chain, config.probe):
        raise ValueError(
            f"the config has chain: {config.chain}, probe: {config.probe}; give markov_logits only "
            "with chain, probe_logits only with probe"
        )
    if probe_logits is not None and list(probe_logits) != list(logits):
        raise ValueError(
            f"probe_logits of {', '.join(probe_logits)}, but logits of "
            f"{', '.join(logits)}; give both for each CNN"
        )
    mean = mean_logits(logits) if cnn_mean is None else cnn_mean
    sources = {"": mean}
    if len(logits) > 1:
        for model, model_logits in logits.items():
            sources[f"_by_{model}"] = model_logits
        sources["_spread"] = _spread(logits)
    if markov_logits is not None:
        sources["_chain"] = markov_logits
    if probe_logits is not None:
        sources["_probe"] = mean_logits(probe_logits)
        if len(logits) > 1:
            for model, model_logits in probe_logits.items():
                sources[f"_probe_by_{model}"] = model_logits
    if config.other_studies:  # here, since a patient's studies may lie in several blocks
        others, _ = other_study_features(slices, mean, LABELS)
        for kind, columns in zip(OTHER_KINDS, np.split(others, len(OTHER_KINDS), 1), strict=True):
            sources[f"_{kind}"] = columns
    return {suffix: np.asfortranarray(values, np.float32) for suffix, values in sources.items()}


def _spread(logits: Logits) -> NDArray[np.float32]:
    """Return the standard deviation (n, 6) of the logits of the CNNs that are not left out.

    It is NaN where all are NaN.
    """
    missing = [np.isnan(each) for each in logits.values()]
    if all(np.array_equal(each, missing[0]) for each in missing):
        return over_models(np.std, logits)
    return over_models(_std_of_known, logits)


def _std_of_known(
    logits: Sequence[NDArray[np.float32]], axis: int, dtype: DTypeLike
) -> NDArray[np.floating]:
    """Return the standard deviation (m, 6) of the numbers of arrays (m, 6), as np.std does."""
    values = np.stack(logits)
    known = ~np.isnan(values)
    count = np.where(known.any(axis), known.sum(axis), np.nan)
    mean = np.where(known, values, 0).sum(axis) / count
    std = np.sqrt(np.where(known, (values - mean) ** 2, 0).sum(axis) / count)
    return np.asarray(std.astype(dtype))


def _families(slices: SliceTable, sources: Logits, config: FeatureConfig) -> Iterator[Features]:
    """Yield (columns, names) of each family in column order. No family crosses a study."""
    mean = sources[""]
    for suffix, logits in sources.items():
        yield logits, [f"{label}{suffix}" for label in LABELS]
    yield neighbour_features(slices, mean, LABELS, config.reach)
    for suffix, logits in sources.items():
        if suffix.startswith("_by_"):
            yield neighbour_features(slices, logits, LABELS, config.model_reach, suffix)
    yield difference_features(slices, mean, LABELS, config.difference_reach)
    yield smooth_features(slices, mean, LABELS, config.smooth_mm)
    if config.smooth_best:
        yield best_smooth_features(slices, mean, LABELS)
    yield rolling_features(slices, mean, LABELS, config.rolling)
    if config.cumulative:
        yield sided_features(slices, mean, LABELS)
    if config.study:
        yield study_features(slices, mean, LABELS)
    yield geometry_features(slices, _groups(config))


def _numeric_table(slices: pd.DataFrame, config: FeatureConfig) -> dict[str, NDArray]:
    """Return {name: (n,) numbers}: the columns of the slice table that the families read.

    study_id is the number of the study; a study in train and in test counts as two. So split is 0.
    """
    starts = study_starts(slices)
    study = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(slices))))
    table: dict[str, NDArray] = {"study_id": study, "split": np.zeros(len(slices), np.int8)}
    for name in COMMON_COLUMNS[2:]:
        table[name] = np.asarray(slices[name])
    if STEP_PLACES in slices:
        table[STEP_PLACES] = np.asarray(slices[STEP_PLACES], np.float64)
    for name in source_columns(_groups(config)):
        if name not in table:
            table[name] = np.asarray(slices[name].astype(np.float32))
    return table


def _groups(config: FeatureConfig) -> list[str]:
    """Return the groups of geometry features that the config switches on."""
    return [group for group in GROUPS if getattr(config, group)]


def _blocks(table: Mapping[str, NDArray]) -> list[slice]:
    """Return blocks of about BLOCK_ROWS rows that hold whole studies."""
    rows = len(table["place"])
    starts = np.append(study_starts(table), rows)
    targets = np.append(np.arange(0, rows, BLOCK_ROWS), rows)
    bounds = np.unique(starts[np.searchsorted(starts, targets)])
    return [slice(start, end) for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
