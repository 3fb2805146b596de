"""Metrics: weighted log loss (the competition's score), AUC, reliability, patient bootstrap."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_auc_score

from ct.labels import LABELS, WEIGHTS

KAGGLE_CLIP = 1e-15
FEWEST_PATIENTS = 2  # of an interval: draws of one patient are all alike


def log_loss(y: ArrayLike, p: ArrayLike, clip: float = KAGGLE_CLIP) -> NDArray[np.float64]:
    """Return the log loss of each element, of the shape of y and p.

    y: 0 or 1; p: probabilities in [0, 1], clipped to [clip, 1 - clip]

    Raises ValueError for a NaN, for different shapes, and for a probability outside [0, 1].
    """
    labels, probs = np.asarray(y, np.float64), np.asarray(p, np.float64)
    if labels.shape != probs.shape:
        raise ValueError(f"labels have the shape {labels.shape}, probabilities {probs.shape}")
    if np.isnan(labels).any() or np.isnan(probs).any():
        raise ValueError(
            f"{np.isnan(labels).sum()} labels and {np.isnan(probs).sum()} probabilities are NaN; "
            "a score needs all of them"
        )
    if probs.size and (probs.min() < 0 or probs.max() > 1):
        raise ValueError(f"probabilities run from {probs.min()} to {probs.max()}, outside [0, 1]")
    probs = np.clip(probs, clip, 1 - clip)
    return -(labels * np.log(probs) + (1 - labels) * np.log1p(-probs))


def weighted_log_loss(y: ArrayLike, p: ArrayLike) -> float:
    """Return the competition's score: the mean log loss with WEIGHTS, where `any` counts double.

    y, p: (n, 6), columns LABELS
    """
    return float(log_loss(y, p).mean(axis=0) @ WEIGHTS)


def auc(y: ArrayLike, p: ArrayLike) -> float | None:
    """Return the area under the ROC curve; None where y has one class only.

    y, p: (n,). Raises ValueError for a NaN.
    """
    labels, probs = np.asarray(y), np.asarray(p)
    if np.isnan(labels).any() or np.isnan(probs).any():
        raise ValueError(
            f"{np.isnan(labels).sum()} labels and {np.isnan(probs).sum()} probabilities are NaN; "
            "an AUC needs all of them"
        )
    return float(roc_auc_score(labels, probs)) if 0 < labels.sum() < len(labels) else None


def reliability(
    y: NDArray[Any], p: NDArray[np.floating], bins: int = 10
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return (mean probability, share of positives, count) of each bin, for a reliability diagram.

    y, p: (n,). The bins hold equal numbers of rows, in the order of p; empty ones are left out.
    """
    order = np.argsort(p, kind="stable")
    groups = [rows for rows in np.array_split(order, bins) if len(rows)]
    return (
        np.array([p[rows].mean() for rows in groups]),
        np.array([y[rows].mean() for rows in groups]),
        np.array([len(rows) for rows in groups]),
    )


def patient_bootstrap(
    values: ArrayLike,
    patients: ArrayLike,
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Any, Any]:
    """Return the bootstrap interval of the mean of `values`, drawing whole patients.

    values:   (n,) or (n, m), such as the difference of two losses
    patients: (n,) the patient of each row
    level:    coverage of the interval

    Returns (low, high), each a float or (m,).
    """
    values = np.asarray(values, np.float64)
    _, code = np.unique(patients, return_inverse=True)
    sizes = np.bincount(code).astype(np.float64)
    sums = np.zeros((len(sizes), *values.shape[1:]))
    np.add.at(sums, code, values)
    draws = np.random.default_rng(seed).multinomial(
        len(sizes), np.full(len(sizes), 1 / len(sizes)), size=repeats
    )
    means = (draws @ sums) / (draws @ sizes).reshape(-1, *([1] * (values.ndim - 1)))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return (float(low), float(high)) if values.ndim == 1 else (low, high)


def mean_intervals(
    values: NDArray[np.float64], name: str, patients: ArrayLike, seed: int
) -> dict[str, dict[str, Any]]:
    """Return {"weighted" or label: {`name`: mean, "low", "high"}} of values (n, 6).

    low, high: the 95 % interval over patients (n,); None with fewer than FEWEST_PATIENTS
    """
    columns = np.column_stack([values @ WEIGHTS, values])
    means = {key: float(columns[:, j].mean()) for j, key in enumerate(("weighted", *LABELS))}
    if len(np.unique(patients)) < FEWEST_PATIENTS:
        return {key: {name: value, "low": None, "high": None} for key, value in means.items()}
    low, high = patient_bootstrap(columns, patients, seed=seed)
    return {
        key: {name: value, "low": float(low[j]), "high": float(high[j])}
        for j, (key, value) in enumerate(means.items())
    }


def score_table(
    y: NDArray[Any], p: NDArray[Any], patients: ArrayLike, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return the scores of probabilities, weighted and per label.

    y, p: (n, 6); patients: (n,)

    Returns {"weighted": {"loss", "low", "high"}, label: {the same, "auc", "positives"}, ...}. low
    and high are the 95 % interval of the loss over patients, None of one patient.
    """
    table = mean_intervals(log_loss(y, p), "loss", patients, seed)
    for j, label in enumerate(LABELS):
        table[label] |= {"auc": auc(y[:, j], p[:, j]), "positives": int(y[:, j].sum())}
    return table


def gain_table(
    y: ArrayLike, before: ArrayLike, after: ArrayLike, patients: ArrayLike, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return the gain in log loss of `after` over `before`, weighted and per label.

    y, before, after: (n, 6); patients: (n,)

    Returns {"weighted": {"gain", "low", "high"}, label: the same, ...}; a positive gain is better.
    low and high are the 95 % interval over patients, None of one patient.
    """
    return mean_intervals(log_loss(y, before) - log_loss(y, after), "gain", patients, seed)
