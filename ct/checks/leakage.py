"""Leakage alarms: out-of-fold predictions that are too good for models of the other folds."""

import numpy as np
from numpy.typing import NDArray

from ct.labels import LABELS, WEIGHTS
from ct.metrics import auc, log_loss, weighted_log_loss

# Alarm of one fold: its loss is below this share of the median fold's loss, and below it by more
# than this number of standard errors.
SHARE_OF_MEDIAN, STANDARD_ERRORS = 0.5, 3.0
REPEATS = 500  # bootstrap samples of patients
# Alarm against test: entropy or loss on train is below this share of the entropy on test, and below
# it by more than STANDARD_ERRORS.
SHARE_OF_TEST = 0.6
# Alarm of all folds: the loss is below this share of the entropy of the base rates. The best
# solution of this competition reached a quarter.
SHARE_OF_PRIOR = 1 / 20
# Alarm of all folds: an AUC that no model reaches on new slices, in at least this many labels.
SHARP_AUC, SHARP_LABELS = 0.999, 3


def in_sample_alarm(y: NDArray, p: NDArray[np.floating]) -> str:
    """Return why the predictions of all folds appear in-sample, or "". Needs no test predictions.

    y, p: (n, 6) labels and probabilities, columns LABELS

    It alarms where the weighted log loss is under a twentieth of the entropy of the base rates
    (the loss of predicting each label's share of positives), or where the AUC is at least 0.999 in
    three labels.
    """
    loss = weighted_log_loss(y, p)
    entropy = weighted_log_loss(y, np.broadcast_to(np.mean(y, axis=0), np.shape(y)))
    if loss < SHARE_OF_PRIOR * entropy:
        return (
            f"the weighted log loss is {loss:.4f}, under a twentieth of the base rates' entropy, "
            f"{entropy:.4f}"
        )
    areas = {label: auc(y[:, j], p[:, j]) for j, label in enumerate(LABELS)}
    sharp = [label for label, area in areas.items() if area is not None and area >= SHARP_AUC]
    if len(sharp) >= SHARP_LABELS:
        return f"the AUC is {SHARP_AUC} or more in {len(sharp)} labels, {', '.join(sharp)}"
    return ""


def fold_alarm(
    y: NDArray,
    p: NDArray[np.floating],
    fold: NDArray,
    patients: NDArray,
    repeats: int = REPEATS,
    seed: int = 0,
) -> str:
    """Return why the predictions of one fold appear in-sample, or "".

    y, p: (n, 6) labels and probabilities, columns LABELS; fold: (n,) 0 ... K-1; patients: (n,)

    A fold alarms where its weighted log loss is under half the median fold's, and more than three
    standard errors of the difference below it. The standard error is from `repeats` bootstrap
    samples of whole patients within each fold.
    """
    loss, numbers = log_loss(y, p) @ WEIGHTS, np.unique(fold)
    losses = np.array([loss[fold == k].mean() for k in numbers])
    rng = np.random.default_rng(seed)
    resampled = np.column_stack(
        [_bootstrap_means(loss[fold == k], patients[fold == k], repeats, rng) for k in numbers]
    )
    median = np.median(losses)
    errors = np.std(np.median(resampled, axis=1)[:, None] - resampled, axis=0)
    for k, own, error in zip(numbers, losses, errors, strict=True):
        if own < SHARE_OF_MEDIAN * median and median - own > STANDARD_ERRORS * error:
            return (
                f"the weighted log loss of fold {k:.0f} is {own:.4f}, under half the median fold's "
                f"{median:.4f} and {(median - own) / error if error else np.inf:.1f} standard "
                "errors below it"
            )
    return ""


def entropy_alarm(
    y: NDArray,
    p: NDArray[np.floating],
    test_p: NDArray[np.floating],
    patients: NDArray,
    test_patients: NDArray,
    seed: int = 0,
) -> str:
    """Return why the train predictions appear in-sample compared with the test predictions, or "".

    y, p: (n, 6) labels and probabilities of the train slices; test_p: (m, 6) of the test slices,
    whose labels are unknown; patients: (n,); test_patients: (m,)

    An out-of-fold model is as uncertain on train slices as on test slices. It alarms where the
    mean entropy on train, or the log loss on train, is under 0.6 of the mean entropy on test, all
    weighted as the score is, and more than three standard errors of the difference below it. With
    one patient on either side there is no such error, and no alarm.
    """
    count, test_count = len(np.unique(patients)), len(np.unique(test_patients))
    if min(count, test_count) < 2:
        return ""
    rng = np.random.default_rng(seed)
    entropy = log_loss(test_p, test_p) @ WEIGHTS  # log loss against itself is entropy
    test, test_spread = entropy.mean(), _spread(entropy, test_patients, rng)
    for title, labels in (("mean entropy", p), ("weighted log loss", y)):
        loss = log_loss(labels, p) @ WEIGHTS
        # the larger spread of both: two patients who happen to be alike seem to have none
        spread, value = max(_spread(loss, patients, rng), test_spread), loss.mean()
        error = spread * np.sqrt(1 / count + 1 / test_count)
        if value < SHARE_OF_TEST * test and test - value > STANDARD_ERRORS * error:
            return (
                f"the {title} on train slices is {value:.4f}, under {SHARE_OF_TEST} of, and more "
                f"than {STANDARD_ERRORS:.0f} standard errors below, the mean entropy on test "
                f"slices, {test:.4f}"
            )
    return ""


def _spread(loss: NDArray[np.float64], patients: NDArray, rng: np.random.Generator) -> float:
    """Return the standard deviation between patients, of which there are at least two.

    By the square root of their number, it is the standard error of the mean of `loss` (n,).
    """
    count = len(np.unique(patients))
    means = _bootstrap_means(loss, patients, REPEATS, rng)
    return float(means.std() * count / np.sqrt(count - 1))


def _bootstrap_means(
    loss: NDArray[np.float64], patients: NDArray, repeats: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the mean of `loss` (n,) over patients drawn with replacement, (repeats,)."""
    _, code = np.unique(patients, return_inverse=True)
    sizes, sums = np.bincount(code), np.bincount(code, weights=loss)
    draws = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=repeats)
    return (draws @ sums) / (draws @ sizes)
