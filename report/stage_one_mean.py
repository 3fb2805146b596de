"""The mean of the CNNs of a run, with the weights that stage two starts from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from ct.averaging import StageOne, combine_folds, held_out_mean, mean_of_seeds, weight_array
from ct.labels import LABELS
from ct.run_dir import RunDir, fit_names, seed_names
from ct.storage.file_formats import read_json, read_table
from ct.storage.prediction_files import kind_of

COLUMNS = list(LABELS)
Fits = dict[str, dict[str, dict[str, float]]]  # name of the fit -> model -> label -> weight


class Models(NamedTuple):
    """The models of a run that stage two stacks.

    seeds:   CNN -> names of its fits; imports: imported models; folds: number of them
    clip:    of probabilities, before their logits
    weights: (folds + 1, c, 6), without each fold and of all; CNNs first, then imported models
    fold:    the training fold of every slice's patient, -1 or NaN for one outside train
    """

    seeds: dict[str, list[str]]
    imports: list[str]
    folds: int
    clip: float
    weights: NDArray[np.float64]
    fold: pd.Series


def models_of(run: RunDir, recipe: Mapping[str, Any], fold: pd.Series) -> Models:
    """Return the models of a run. fold: as in Models"""
    stage1, folds = recipe.get("stage1", {}), int(recipe.get("folds", {}).get("k", 0))
    seeds = {m["name"]: seed_names(m["name"], m.get("seeds", 1)) for m in stage1.get("models", [])}
    names = [*seeds, *stage1.get("imports", [])]
    fits, clip = fitted_weights(run, recipe), (recipe.get("features") or {}).get("clip", 1e-5)
    weights = np.full((folds + 1, len(names), len(LABELS)), 1 / max(len(names), 1))
    if fits:
        weights = weight_array([fits[name] for name in fit_names(folds)], names)
    return Models(seeds, names[len(seeds) :], folds, clip, weights, fold)


def fitted_weights(run: RunDir, recipe: Mapping[str, Any]) -> Fits:
    """Return the weights of each fit, {} where they are equal.

    They are equal by the recipe, in an older run, before the features are built, and where the file
    is of features of other models or folds.
    """
    if (recipe.get("features") or {}).get("cnn_weights") == "equal" or not run.cnn_weights.exists():
        return {}
    fits: Fits = read_json(run.cnn_weights)
    stage1 = recipe.get("stage1", {})
    names = {m["name"] for m in stage1.get("models", [])} | set(stage1.get("imports", []))
    known = set(fits) == set(fit_names(int(recipe.get("folds", {}).get("k", 0))))
    return fits if known and all(set(of_fit) == names for of_fit in fits.values()) else {}


def mean_out_of_fold(run: RunDir, models: Models) -> pd.DataFrame | None:
    """Return the out-of-fold mean of the models, probabilities (n, 6); None where one is missing.

    The weights of a slice are those without its fold.
    """
    tables = {
        name: _logits([run.oof(f) for f in fits], models) for name, fits in models.seeds.items()
    }
    tables |= {name: _logits([run.imported_oof(name)], models) for name in models.imports}
    return _mean_of_models(tables, models)


def mean_on_test(run: RunDir, models: Models) -> pd.DataFrame | None:
    """Return the mean of the models on the test slices, combined over the folds.

    None where a table is missing.
    """
    per_fold = []
    for k in range(models.folds):
        tables = {
            name: _logits([run.fold(fit, k) / "test.parquet" for fit in fits], models)
            for name, fits in models.seeds.items()
        }
        tables |= {
            name: _logits([run.imported_test_path(name, k)], models) for name in models.imports
        }
        mean = _mean_of_models(tables, models)
        if mean is None:
            return None
        per_fold.append(mean)
    if not per_fold:
        return None
    index = per_fold[0].index
    values = np.stack([mean.reindex(index).to_numpy() for mean in per_fold])
    return pd.DataFrame(combine_folds(values, _folds_of(index, models)), index, COLUMNS)


def _logits(paths: Sequence[Path], models: Models) -> pd.DataFrame | None:
    """Return a model's logits (n, 6), mean over seeds; None where a file is missing.

    paths: one a seed
    """
    if not all(path.exists() for path in paths):
        return None
    tables = [read_table(path) for path in paths]
    index = tables[0].index
    fits = [StageOne(t.reindex(index)[COLUMNS].to_numpy(), kind_of(t)) for t in tables]
    return pd.DataFrame(mean_of_seeds(fits).logits(models.clip), index, COLUMNS)


def _mean_of_models(
    tables: Mapping[str, pd.DataFrame | None], models: Models
) -> pd.DataFrame | None:
    """Return the weighted mean of the models' logits as probabilities (n, 6).

    None where a table is missing. tables: {model: logits}, in the order of the weights
    """
    known = {name: table for name, table in tables.items() if table is not None}
    if not tables or len(known) < len(tables):
        return None
    index = next(iter(known.values())).index
    logits = {m: table.reindex(index)[COLUMNS].to_numpy() for m, table in known.items()}
    mean = held_out_mean(logits, _folds_of(index, models), models.weights)
    return pd.DataFrame(expit(mean), index, COLUMNS)


def _folds_of(index: pd.Index, models: Models) -> NDArray[np.int64]:
    return models.fold.reindex(index).fillna(-1).to_numpy(np.int64)
