"""What the stage `features` reads from the run folder, and the columns that are fitted on labels: chain and probes."""

from contextlib import contextmanager

import numpy as np

from ct.errors import InputError
from ct.labels import LABELS
from ct.rundir import read_array, read_table, replacing, write_arrays, write_json
from features.build import mean_logits
from features.chain import chain_logits, cross_fit_chain
from features.embeddings import cross_fit_probe
from pipeline.tables import opinions


@contextmanager
def new_array(path, shape):
    """Give a float32 memory map to fill, column by column if it has two dimensions; it is `path` once the block ends."""
    with replacing(path) as part:
        if 0 in shape:  # nothing to map
            with open(part, "wb") as file:
                np.save(file, np.empty(shape, np.float32), allow_pickle=False)
            yield np.empty(shape, np.float32)
        else:
            array = np.lib.format.open_memmap(part, "w+", np.float32, shape, fortran_order=len(shape) == 2)
            yield array
            array.flush()


def cross_fitted(run, train, test, said):
    """Fit what the recipe wants to be fitted on labels, each patient's columns on other patients' labels.

    train, test: slice tables; said: opinions of the train slices. The chains' and probes' parameters are kept in the run.

    Returns build_features' keywords `chain` and `probes` for the train slices, and a list of those for the test slices by
    each fold's CNNs: chains of all folds, the probe of all that CNN's held-out slices.
    Raises InputError where a probe is wanted of an imported model.
    """
    config, k_folds = run.recipe.features, run.recipe.folds.k
    y, fold = train[list(LABELS)].to_numpy(np.float64), read_table(run.dir.folds)["fold"].reindex(train.index).to_numpy()
    of_train, of_test = {}, [{} for _ in range(k_folds)]
    if config.probe and run.recipe.stage1.imports:
        raise InputError("features.probe wants embeddings, which imported models lack; set it to false in recipe.yaml")
    if config.chain:
        of_train["chain"], chains = cross_fit_chain(train, mean_logits(said, config.clip), y, fold, k_folds)
        for k in range(k_folds):
            logits = mean_logits(opinions(run, test.index, k), config.clip)
            of_test[k]["chain"] = chain_logits(test, logits, list(chains[-1].values()))
        where = [*(f"without fold {k}" for k in range(k_folds)), "of all folds"]
        fitted = {label: {w: c[label]._asdict() for w, c in zip(where, chains, strict=True)} for label in LABELS}
        write_json(run.dir.chain, fitted)
    if config.probe:
        of_train["probes"], kept = {}, {}
        for model in run.recipe.stage1.models:
            of_train["probes"][model.name], asked, probes = _probe(run, model.name, train, test, y)
            for k in range(k_folds):
                of_test[k].setdefault("probes", {})[model.name] = asked[k]
                kept |= {f"{model.name}.fold{k}.{part}": array for part, array in vars(probes[k]).items()}
        write_arrays(run.dir.probes, kept)
    return of_train, of_test


def _probe(run, model, train, test, y):
    """Return one CNN's probe logits (n, 6) of the train slices, lists of the test slices', and the probes, one a fold."""
    patients, columns, asked, probes = train["patient_id"].to_numpy(object), np.full(y.shape, np.nan, np.float32), [], []
    for k in range(run.recipe.folds.k):
        folder = run.dir.fold(model, k)
        rows = train.index.get_indexer(read_table(folder / "held_out.parquet").index)
        columns[rows], probe = cross_fit_probe(read_array(folder / "held_out_embeddings.npy"), y[rows], patients[rows])
        seen, embeddings = read_table(folder / "test.parquet").index, read_array(folder / "test_embeddings.npy")
        of_test = np.full((len(test), len(LABELS)), np.nan, np.float32)
        of_test[test.index.get_indexer(seen)] = probe.logits(embeddings)
        asked.append(of_test)
        probes.append(probe)
    return columns, asked, probes
