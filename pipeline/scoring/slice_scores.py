"""Apply CNNs and stackers to the slices of new studies."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.special import expit

from ct.averaging import StageOne, combine_folds, held_out_mean, mean_of_seeds
from ct.checks.series_choice import Spacing, is_outside
from ct.checks.series_table import training_spacing
from ct.errors import InputError
from ct.labels import LABELS
from ct.run_dir import ALL_DATA, seed_names
from ct.slices import SERIES
from features.build import build_features
from features.cnn_weights import without_left_out
from features.linear_probe import held_out_probe_logits
from features.markov import held_out_posterior_logits
from features.neighbours import STEP_PLACES
from pipeline.progress import Bar
from pipeline.scoring.scoring_model import ScoringModel
from stage1_cnn.batches.dataset import neighbour_rows, neighbour_rows_by_mm
from stage1_cnn.config import CnnConfig
from stage1_cnn.inference import predict
from stage1_cnn.model import load_model

COLUMNS = list(LABELS)
Arrays = dict[str, NDArray[np.floating]]  # CNN -> one row a slice


def score_slices(
    model: ScoringModel,
    slices: pd.DataFrame,
    read_hu: Callable[..., NDArray[np.int16]],
    device: torch.device,
    bar: Callable[..., Bar],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return two tables indexed like `slices`, with place columns and LABELS (float64).

    The first holds the final probabilities, the second the mean of the CNNs, with the weights that
    stage two starts from: NaN where a slice is not readable.

    slices: slice table with pixel columns, `fold`, `part` and `competition`, whether a slice is of
    the competition by its identifiers; read_hu(rows, out=None): HU of its
    rows, as PixelCache.read; bar: as pipeline.progress.progress_bar

    Raises InputError where this version builds other features than the model was trained on.
    """
    columns = slices[["study_id", "series_id", "place", "position_mm", "readable"]]
    if slices.empty:
        empty = columns.assign(**dict.fromkeys(COLUMNS, np.empty(0)))
        return empty, empty
    starts = np.flatnonzero(slices["place"] == 0)
    fold, weights = slices["fold"].to_numpy(), model.cnn_weights()
    final, stage_one = [], []
    for k, (logits, embeddings) in enumerate(predict_per_fold(model, slices, read_hu, device, bar)):
        mean = held_out_mean(logits, fold, weights)
        stage_one.append(expit(mean))
        logits = without_left_out(logits, fold, weights)
        X, names = _features(model, slices, k, (logits, mean), embeddings)
        if names != model.stage2["names"]:
            raise InputError(
                "this version builds other features than the model was trained on; "
                "export the model again from its run"
            )
        final.append(model.stacker(k).predict(X, names, starts))
    tables = []
    for per_fold in (final, stage_one):
        combined = combine_folds(np.stack(per_fold), fold)
        tables.append(columns.join(pd.DataFrame(combined, index=slices.index, columns=COLUMNS)))
    return tables[0], tables[1]


def predict_per_fold(
    model: ScoringModel,
    slices: pd.DataFrame,
    read_hu: Callable[..., NDArray[np.int16]],
    device: torch.device,
    bar: Callable[..., Bar],
) -> list[tuple[Arrays, Arrays]]:
    """Return for each fold ({CNN: logits (n, 6)}, {CNN: embeddings (n, d)}).

    Where the recipe has CNNs of all data, slices of new patients have theirs in every fold, and no
    fold but their own has predictions of training patients. Where the model is `fast`, the
    distilled CNN's logits are those of every CNN in the same way. NaN where a slice is not
    readable. Arguments as in `score_slices`.
    """
    stage1, k_folds = model.recipe.stage1, model.recipe.folds.k
    per_fold: list[tuple[Arrays, Arrays]] = [({}, {}) for _ in range(k_folds)]
    readable, fold = slices["readable"].to_numpy(bool), slices["fold"].to_numpy()
    new = readable & (fold < 0)
    rows = functools.cache(lambda reach: _neighbours(model, slices, reach))
    passes = 1 if model.fast else len(stage1.fits()) * (1 if stage1.all_data else k_folds)
    with bar(int(readable.sum()) * passes, "CNNs", "slice") as shown:

        def outputs(config: CnnConfig, k: int, predicted: NDArray[np.bool_]) -> Outputs:
            given = CnnInput(rows(config.neighbours), read_hu, device, shown.update)
            return _outputs(model, config, k, given, predicted)

        of_new = None
        if model.fast and stage1.distilled:
            of_new = outputs(stage1.distilled, ALL_DATA, new)
        for config in stage1.models:
            if stage1.all_data and not model.fast:
                of_new = outputs(config, ALL_DATA, new)
            for k, (logits, embeddings) in enumerate(per_fold):
                if of_new is None:
                    own = outputs(config, k, readable)
                elif (of_fold := readable & (fold == k)).any():
                    own = outputs(config, k, of_fold)
                    own = own._replace(logits=np.where(of_fold[:, None], own.logits, of_new.logits))
                else:
                    own = of_new
                logits[config.name], embeddings[config.name] = own
    return per_fold


class CnnInput(NamedTuple):
    """What a CNN reads of n slices, and how it runs; as in stage1_cnn.inference.predict."""

    table_rows: NDArray[np.int64]
    read_hu: Callable[..., NDArray[np.int16]]
    device: torch.device
    progress: Callable[[int], object]


class Outputs(NamedTuple):
    """What a CNN leaves of n slices; NaN where it did not predict."""

    logits: NDArray[np.floating]  # (n, 6)
    embeddings: NDArray[np.floating]  # (n, d)


def _outputs(
    model: ScoringModel, config: CnnConfig, k: int, given: CnnInput, predicted: NDArray[np.bool_]
) -> Outputs:
    """Return the Outputs of a CNN of fold `k`, or of ALL_DATA: the mean logits of its seeds.

    The embeddings are those of the first seed. predicted: (n,) of which slices
    """
    rows, read_hu, device, progress = given
    fits = []
    for name in seed_names(config.name, config.seeds):
        cnn = load_model(config, load_file(model.weights[name, k]))
        fits.append(predict(cnn, rows, predicted, read_hu, config, progress, device))
    mean = mean_of_seeds([StageOne(outputs, config.outputs) for outputs, _ in fits])
    return Outputs(mean.logits(model.recipe.features.clip), fits[0][1])


def _neighbours(model: ScoringModel, slices: pd.DataFrame, reach: int) -> NDArray[np.int64]:
    """Return the rows of each slice and its neighbours, (n, 2 * reach + 1).

    In series whose spacing is outside the training range they are found by millimetres.
    """
    rows, training = neighbour_rows(slices, reach), training_spacing(model.stage2["training"])
    other = _other_steps(slices, training).notna().to_numpy()
    if reach and other.any():
        rows[other] = neighbour_rows_by_mm(slices, reach, training.typical)[other]
    return rows


def _other_steps(slices: pd.DataFrame, training: Spacing) -> pd.Series:
    """Return the distance of the slices, mm, of series outside the training range; others NaN."""
    step = slices["gap_below_mm"].where(slices["gap_below_mm"] > 0)
    step = step.groupby([slices[name] for name in SERIES], observed=True).transform("median")
    return step.where(is_outside(step, training) & ~slices["competition"].astype(bool))


def _with_steps(model: ScoringModel, slices: pd.DataFrame) -> pd.DataFrame:
    """Return the slice table with `step_places` (features/neighbours.py), where a series needs it.

    A step of stage two's neighbours is the training distance, as for the CNNs.
    """
    training = training_spacing(model.stage2["training"])
    steps = _other_steps(slices, training)
    if steps.isna().all():
        return slices
    return slices.assign(**{STEP_PLACES: (training.typical / steps).fillna(1.0)})


def _features(
    model: ScoringModel,
    slices: pd.DataFrame,
    k: int,
    weighted: tuple[Arrays, NDArray[np.float32]],
    embeddings: Arrays,
) -> tuple[NDArray[np.float32], list[str]]:
    """Return the features (n, f) and their names, from the CNNs of fold k.

    weighted: their logits, NaN where a CNN has no weight, and the weighted mean (n, 6)
    """
    config, fold = model.recipe.features, slices["fold"].to_numpy()
    logits, mean = weighted
    fitted: dict[str, Any] = {"cnn_mean": mean}
    if config.chain:
        fitted["markov_logits"] = held_out_posterior_logits(slices, mean, fold, model.chains())
    if config.probe:
        # the probes of fold k were fitted on its patients alone
        part = np.where(fold == k, slices["part"].to_numpy(), -1)
        fitted["probe_logits"] = {
            name: held_out_probe_logits(*model.probe(name, k), own, part)
            for name, own in embeddings.items()
        }
    return build_features(_with_steps(model, slices), logits, config, **fitted)
