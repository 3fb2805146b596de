"""The competition's score and its company: weighted log loss, AUC, reliability, and bootstrap
intervals over patients.
"""

import numpy as np
from sklearn.metrics import roc_auc_score

from ct.labels import LABELS, WEIGHTS

KAGGLE_CLIP = 1e-15


def log_loss(y, p, clip=KAGGLE_CLIP):
    """Log loss of each element: y and p of one shape, y 0 or 1, p in [0, 1]. Raises ValueError
    where either has a NaN.
    """
    y, p = np.asarray(y, np.float64), np.asarray(p, np.float64)
    if y.shape != p.shape:
        raise ValueError(f"labels have the shape {y.shape}, probabilities {p.shape}")
    if np.isnan(y).any() or np.isnan(p).any():
        raise ValueError(
            f"{np.isnan(y).sum()} labels and {np.isnan(p).sum()} probabilities are NaN; a score needs them all"
        )
    if p.size and (p.min() < 0 or p.max() > 1):
        raise ValueError(f"probabilities run from {p.min()} to {p.max()}, outside [0, 1]")
    p = np.clip(p, clip, 1 - clip)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def weighted_log_loss(y, p):
    """Return the competition's score of labels y (n, 6) and probabilities p (n, 6), columns LABELS:
    `any` counts double.
    """
    return float(log_loss(y, p).mean(axis=0) @ WEIGHTS)


def auc(y, p):
    """Return the area under the ROC curve of y (n,) and p (n,), or None where y has only one class:
    it is undefined then.

    Raises ValueError where either has a NaN.
    """
    y = np.asarray(y)
    if np.isnan(y).any() or np.isnan(p).any():
        raise ValueError(
            f"{np.isnan(y).sum()} labels and {np.isnan(p).sum()} probabilities are NaN; an AUC needs all of them"
        )
    return float(roc_auc_score(y, p)) if 0 < y.sum() < len(y) else None


def reliability(y, p, bins=10):
    """Return (mean probability, share of positives, count) of `bins` groups of equal size along p,
    without empty ones.
    """
    order = np.argsort(p, kind="stable")
    groups = [g for g in np.array_split(order, bins) if len(g)]
    return tuple(
        np.array([f(g) for g in groups])
        for f in (lambda g: p[g].mean(), lambda g: y[g].mean(), len)
    )


def patient_bootstrap(values, patients, repeats=1000, seed=0, level=0.95):
    """Interval of the mean of `values` over slices when whole patients are drawn with replacement,
    95 % unless `level` says.

    values:   (n,) or (n, m), such as the difference of two losses
    patients: (n,) the patient of each row

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


def score_table(y, p, patients, seed=0):
    """Return {"weighted": {"loss", "low", "high"}, label: {likewise, "auc", "positives"}, ...} of y
    and p, both (n, 6).

    patients: (n,); low and high are the ends of the loss's 95 % interval over them
    """
    losses = log_loss(y, p)
    losses = np.column_stack([losses @ WEIGHTS, losses])
    low, high = patient_bootstrap(losses, patients, seed=seed)
    names = ("weighted", *LABELS)
    table = {
        n: {"loss": float(losses[:, j].mean()), "low": float(low[j]), "high": float(high[j])}
        for j, n in enumerate(names)
    }
    for j, label in enumerate(LABELS):
        table[label] |= {"auc": auc(y[:, j], p[:, j]), "positives": int(y[:, j].sum())}
    return table


def gain_table(y, before, after, patients, seed=0):
    """Return the gain of `after` over `before` (positive is better) per label and weighted, each
    with its 95 % interval.

    y, before, after: (n, 6). Returns {"weighted": {"gain", "low", "high"}, label: likewise, ...}.
    """
    gain = log_loss(y, before) - log_loss(y, after)
    gain = np.column_stack([gain @ WEIGHTS, gain])
    low, high = patient_bootstrap(gain, patients, seed=seed)
    names = ("weighted", *LABELS)
    return {
        n: {"gain": float(gain[:, j].mean()), "low": float(low[j]), "high": float(high[j])}
        for j, n in enumerate(names)
    }
