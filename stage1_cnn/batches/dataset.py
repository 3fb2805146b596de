"""Which slices a CNN trains on, in which order, and with which neighbours: row numbers only."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ct.errors import InputError
from ct.labels import LABELS
from ct.seeds import derive_seed
from ct.slices import SERIES
from stage1_cnn.config import CnnConfig

MIN_BATCH = 2  # slices of a training batch: batch norm cannot train on one
# column of a slice table for a training: the weight of each slice in the loss
LOSS_WEIGHT = "loss_weight"
POSITIVE = "positive"  # another: whether a slice is positive, where labels are soft


def neighbour_rows(slices: pd.DataFrame, reach: int) -> NDArray[np.int64]:
    """Return the row numbers of each slice and its `reach` neighbours on each side, by `place`.

    slices: (n rows) with SERIES, `place` and `readable`, in any order.

    Returns (n, 2 * reach + 1); the middle column is the slice itself. Neighbours are of the same
    series and split. Past either end the end slice is repeated. An unreadable neighbour is
    replaced by the slice itself, because a CNN cannot take NaN.
    """
    n = len(slices)
    series = slices.groupby(list(SERIES), sort=False, observed=True).ngroup().to_numpy()
    order = np.lexsort((slices["place"].to_numpy(), series))  # rows, series after series
    _, first, size = np.unique(series[order], return_index=True, return_counts=True)
    first, last = np.repeat(first, size), np.repeat(first + size - 1, size)
    positions = np.arange(n)[:, None] + np.arange(-reach, reach + 1)
    rows = np.empty((n, 2 * reach + 1), np.int64)
    rows[order] = order[np.clip(positions, first[:, None], last[:, None])]
    readable = slices["readable"].to_numpy(bool)
    return np.where(readable[rows], rows, np.arange(n)[:, None])


def neighbour_rows_by_mm(slices: pd.DataFrame, reach: int, spacing_mm: float) -> NDArray[np.int64]:
    """Return what `neighbour_rows` returns, with neighbours at multiples of `spacing_mm`.

    slices: as there, with position_mm. A neighbour is the slice of the series that is nearest to
    that distance, the outer one of two; the slice itself where no other is nearer.
    """
    rows = np.repeat(np.arange(len(slices))[:, None], 2 * reach + 1, axis=1)
    readable = slices["readable"].to_numpy(bool)
    position = slices["position_mm"].to_numpy(np.float64)
    for own in slices.groupby(list(SERIES), sort=False, observed=True).indices.values():
        for column, step in enumerate(range(-reach, reach + 1)):
            if step:
                targets = position[own] + step * spacing_mm
                distance = np.abs(position[own][None, :] - targets[:, None])
                outwards = np.sign(step) * position[own] * 1e-6  # decides between two
                rows[own, column] = own[np.argmin(distance - outwards, axis=1)]
    return np.where(readable[rows], rows, np.arange(len(slices))[:, None])


def fold_rows(
    slices: pd.DataFrame, fold: ArrayLike, k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row numbers (training, held out) of fold `k`, of the train split only.

    fold: (n,) of each slice. Training slices are readable, have all six labels and are in another
    fold. All slices of fold `k` are held out. Raises ValueError where a patient has slices in both.
    """
    in_train_split = (slices["split"] == "train").to_numpy()
    fold = np.asarray(fold)
    labelled = slices[list(LABELS)].notna().all(axis=1).to_numpy()
    readable = slices["readable"].to_numpy(bool)
    train = np.flatnonzero(in_train_split & (fold != k) & labelled & readable)
    held_out = np.flatnonzero(in_train_split & (fold == k))
    patients = slices["patient_id"].to_numpy(object)
    if leaked := set(patients[train]) & set(patients[held_out]):
        raise ValueError(
            f"patient {min(leaked)} is in fold {k} and among its training slices; the folds leak"
        )
    return train, held_out


def with_soft_labels(
    slices: pd.DataFrame,
    rows: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    weight: float,
) -> pd.DataFrame:
    """Return the slice table with probabilities as labels of some rows, LOSS_WEIGHT and POSITIVE.

    rows: row numbers (m,); probabilities: (m, 6); weight: of these rows, 1 for the others. A slice
    with labels is positive by these, whatever is mixed into them; another one above 0.5. Raises
    ValueError where a probability is not in [0, 1].
    """
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a soft label is not in [0, 1]")
    labels, weights = slices[list(LABELS)].to_numpy(np.float32, copy=True), np.ones(len(slices))
    positive, unlabelled = (labels > 0).any(axis=1), np.isnan(labels).any(axis=1)
    labels[rows], weights[rows] = probabilities, weight
    positive[unlabelled] = (labels[unlabelled] > 0.5).any(axis=1)
    columns = dict(zip(LABELS, labels.T, strict=True))
    return slices.assign(**columns, **{LOSS_WEIGHT: weights.astype(np.float32), POSITIVE: positive})


def positive_slices(slices: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which slices are positive in any label, (n,)."""
    if POSITIVE in slices:
        return slices[POSITIVE].to_numpy(bool)
    return np.asarray((slices[list(LABELS)].to_numpy() > 0).any(axis=1))


def training_targets(slices: pd.DataFrame) -> NDArray[np.float32]:
    """Return the labels of all slices, (n, 6); with LOSS_WEIGHT, last, (n, 7) where it is there."""
    weight = [LOSS_WEIGHT] if LOSS_WEIGHT in slices else []
    return slices[[*LABELS, *weight]].to_numpy(np.float32)


def check_enough_slices(train: NDArray[np.int64], config: CnnConfig, world_size: int) -> None:
    """Raise InputError where `train` has too few slices for one step on `world_size` processes."""
    if len(train) < MIN_BATCH * world_size:
        raise InputError(
            f"{config.name}: {len(train)} readable slices with labels to train on, "
            f"{MIN_BATCH * world_size} are needed; lower folds.k or add data"
        )


def epoch_steps(
    slices: pd.DataFrame,
    train: NDArray[np.int64],
    config: CnnConfig,
    seed: int,
    epoch: int,
    world_size: int,
) -> list[NDArray[np.int64]]:
    """Return the row numbers of each step of an epoch, for all processes together."""
    seed = derive_seed(seed, "order", epoch)
    if config.positive_share is None:
        rows = shuffled(train, seed)
    else:
        positive = positive_slices(slices)[train]
        studies = slices["study_id"].to_numpy(object)[train]
        rows = balanced(train, positive, studies, config.positive_share, seed)
    step_size = config.batch * config.accumulate * world_size
    return training_steps(rows, step_size, MIN_BATCH * world_size)


def batches(rows: NDArray[np.int64], batch: int) -> list[NDArray[np.int64]]:
    """Cut the row numbers `rows` (n,) into arrays of `batch`; the last one may be shorter."""
    return [rows[start : start + batch] for start in range(0, len(rows), batch)]


def training_steps(
    rows: NDArray[np.int64], size: int, min_size: int = MIN_BATCH
) -> list[NDArray[np.int64]]:
    """Cut an epoch's rows into steps of `size`; a last one shorter than `min_size` is left out."""
    steps = batches(rows, size)
    return steps[:-1] if steps and len(steps[-1]) < min_size else steps


def shuffled(rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the row numbers in random order."""
    return np.random.default_rng(seed).permutation(rows)


def balanced(
    rows: NDArray[np.int64],
    positive: NDArray[np.bool_],
    studies: NDArray[np.object_],
    share: float,
    seed: int,
) -> NDArray[np.int64]:
    """Draw len(rows) row numbers with replacement, `share` of them positive, in random order.

    rows: (n,); positive: bool (n,); studies: (n,) the study of each row.

    Each draw picks one of the studies with such slices, all with the same chance, then one of these
    slices: neither long studies nor studies with many positive slices dominate the epoch. Where all
    slices are of one kind, only that kind is drawn. The drawn share of positives is not the true
    one, so the learned probabilities are too high; calibration corrects that.
    """
    rng = np.random.default_rng(seed)
    if positive.all() or not positive.any():
        positives = len(rows) * int(positive.any())
    else:
        positives = round(share * len(rows))
    drawn = []
    for kind, count in ((positive, positives), (~positive, len(rows) - positives)):
        if count:
            drawn.append(_draw(rows[kind], studies[kind], count, rng))
    return rng.permutation(np.concatenate(drawn))


def _draw(
    rows: NDArray[np.int64], studies: NDArray[np.object_], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw `count` of `rows`, each time a study, then one of its rows."""
    _, code, size = np.unique(studies, return_inverse=True, return_counts=True)
    by_study, first = rows[np.argsort(code, kind="stable")], np.cumsum(size) - size
    study = rng.integers(len(size), size=count)
    return by_study[first[study] + (rng.random(count) * size[study]).astype(int)]
