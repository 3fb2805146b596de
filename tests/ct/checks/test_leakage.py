"""Alarms on in-sample predictions: a model fitted on all rows alarms, out-of-fold models do not."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from ct.checks.leakage import entropy_alarm, fold_alarm, in_sample_alarm
from ct.labels import LABELS
from ct.metrics import weighted_log_loss

FOLDS, PATIENTS, SLICES, NOISE = 5, 60, 12, 20


def studies(seed, patients=PATIENTS):
    """Labels (n, 6) in runs, patients (n,), folds (n,) and inputs of a model (n, 6 + NOISE)."""
    rng = np.random.default_rng(seed)
    y = np.zeros((patients, SLICES, len(LABELS)))
    for p in range(patients):
        for j in range(1, len(LABELS)):
            if rng.random() < 0.25:
                start = rng.integers(0, SLICES - 3)
                y[p, start : start + rng.integers(2, 6), j] = 1
    y[:, :, 0] = y[:, :, 1:].max(axis=2)
    patient_effect = rng.normal(0, 0.7, (patients, 1, len(LABELS)))  # a whole study can be hard
    signal = 1.5 * y + patient_effect + rng.normal(0, 1, y.shape)
    X = np.concatenate([signal, rng.normal(0, 1, (patients, SLICES, NOISE))], axis=2).reshape(
        patients * SLICES, -1
    )
    patient = np.repeat(np.arange(patients), SLICES)
    return (
        y.reshape(-1, len(LABELS)).astype(int),
        patient,
        rng.permutation(patients)[patient] % FOLDS,
        X,
    )


def fit(X, y):
    return RandomForestClassifier(30, max_features=0.3, random_state=0, n_jobs=1).fit(X, y)


def probabilities(model, X):
    return np.column_stack([p[:, 1] for p in model.predict_proba(X)])


def simulated(seed, model):
    """Probabilities like a CNN's: labels with noise, some patients harder, roughly calibrated."""
    y, patients, fold, X = studies(seed)
    sharp = np.random.default_rng(model).uniform(0.7, 2.5)
    return y, 1 / (1 + np.exp(-sharp * (2.2 * X[:, : len(LABELS)] - 3))), fold, patients


@pytest.mark.parametrize("seed", range(20))
def test_out_of_fold_predictions_do_not_alarm(seed):
    y, p, fold, patients = simulated(seed, model=seed)
    _, test_p, _, test_patients = simulated(seed + 500, model=seed)
    assert fold_alarm(y, p, fold, patients) == ""
    assert entropy_alarm(y, p, test_p, patients, test_patients) == ""


@pytest.fixture(scope="module")
def fitted():
    """Labels, folds, patients; out-of-fold and in-sample probabilities; both on test slices."""
    y, patients, fold, X = studies(0)
    out_of_fold, per_fold, X_test = np.empty(y.shape), [], studies(99)[3]
    for k in range(FOLDS):
        model = fit(X[fold != k], y[fold != k])
        out_of_fold[fold == k] = probabilities(model, X[fold == k])
        per_fold.append(probabilities(model, X_test))
    full_model = fit(X, y)
    return (
        y,
        fold,
        patients,
        out_of_fold,
        probabilities(full_model, X),
        np.concatenate(per_fold),
        probabilities(full_model, X_test),
    )


def test_in_sample_predictions_alarm_against_their_test_predictions(fitted):
    y, _, patients, out_of_fold, in_sample, per_fold, test_p = fitted
    in_folds = np.tile(patients, FOLDS)  # as many test patients
    assert entropy_alarm(y, out_of_fold, per_fold, patients, in_folds) == ""
    line = entropy_alarm(y, in_sample, test_p, patients, patients)
    loss, test = weighted_log_loss(y, in_sample), weighted_log_loss(test_p, test_p)
    assert f"weighted log loss on train slices is {loss:.4f}" in line
    assert line.endswith(f"on test slices, {test:.4f}")
    sharp = in_sample.round()  # as after memorising
    sharp_line = entropy_alarm(y, sharp, test_p, patients, patients)
    assert sharp_line.startswith("the mean entropy on train slices is 0.0000")
    for few in (2, 4):  # test patients
        rows = patients < few
        assert entropy_alarm(y, in_sample, test_p[rows], patients, patients[rows]) != ""


def test_one_in_sample_fold_alarms_with_its_number(fitted):
    y, fold, patients, out_of_fold, in_sample, *_ = fitted
    assert fold_alarm(y, out_of_fold, fold, patients) == ""
    mixed = np.where((fold == 3)[:, None], in_sample, out_of_fold)
    line = fold_alarm(y, mixed, fold, patients)
    losses = [weighted_log_loss(y[fold == k], mixed[fold == k]) for k in range(FOLDS)]
    assert line.startswith(f"the weighted log loss of fold 3 is {losses[3]:.4f}")
    assert f"{np.median(losses):.4f}" in line


def test_a_loss_below_the_entropy_on_test_alarms():
    """Equal entropy, but every prediction right: only the loss alarms."""
    y = np.tile([[1, 0, 1, 0, 1, 0]], (50, 1))
    p = np.where(y == 1, 0.8, 0.2)
    test_p = np.full((50, 6), 0.8)
    patients = np.arange(50)
    line = entropy_alarm(y, p, test_p, patients, patients)
    assert line.startswith("the weighted log loss on train slices is 0.2231")
    assert entropy_alarm(1 - y, p, test_p, patients, patients) == ""
    assert entropy_alarm(y, p, test_p, patients, np.zeros(50)) == ""  # one test patient
    assert entropy_alarm(y, p, test_p, np.zeros(50), patients) == ""
    assert entropy_alarm(y, p, test_p[:0], patients, patients[:0]) == ""


@pytest.mark.parametrize("test_count", [1, 2, 3, 5, 20])
def test_honest_predictions_rarely_alarm_with_few_test_patients(test_count):
    """Calibrated posteriors of a shifted signal; two fifths of the patients bleed."""
    rng, draws, train, alarms = np.random.default_rng(test_count), 200, 100, 0
    patients = np.repeat(np.arange(train + test_count), SLICES)
    for seed in range(draws):
        bleeds = rng.random((train + test_count, 1, 1)) < 0.4
        prior = np.where(bleeds, 0.3, 0.01) * np.ones((1, SLICES, len(LABELS)))
        prior = prior.reshape(-1, len(LABELS))
        y = (rng.random(prior.shape) < prior).astype(int)
        logit = np.log(prior / (1 - prior)) + 3 * (3 * (y - 0.5) + rng.normal(0, 1, y.shape))
        p, of_train = 1 / (1 + np.exp(-logit)), patients < train
        alarms += bool(
            entropy_alarm(
                y[of_train],
                p[of_train],
                p[~of_train],
                patients[of_train],
                patients[~of_train],
                seed,
            )
        )
    assert alarms / draws <= 0.01


def constant(y, q):
    """The probability of the true label is `q` everywhere."""
    return np.where(y == 1, q, 1 - q)


def test_a_loss_under_a_twentieth_of_the_base_rates_entropy_alarms():
    """A quarter of the slices is positive.

    The entropy is -(.25 ln .25 + .75 ln .75) = 0.56234, a twentieth of it 0.028117.
    """
    y = np.tile([[1], [0], [0], [0]], (10, len(LABELS)))
    bar = np.exp(-0.56233514 / 20)
    above, below = constant(y, bar - 1e-5), constant(y, bar + 1e-5)
    assert (
        in_sample_alarm(y, below)
        == "the weighted log loss is 0.0281, under a twentieth of the base rates' entropy, 0.5623"
    )
    assert "log loss" not in in_sample_alarm(y, above)


def test_an_auc_of_999_in_three_labels_alarms():
    """40 positives, 50 negatives: an AUC of .999 is two wrong pairs of the 2,000."""
    y = np.repeat([[1]] * 40 + [[0]] * 50, len(LABELS), axis=1)
    p = np.linspace(0.6, 0.4, 90)[:, None].repeat(len(LABELS), axis=1)

    def with_wrong_pairs(*counts):
        """For each label, the lowest positive lies below `count` negatives."""
        mixed = p.copy()
        for j, count in enumerate(counts):
            mixed[39, j] = p[39 + count, j] - 1e-6 if count else p[39, j]
        return mixed

    assert in_sample_alarm(y, with_wrong_pairs(3, 3, 3, 3, 3, 3)) == ""
    # two labels: .999 and .9995
    assert in_sample_alarm(y, with_wrong_pairs(3, 2, 3, 1, 3, 3)) == ""
    line = in_sample_alarm(y, with_wrong_pairs(3, 2, 3, 1, 0, 3))
    assert line == "the AUC is 0.999 or more in 3 labels, epidural, intraventricular, subarachnoid"
    y[:, 1:] = 0  # without positives there is no AUC
    assert in_sample_alarm(y, p) == ""


@pytest.mark.parametrize("seed", range(5))
def test_out_of_fold_predictions_are_not_in_sample(seed):
    y, p, _, _ = simulated(seed, model=seed)
    assert in_sample_alarm(y, p) == ""


def test_a_forest_fitted_on_all_slices_is_in_sample(fitted):
    y, _, _, out_of_fold, in_sample, *_ = fitted
    assert in_sample_alarm(y, out_of_fold) == "" and in_sample_alarm(y, in_sample) != ""
