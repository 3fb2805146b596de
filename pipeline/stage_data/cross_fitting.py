"""Columns of the features that are fitted on labels: Markov chains and probes, cross-fitted.

A patient's columns come only from models that were not fitted on that patient's labels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.averaging import mean_logits
from ct.errors import InputError
from ct.labels import LABELS
from ct.storage.atomic_write import replacing
from ct.storage.file_formats import (
    new_memory_map,
    read_array,
    read_table,
    write_arrays,
    write_json,
    write_table,
)
from features.linear_probe import cross_fit_probe, held_out_probe_logits, part_of_patient
from features.markov import held_out_posterior_logits
from features.markov_fitting import cross_fit_chains
from pipeline.run_context import Run
from pipeline.stage_data.run_tables import (
    Predictions,
    load_predictions,
    load_test_fold,
    patients_of_folds,
)

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


@dataclass(frozen=True)
class PatientSplit:
    """Which fold, and which part of the fold, each slice's patient is in."""

    groups: pd.Series  # patient or group of each train and test slice, by slice id
    fold: NDArray[np.int8]  # (n,) of the train slices
    test_fold: NDArray[np.int8]  # (m,) fold in train of the test slices' patients, -1 for none
    parts: pd.DataFrame  # as returned by patient_parts


def cross_fitted(
    run: Run, train: pd.DataFrame, test: pd.DataFrame, predictions: Predictions
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Fit the Markov chains and the probes, if the recipe has them, and save their parameters.

    train, test: slice tables of n and m rows; predictions: out-of-fold, of the train slices

    Returns build_features' keywords `markov_logits` and `probe_logits` for the train slices, and
    those for the test slices by each fold's CNNs. A test patient gets the chains of all folds and
    the probe of all slices that the fold's CNN held out. One who is also in train gets the chains
    without the patient's fold, and the probe without the patient's part of it. Raises InputError
    where the recipe has probes and an imported model, which has no embeddings.
    """
    config = run.recipe.features
    for_train: dict[str, Any] = {}
    for_test: list[dict[str, Any]] = [{} for _ in range(run.recipe.folds.k)]
    split = _patient_split(run, train, test)
    if config.chain or config.probe:
        parts = parts_by_patient(split.parts, train["patient_id"], split.groups[train.index])
        write_table(run.dir.patient_parts, parts)
    if config.probe and run.recipe.stage1.imports:
        raise InputError(
            "features.probe needs embeddings, which imported models lack; set it to false in "
            "recipe.yaml"
        )
    if config.chain:
        for_train["markov_logits"], per_fold = _markov_logits(run, train, test, predictions, split)
        for keywords, markov_logits in zip(for_test, per_fold, strict=True):
            keywords["markov_logits"] = markov_logits
    if config.probe:
        for_train["probe_logits"], probes_per_fold = _probe_logits(run, train, test, split)
        for keywords, probe_logits in zip(for_test, probes_per_fold, strict=True):
            keywords["probe_logits"] = probe_logits
    return for_train, for_test


def _patient_split(run: Run, train: pd.DataFrame, test: pd.DataFrame) -> PatientSplit:
    slices = pd.concat([train, test])
    groups = pd.Series(patients_of_folds(run.dir, slices), slices.index, name="patient_id")
    fold = read_table(run.dir.folds)["fold"].reindex(train.index).to_numpy()
    parts = patient_parts(groups[train.index], fold)
    return PatientSplit(groups, fold, load_test_fold(run.dir), parts)


def _markov_logits(
    run: Run,
    train: pd.DataFrame,
    test: pd.DataFrame,
    predictions: Predictions,
    split: PatientSplit,
) -> tuple[Logits, list[Logits]]:
    """Fit and save the chains; return posterior logits (n, 6) of train, (m, 6) of test per fold."""
    clip, k_folds = run.recipe.features.clip, run.recipe.folds.k
    y = train[list(LABELS)].to_numpy(np.float64)
    train_logits, chains = cross_fit_chains(
        train, mean_logits(predictions, clip), y, split.fold, k_folds
    )
    test_logits = []
    for k in range(k_folds):
        logits = mean_logits(load_predictions(run, test.index, k), clip)
        by_label = [list(each.values()) for each in chains]
        test_logits.append(held_out_posterior_logits(test, logits, split.test_fold, by_label))
    fits = [*(f"without fold {k}" for k in range(k_folds)), "of all folds"]
    parameters = {
        label: {fit: chain[label].to_json() for fit, chain in zip(fits, chains, strict=True)}
        for label in LABELS
    }
    write_json(run.dir.markov_chains, parameters)
    return train_logits, test_logits


def _probe_logits(
    run: Run, train: pd.DataFrame, test: pd.DataFrame, split: PatientSplit
) -> tuple[dict[str, Logits], list[dict[str, Logits]]]:
    """Fit and save the probes of every CNN and fold.

    Returns {CNN: logits (n, 6)} of the train slices, and for each fold {CNN: logits (m, 6)} of the
    test slices.
    """
    k_folds = run.recipe.folds.k
    for_train: dict[str, Logits] = {}
    for_test: list[dict[str, Logits]] = [{} for _ in range(k_folds)]
    parameters: dict[str, NDArray] = {}
    grouped = train.assign(patient_id=split.groups)
    for model in run.recipe.stage1.models:
        for_train[model.name] = np.full((len(train), len(LABELS)), np.nan, np.float32)
        for k in range(k_folds):
            part = part_in_fold(split.groups[test.index], split.test_fold, split.parts, k)
            held_out_logits, test_logits, arrays = _probe(
                run.dir.fold(model.name, k), grouped, test.index, part
            )
            for_train[model.name][split.fold == k] = held_out_logits
            for_test[k][model.name] = test_logits
            for name, array in arrays.items():
                parameters[f"{model.name}.fold{k}.{name}"] = array
    write_arrays(run.dir.probes, parameters)
    return for_train, for_test


def _probe(
    folder: Path, train: pd.DataFrame, test_index: pd.Index, part: NDArray[np.int64]
) -> tuple[Logits, Logits, dict[str, NDArray]]:
    """Fit the probes of one CNN and fold.

    folder: of the CNN and fold; train: slice table, patient_id is the group; test_index: ids of the
    m test slices; part: (m,), as returned by part_in_fold

    Returns (logits (h, 6) of the fold's held-out slices in the order of `train`, logits (m, 6) of
    the test slices, {name: array} of the probes).
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
    probes = {"": probe} | {f"part{j}.": each for j, each in enumerate(part_probes)}
    arrays = {}
    for prefix, each in probes.items():
        for name, array in vars(each).items():
            arrays[f"{prefix}{name}"] = array
    return logits[np.argsort(rows)], test_logits, arrays


def patient_parts(patients: pd.Series, fold: NDArray[np.integer]) -> pd.DataFrame:
    """Return `fold` and `part` of each train patient, indexed by patient.

    The chain without that fold and the probe without that part were not fitted on the patient.
    patients: (n,) of the train slices; fold: (n,)
    """
    table = pd.DataFrame({"patient_id": patients.to_numpy(object), "fold": fold}).drop_duplicates()
    parts = pd.Series(0, table.index)
    for k in np.unique(fold):
        in_fold = table["fold"] == k
        parts[in_fold] = part_of_patient(table.loc[in_fold, "patient_id"].to_numpy(object))
    return table.assign(part=parts.astype(np.int8)).set_index("patient_id").sort_index()


def parts_by_patient(parts: pd.DataFrame, patients: pd.Series, groups: pd.Series) -> pd.DataFrame:
    """Return the row of `parts` of each patient's group, indexed by patient.

    parts: as returned by patient_parts, of groups; patients, groups: (n,) of the train slices
    """
    pairs = pd.DataFrame(
        {"patient_id": patients.to_numpy(object), "group": groups.to_numpy(object)}
    ).drop_duplicates()
    by_patient = parts.loc[pairs["group"]]
    by_patient.index = pd.Index(pairs["patient_id"], name="patient_id")
    return by_patient.sort_index()


def part_in_fold(
    patients: pd.Series, fold: NDArray[np.integer], parts: pd.DataFrame, k: int
) -> NDArray[np.int64]:
    """Return the part of fold k that each slice's patient is in, (m,); -1 for one not in fold k.

    patients: (m,); fold: (m,) the fold in train of each slice's patient, -1 for none; parts: as
    returned by patient_parts
    """
    part = patients.map(parts["part"])
    return np.where(fold == k, part, -1).astype(int)
