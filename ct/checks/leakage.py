"""Alarms for predictions that are said to be out of fold and look as if their models had seen the
labels.
"""

import numpy as np

from ct.labels import LABELS, WEIGHTS
from ct.metrics import auc, log_loss, weighted_log_loss

# a fold's loss: below that share of the median fold's, and that many errors away from it
SHARE_OF_MEDIAN, ERRORS = 0.5, 3.0
SHARE_OF_TEST = 0.6  # train's entropy or loss, of the entropy on test slices

# the loss, of the base rates' entropy: the best of this competition came to a quarter of it
SHARE_OF_PRIOR = 1 / 20
SHARP_AUC, SHARP_LABELS = 0.999, 3  # in so many labels nobody is as good on slices that are new


def in_sample_alarm(y, p):
    """Return why the predictions look as if all slices had been trained on, in every fold, or "".

    y, p: (n, 6), columns LABELS

    It alarms where the weighted log loss is under a twentieth of the base rates' entropy, the loss
    of each label's share of positives, or the AUC is .999 or more in three labels. It needs no test
    predictions.
    """
    loss, entropy = (
        weighted_log_loss(y, p),
        weighted_log_loss(y, np.broadcast_to(np.mean(y, axis=0), np.shape(y))),
    )
    if loss < SHARE_OF_PRIOR * entropy:
        return f"the weighted log loss is {loss:.4f}, under a twentieth of the base rates' entropy, {entropy:.4f}"
    areas = {label: auc(y[:, j], p[:, j]) for j, label in enumerate(LABELS)}
    sharp = [label for label, area in areas.items() if area is not None and area >= SHARP_AUC]
    if len(sharp) >= SHARP_LABELS:
        return f"the AUC is {SHARP_AUC} or more in {len(sharp)} labels, {', '.join(sharp)}"
    return ""


def fold_alarm(y, p, fold, patients, repeats=500, seed=0):
    """Return why one fold looks as if its patients had been trained on, or "".

    y, p: (n, 6), columns LABELS; fold: (n,) 0 ... K-1; patients: (n,)

    A fold alarms where its weighted log loss is under half the median fold's, and further from it
    than three standard errors of the difference, by drawing whole patients within each fold.
    """
    loss, numbers = log_loss(y, p) @ WEIGHTS, np.unique(fold)
    losses = np.array([loss[fold == k].mean() for k in numbers])
    rng = np.random.default_rng(seed)
    drawn = np.column_stack(
        [_drawn(loss[fold == k], patients[fold == k], repeats, rng) for k in numbers]
    )
    median = np.median(losses)
    error = np.std(np.median(drawn, axis=1)[:, None] - drawn, axis=0)
    for k, own, off in zip(numbers, losses, error, strict=True):
        if own < SHARE_OF_MEDIAN * median and median - own > ERRORS * off:
            return (
                f"the weighted log loss of fold {k:.0f} is {own:.4f}, under half the median fold's {median:.4f} "
                f"and {(median - own) / off if off else np.inf:.1f} standard errors below it"
            )
    return ""


def entropy_alarm(y, p, test_p):
    """Return why the train slices look as if they had been trained on, measured by the test slices,
    or "".

    y, p: (n, 6) of the train slices; test_p: (m, 6) of the test slices, whose labels nobody knows

    An honest model is as unsure of held-out train slices as of test slices. It alarms where the
    mean entropy on the train slices, or the loss, is under 0.6 of the mean entropy on the test
    slices, all weighted as the score is.
    """
    test = weighted_log_loss(test_p, test_p)  # log loss against itself is entropy
    for what, value in (
        ("mean entropy", weighted_log_loss(p, p)),
        ("weighted log loss", weighted_log_loss(y, p)),
    ):
        if value < SHARE_OF_TEST * test:
            share = f"under {SHARE_OF_TEST} of the mean entropy on test slices"
            return f"the {what} on train slices is {value:.4f}, {share}, {test:.4f}"
    return ""


def _drawn(loss, patients, repeats, rng):
    """Return the mean of `loss` (n,) over patients drawn with replacement, (repeats,)."""
    _, code = np.unique(patients, return_inverse=True)
    sizes, sums = np.bincount(code), np.bincount(code, weights=loss)
    draws = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=repeats)
    return (draws @ sums) / (draws @ sizes)
