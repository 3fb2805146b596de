"""What the stage `features` reads from the run folder, and the columns that are fitted on labels:
chain and probes.
"""

from contextlib import contextmanager

import numpy as np
import pandas as pd

from ct.ensemble import mean_logits
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
from pipeline.stage_data.run_tables import load_predictions, load_test_fold, patients_of_folds


@contextmanager
def new_array(path, shape):
    """Give a float32 memory map to fill, column by column if it has two dimensions; it is `path`
    once the block ends.
    """
    with replacing(path) as part:
        if 0 in shape:  # nothing to map
            with open(part, "wb") as file:
                np.save(file, np.empty(shape, np.float32), allow_pickle=False)
            yield np.empty(shape, np.float32)
        else:
            array = new_memory_map(part, np.float32, shape, fortran_order=len(shape) == 2)
            yield array
            array.flush()


def cross_fitted(run, train, test, said):
    """Fit what the recipe wants to be fitted on labels, each patient's columns on other patients'
    labels.

    train, test: slice tables; said: opinions of the train slices. The chains' and probes'
    parameters are kept in the run.

    Returns build_features' keywords `markov_logits` and `probe_logits` for the train slices, and a
    list of those for the test slices by each fold's CNNs: chains of all folds and the probe of all that CNN's
    held-out slices, or, where the patient is also in train, the chains without the patient's fold
    and the probe without the patient's part of it. Raises InputError where a probe is wanted of an
    imported model.
    """
    config, k_folds = run.recipe.features, run.recipe.folds.k
    y, fold = (
        train[list(LABELS)].to_numpy(np.float64),
        read_table(run.dir.folds)["fold"].reindex(train.index).to_numpy(),
    )
    of_train, of_test = {}, [{} for _ in range(k_folds)]
    groups = pd.Series(
        patients_of_folds(run.dir, whole := pd.concat([train, test])),
        whole.index,
        name="patient_id",
    )
    test_fold, parts = load_test_fold(run.dir), patient_parts(groups[train.index], fold)
    if config.chain or config.probe:
        write_table(
            run.dir.patient_parts, of_each_patient(parts, train["patient_id"], groups[train.index])
        )
    if config.probe and run.recipe.stage1.imports:
        raise InputError(
            "features.probe wants embeddings, which imported models lack; set it to false in recipe.yaml"
        )
    if config.chain:
        of_train["markov_logits"], chains = cross_fit_chains(
            train, mean_logits(said, config.clip), y, fold, k_folds
        )
        for k in range(k_folds):
            logits = mean_logits(load_predictions(run, test.index, k), config.clip)
            of_test[k]["markov_logits"] = held_out_posterior_logits(
                test, logits, test_fold, [list(each.values()) for each in chains]
            )
        where = [*(f"without fold {k}" for k in range(k_folds)), "of all folds"]
        fitted = {
            label: {w: c[label].to_json() for w, c in zip(where, chains, strict=True)}
            for label in LABELS
        }
        write_json(run.dir.markov_chains, fitted)
    if config.probe:
        of_train["probe_logits"], kept, grouped = {}, {}, train.assign(patient_id=groups)
        for model in run.recipe.stage1.models:
            for k in range(k_folds):
                part = unseen_part(groups[test.index], test_fold, parts, k)
                of_train_k, of_test_k, fitted = _probe(
                    run.dir.fold(model.name, k), grouped, test.index, part
                )
                columns = of_train["probe_logits"].setdefault(
                    model.name, np.full(y.shape, np.nan, np.float32)
                )
                columns[fold == k] = of_train_k
                of_test[k].setdefault("probe_logits", {})[model.name] = of_test_k
                kept |= {f"{model.name}.fold{k}.{name}": array for name, array in fitted.items()}
        write_arrays(run.dir.probes, kept)
    return of_train, of_test


def patient_parts(patients: pd.Series, fold: np.ndarray) -> pd.DataFrame:
    """Return `fold` and `part` of each patient of train, indexed by patient: which chain and probe
    never saw the patient.

    patients: (n,) of the train slices; fold: (n,) int
    """
    table = pd.DataFrame({"patient_id": patients.to_numpy(object), "fold": fold}).drop_duplicates()
    parts = pd.Series(0, table.index)
    for k in np.unique(fold):
        own = table["fold"] == k
        parts[own] = part_of_patient(table.loc[own, "patient_id"].to_numpy(object))
    return table.assign(part=parts.astype(np.int8)).set_index("patient_id").sort_index()


def of_each_patient(parts: pd.DataFrame, patients: pd.Series, groups: pd.Series) -> pd.DataFrame:
    """Return the table of each patient's group, indexed by patient.

    parts: as returned by patient_parts, of groups; patients, groups: (n,) of the train slices, as
    in fold_groups
    """
    pairs = pd.DataFrame(
        {"patient_id": patients.to_numpy(object), "group": groups.to_numpy(object)}
    ).drop_duplicates()
    return (
        parts.loc[pairs["group"]]
        .set_axis(pd.Index(pairs["patient_id"], name="patient_id"))
        .sort_index()
    )


def unseen_part(patients: pd.Series, fold: np.ndarray, parts: pd.DataFrame, k: int) -> np.ndarray:
    """Return which part of fold k each slice's patient is in, int (m,); -1 where the patient is not
    in fold k.

    patients: (m,); fold: (m,) the fold in train of each slice's patient, -1 for none; parts: as
    returned by patient_parts
    """
    part = patients.map(parts["part"])
    return np.where(fold == k, part, -1).astype(int)


def _probe(folder, train, test_index, part):
    """Return (train logits, test logits, {name: array} of the probes) of one CNN and fold.

    folder: of the CNN and fold; train: slice table; test_index: ids of the m test slices; part:
    (m,) as in unseen_part

    The train logits (h, 6) are those of the fold's held-out slices, in the order of `train`.
    """
    held = read_table(folder / "held_out.parquet").index
    rows = train.index.get_indexer(held)
    y, patients = (
        train[list(LABELS)].to_numpy(np.float64)[rows],
        train["patient_id"].to_numpy(object)[rows],
    )
    logits, probe, parts = cross_fit_probe(
        read_array(folder / "held_out_embeddings.npy"), y, patients
    )
    seen, embeddings = (
        read_table(folder / "test.parquet").index,
        read_array(folder / "test_embeddings.npy"),
    )
    at = test_index.get_indexer(seen)
    of_test = np.full((len(test_index), len(LABELS)), np.nan, np.float32)
    of_test[at] = held_out_probe_logits(probe, parts, embeddings, part[at])
    fitted = {"": probe, **{f"part{j}.": each for j, each in enumerate(parts)}}
    arrays = {
        f"{name}{key}": array for name, each in fitted.items() for key, array in vars(each).items()
    }
    return logits[np.argsort(rows)], of_test, arrays
