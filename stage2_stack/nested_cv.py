"""Nested cross-validation: the predictions on which fold k's decisions are made.

Fold k's calibration, blend weights, numbers of rounds and choice of components are decided on the
rows of the other folds. Each of these rows is predicted by a model that is fitted without the row's
own fold j and without fold k. One model without both serves j and k where both have the same
settings. Then there are K (K - 1) / 2 nested models, and K final ones, each without its own fold.
"""

import warnings
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ct.errors import number_of
from ct.seeds import derive_seed

INSTEAD = "calibrated mean of the CNNs instead"


class NestedSplit(NamedTuple):
    """The rows of one model, all int and rising."""

    fit: NDArray[np.int_]  # rows that it is fitted on
    predict: dict[int, NDArray[np.int_]]  # outer fold -> rows that it predicts for that fold


class NestedFolds:
    """The outer folds of the rows, and for each of them the inner folds of all other rows."""

    def __init__(
        self,
        fold: NDArray[Any],
        labelled: NDArray[np.bool_],
        patients: NDArray[Any],
        strata: NDArray[Any],
        k_folds: int,
        seed: int,
        clipped: bool = True,
    ) -> None:
        """fold, labelled, patients, strata: (n,).

        fold: 0 ... K-1; strata: 0 or 1, spread evenly over the inner folds where K is 2; clipped:
        whether the rows' logits may lie on a floor, as in `fit_platt`
        """
        self.fold, self.labelled, self.k_folds = fold, labelled, k_folds
        self.clipped, self.patients = clipped, patients
        self.inner = np.full((k_folds, len(fold)), -1)  # -1: a row of the outer fold itself
        for k in range(k_folds):
            rows, own_seed = np.flatnonzero(fold != k), derive_seed(seed, "nest", k)
            self.inner[k, rows] = inner_folds(
                strata[rows], fold[rows], patients[rows], own_seed, labelled[rows]
            )

    def inner_splits(self, settings: Sequence[Hashable | None]) -> list[NestedSplit]:
        """Return the splits of the nested models.

        settings: K values, equal where two folds fit with the same settings; None: no model
        """
        splits: dict[Hashable, NestedSplit] = {}
        for k, setting in enumerate(settings):
            if setting is None:
                continue
            inner = self.inner[k]
            for j in np.unique(inner[inner >= 0]):
                key = (frozenset((j, k)), setting) if self.k_folds > 2 else (k, j)
                fit = np.flatnonzero(self.labelled & (self.fold != k) & (inner != j))
                split = splits.setdefault(key, NestedSplit(fit, {}))
                split.predict[k] = np.flatnonzero(inner == j)
        return list(splits.values())

    def outer_split(self, k: int) -> NestedSplit:
        """Return the split of fold k's final model: fitted on all other labelled rows."""
        fit = np.flatnonzero(self.labelled & (self.fold != k))
        return NestedSplit(fit, {k: np.flatnonzero(self.fold == k)})


class NestedPredictions(NamedTuple):
    """Logits of one label on the training slices; NaN where there is no prediction."""

    nested: NDArray[np.float64]  # (K, n) rows outside fold k, by models without their fold and k
    oof: NDArray[np.float64]  # (n,) rows of fold k, by the model without fold k


class FittedComponent(NamedTuple):
    """The result of a component for one label; the dictionaries hold the folds with models."""

    predictions: NestedPredictions
    files: dict[int, list[bytes]] = {}  # k -> one model a seed, as it is stored
    rounds: dict[int, int] = {}  # k -> rounds of boosting, or epochs
    # k -> (columns,) each column's share of the gain; no entry where it is unknown
    gain: dict[int, NDArray[np.float64]] = {}
    # k -> (columns,) mean absolute SHAP values on held-out rows, logits; no entry without trees
    contributions: dict[int, NDArray[np.float64]] = {}


def feature_predictions(folds: NestedFolds, logits: NDArray[Any]) -> NestedPredictions:
    """Return the predictions of a feature (n,) that is itself a logit of the label.

    A Markov chain's posterior is not nested: a row of fold j has a chain that is fitted once, on
    all other folds. For fold k, a few parameters were therefore fitted with fold k's labels.
    """
    nested = np.where(folds.fold[None] != np.arange(folds.k_folds)[:, None], logits, np.nan)
    return NestedPredictions(nested.astype(np.float64), np.asarray(logits, np.float64))


def inner_folds(
    y: NDArray[Any],
    fold: NDArray[Any],
    patients: NDArray[Any],
    seed: int,
    labelled: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Return the inner fold (n,) of each row of an outer training set: its outer fold.

    Where only one outer fold is left (K = 2), patients are split into three inner folds, or into
    two where there are only two patients. labelled: (n,), None where all are; each inner fold then
    has a labelled row, where there are two patients with one. Of one patient all rows have 0.
    """
    if len(set(fold)) > 1:
        return fold
    from sklearn.model_selection import StratifiedGroupKFold  # slow to import, and rarely needed

    known = np.flatnonzero(np.ones(len(y), bool) if labelled is None else labelled)
    inner, groups = np.zeros(len(y), dtype=np.int8), len(set(patients[known]))
    if groups < 2:
        return inner
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fewer positives than folds: fine here
        splitter = StratifiedGroupKFold(min(3, groups), shuffle=True, random_state=seed)
        for j, (_, held_out) in enumerate(splitter.split(y[known], y[known], patients[known])):
            inner[np.isin(patients, patients[known[held_out]])] = j
    return inner


def why_not_stacked(
    y: NDArray[Any], patients: NDArray[Any], needed: int, calibrate_by: str = "slice"
) -> str:
    """Return why a label cannot be stacked on these rows, or "" where it can.

    y: (n,) 0 and 1; patients: (n,); needed: patients with positives, and with negatives;
    calibrate_by: as in StackConfig
    """
    positive, negative = (len(set(patients[y == value])) for value in (1, 0))
    if not positive:
        instead = {"slice": "their smoothed prior", "patient": "the mean of the CNNs as it is"}
        return f"no positives in the training folds; {instead[calibrate_by]} instead"
    few = min(positive, negative)
    if few >= needed:
        return ""
    which = "positives" if positive <= negative else "negatives"
    return (
        f"{which} in {number_of(few, 'patient')} of the training folds, "
        f"fewer than {needed}; {INSTEAD}"
    )
