"""Features that are fitted on labels, cross-fitted: weights of the CNNs, Markov chains, probes.

A patient's features come only from models that were not fitted on that patient's labels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.averaging import held_out_mean
from ct.labels import LABELS
from ct.run_dir import fit_names
from ct.storage.atomic_write import replacing
from ct.storage.file_formats import (
    new_memory_map,
    read_arrays,
    write_arrays,
    write_json,
    write_table,
)
from features.cnn_weights import cross_fit_weights, equal_weights, without_left_out
from features.markov import held_out_posterior_logits
from features.markov_fitting import cross_fit_chains
from pipeline.run_context import Run
from pipeline.stage_data.patient_parts import PatientSplit, parts_by_patient, patient_split
from pipeline.stage_data.probe_unit import HELD_OUT, TEST
from pipeline.stage_data.run_tables import Logits as LogitsByModel
from pipeline.stage_data.run_tables import load_logits

Logits = NDArray[np.float32]


@contextmanager
def new_array(path: Path, shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """Yield a float32 memory map to fill; when the block ends, it is the .npy file `path`.

    A map of two dimensions is in Fortran order, to be filled column by column.
    """
    with replacing(path) as part:
        if 0 in shape:  # an empty file cannot be mapped
            with open(part, "wb") as file:
                np.save(file, np.empty(shape, np.float32), allow_pickle=False)
            yield np.empty(shape, np.float32)
        else:
            array = new_memory_map(part, np.float32, shape, fortran_order=len(shape) == 2)
            yield array
            array.flush()


def cross_fitted(
    run: Run, train: pd.DataFrame, test: pd.DataFrame, logits: LogitsByModel
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Fit the CNNs' weights and the Markov chains and join the probes, where the recipe has them.

    train, test: slice tables of n and m rows; logits: out-of-fold, of the train slices

    Their parameters are saved. Returns build_features' keywords `logits`, `cnn_mean`,
    `markov_logits` and `probe_logits` for the train slices, and those for the test slices by each
    fold's CNNs. A test patient gets the weights and chains of all folds and the probe of all slices
    that the fold's CNN held out. One who is also in train gets the weights and chains without the
    patient's fold, and the probe without the patient's part of it. The units of the probes are
    done.
    """
    config, split = run.recipe.features, patient_split(run, train, test)
    if config.chain or config.probe:
        parts = parts_by_patient(split.parts, train["patient_id"], split.groups[train.index])
        write_table(run.dir.patient_parts, parts)
    for_train, for_test = _weighted_logits(run, train, test, logits, split)
    if config.chain:
        means = for_train["cnn_mean"], [keywords["cnn_mean"] for keywords in for_test]
        for_train["markov_logits"], per_fold = _markov_logits(run, train, test, means, split)
        for keywords, markov_logits in zip(for_test, per_fold, strict=True):
            keywords["markov_logits"] = markov_logits
    if config.probe:
        for_train["probe_logits"], probes_per_fold = _probe_logits(run, split.fold)
        for keywords, probe_logits in zip(for_test, probes_per_fold, strict=True):
            keywords["probe_logits"] = probe_logits
    return for_train, for_test


def _weighted_logits(
    run: Run,
    train: pd.DataFrame,
    test: pd.DataFrame,
    logits: LogitsByModel,
    split: PatientSplit,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Fit and save the weights of the CNNs, or take equal ones, as the recipe says.

    Returns build_features' keywords `logits` and `cnn_mean` of train, and of test per fold.
    """
    k_folds = run.recipe.folds.k
    weights = equal_weights(len(logits), k_folds)
    if run.recipe.features.cnn_weights == "fitted":
        y = train[list(LABELS)].to_numpy(np.float64)
        patients = split.groups[train.index].to_numpy(object)
        weights = cross_fit_weights(logits, y, patients, split.fold, k_folds)
        parameters = {
            fit: {
                name: dict(zip(LABELS, of_cnn, strict=True))
                for name, of_cnn in zip(logits, of_fit.tolist(), strict=True)
            }
            for fit, of_fit in zip(fit_names(k_folds), weights, strict=True)
        }
        write_json(run.dir.cnn_weights, parameters)

    def keywords(of_cnns: LogitsByModel, fold: NDArray[np.integer]) -> dict[str, Any]:
        mean = held_out_mean(of_cnns, fold, weights)
        return {"logits": without_left_out(of_cnns, fold, weights), "cnn_mean": mean}

    per_fold = (load_logits(run, test.index, k) for k in range(k_folds))
    return keywords(logits, split.fold), [keywords(each, split.test_fold) for each in per_fold]


def _markov_logits(
    run: Run,
    train: pd.DataFrame,
    test: pd.DataFrame,
    means: tuple[Logits, list[Logits]],
    split: PatientSplit,
) -> tuple[Logits, list[Logits]]:
    """Fit and save the chains; return posterior logits (n, 6) of train, (m, 6) of test per fold.

    means: mean logits over CNNs of the same shapes
    """
    k_folds = run.recipe.folds.k
    y = train[list(LABELS)].to_numpy(np.float64)
    train_logits, chains = cross_fit_chains(train, means[0], y, split.fold, k_folds)
    by_label = [list(each.values()) for each in chains]
    test_logits = [
        held_out_posterior_logits(test, mean, split.test_fold, by_label) for mean in means[1]
    ]
    parameters = {
        label: {
            fit: chain[label].to_json()
            for fit, chain in zip(fit_names(k_folds), chains, strict=True)
        }
        for label in LABELS
    }
    write_json(run.dir.markov_chains, parameters)
    return train_logits, test_logits


def _probe_logits(
    run: Run, fold: NDArray[np.int8]
) -> tuple[dict[str, Logits], list[dict[str, Logits]]]:
    """Join what the units of the probes left, and save the parameters of all in one file.

    fold: (n,) of the train slices

    Returns {CNN: logits (n, 6)} of the train slices, and for each fold {CNN: logits (m, 6)} of the
    test slices.
    """
    k_folds = run.recipe.folds.k
    for_train: dict[str, Logits] = {}
    for_test: list[dict[str, Logits]] = [{} for _ in range(k_folds)]
    parameters: dict[str, NDArray] = {}
    for model in run.recipe.stage1.models:
        for_train[model.name] = np.full((len(fold), len(LABELS)), np.nan, np.float32)
        for k in range(k_folds):
            arrays = read_arrays(run.dir.probe(model.name, k))
            for_train[model.name][fold == k] = arrays.pop(HELD_OUT)
            for_test[k][model.name] = arrays.pop(TEST)
            for name, array in arrays.items():
                parameters[f"{model.name}.fold{k}.{name}"] = array
    write_arrays(run.dir.probes, parameters)
    return for_train, for_test
