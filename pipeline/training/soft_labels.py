"""Soft labels: what other CNNs of the recipe predict of slices that they never saw.

Of test slices, fold by fold: the CNN of fold k is trained on the probabilities of fold k's CNNs
alone. These never saw fold k's patients, so its out-of-fold predictions are as honest as theirs. A
mean over the folds would hold models that were trained on fold k's labels.

Of training slices, out of fold: the distilled CNN is trained on them, mixed with the labels. It
predicts new patients alone.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from ct.averaging import StageOne, mean_logits, mean_of_seeds
from ct.errors import InputError
from ct.labels import LABELS
from ct.run_dir import HELD_OUT_TABLE, TEST_TABLE, seed_names
from ct.storage.file_formats import read_table
from ct.storage.prediction_files import kind_of, read_predictions_of
from pipeline.run_context import Run
from pipeline.training.stage_one_inputs import StageOneInputs
from stage1_cnn.batches.dataset import fold_rows, with_soft_labels
from stage1_cnn.config import CnnConfig, DistilledCnn

Rows = NDArray[np.int64]  # row numbers of the slice table
CLIP = 1e-5  # of probabilities, which CNNs of older versions keep; logits are not clipped


def training_slices(
    inputs: StageOneInputs, config: CnnConfig, k: int
) -> tuple[pd.DataFrame, tuple[Rows, Rows]]:
    """Return the slice table that a CNN of fold `k` is trained on, and rows (training, held out).

    With `pseudo_from` the table has soft labels of test slices, which are training rows. For a
    distilled CNN it has those of all training rows, mixed with the labels.
    """
    train, held_out = fold_rows(inputs.slices, inputs.fold, k)
    if isinstance(config, DistilledCnn):
        index, share = inputs.slices.index[train], config.soft_share
        labels = inputs.slices[list(LABELS)].to_numpy(np.float64)[train]
        mixed = share * out_of_fold_labels(inputs.run, index) + (1 - share) * labels
        return with_soft_labels(inputs.slices, train, mixed, 1.0), (train, held_out)
    if not config.pseudo_from:
        return inputs.slices, (train, held_out)
    rows = pseudo_rows(inputs, config)
    probabilities = soft_labels(inputs.run, config, k, inputs.slices.index[rows])
    slices = with_soft_labels(inputs.slices, rows, probabilities, config.pseudo_weight)
    return slices, (np.concatenate([train, rows]), held_out)


def pseudo_rows(inputs: StageOneInputs, config: CnnConfig) -> Rows:
    """Return the row numbers of the readable test slices of patients who are not in train.

    Raises InputError where there are none, and ValueError where a patient is in train all the same.
    """
    is_test = (inputs.slices["split"] == "test").to_numpy()
    rows = np.flatnonzero(is_test & (inputs.fold < 0) & inputs.readable)
    if not len(rows):
        raise InputError(
            f"{config.name}: pseudo_from needs readable test slices of patients who are not in "
            "train, and this run has none; remove it from recipe.yaml"
        )
    patients = inputs.slices["patient_id"].to_numpy(object)
    if known := set(patients[rows]) & set(patients[~is_test]):
        raise ValueError(f"test patient {min(known)} is in train and has no fold; the folds leak")
    return rows


def soft_labels(run: Run, config: CnnConfig, k: int, index: pd.Index) -> NDArray[np.float64]:
    """Return the probabilities (m, 6) of the test slices `index` by fold `k`'s CNNs.

    They are the mean of the logits of `config.pseudo_from`, each the mean of its seeds.
    """
    logits = {}
    for cnn, names in run.recipe.stage1.soft_label_fits(config.name).items():
        paths = [run.dir.fold(name, k) / TEST_TABLE for name in names]
        fits = mean_of_seeds([read_predictions_of(path, index) for path in paths])
        logits[cnn] = fits.logits(CLIP)
    return np.asarray(expit(mean_logits(logits).astype(np.float64)))


def out_of_fold_labels(run: Run, index: pd.Index) -> NDArray[np.float64]:
    """Return the probabilities (n, 6) of training slices by the CNNs of the folds they are not in.

    They are the mean of the logits of the recipe's CNNs, each the mean of its seeds. Raises
    ValueError where a slice has none.
    """
    logits = {}
    for model in run.recipe.stage1.models:
        fits = [_out_of_fold(run, name, index) for name in seed_names(model.name, model.seeds)]
        logits[model.name] = mean_of_seeds(fits).logits(CLIP)
    if any(np.isnan(of_model).any() for of_model in logits.values()):
        raise ValueError("a training slice has no out-of-fold prediction")
    return np.asarray(expit(mean_logits(logits).astype(np.float64)))


def _out_of_fold(run: Run, name: str, index: pd.Index) -> StageOne:
    """Return the held-out predictions of all folds of one fit, (n, 6)."""
    tables = [read_table(run.dir.fold(name, k) / HELD_OUT_TABLE) for k in range(run.recipe.folds.k)]
    table = pd.concat(tables).reindex(index)
    return StageOne(table[list(LABELS)].to_numpy(), kind_of(tables[0]))
