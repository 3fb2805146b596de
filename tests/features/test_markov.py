"""Markov chains: posteriors against the enumeration of all paths; fits use other patients only."""

import itertools

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from tiny_tables import random_table, slice_table

from ct.labels import LABELS
from features.markov import (
    MIN_GAP_MM,
    MarkovChain,
    held_out_posterior_logits,
    posterior_logits,
)
from features.markov_fitting import _calibration, cross_fit_chains, fit_chains

NAN = np.nan
PLAIN = MarkovChain(
    slope=1.0, intercept=0.0, prior=-2.0, temperature=1.0, first=0.05, share=0.15, rate=0.04
)


def enumerate_paths(position, log_ratios, chain):
    """Posterior logits of one series: the sum over all 2^n paths of 0 and 1."""
    total = np.zeros((len(position), 2))
    gaps = np.maximum(np.diff(position), MIN_GAP_MM)
    for path in itertools.product((0, 1), repeat=len(position)):
        weight = chain.first if path[0] else 1 - chain.first
        for gap, before, after in zip(gaps, path, path[1:], strict=False):
            redrawn = 1 - np.exp(-chain.rate * gap)
            stationary = chain.share if after else 1 - chain.share
            weight *= redrawn * stationary + (1 - redrawn) * (before == after)
        weight *= np.exp(sum(log_ratios[i] for i, state in enumerate(path) if state))
        for i, state in enumerate(path):
            total[i, state] += weight
    return np.log(total[:, 1] / total[:, 0])


@pytest.mark.parametrize("seed", range(3))
def test_the_posterior_is_that_of_all_paths(seed):
    """Includes gaps, half steps, shared positions, one-slice series and slices without a logit."""
    rng = np.random.default_rng(seed)
    table = random_table(rng)
    logits = rng.normal(-2, 3, (len(table), 2)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.2] = NAN
    chains = [PLAIN, MarkovChain(0.7, -0.3, -3.0, 0.6, 0.01, 0.3, 0.2)]
    posterior = posterior_logits(table, logits, chains)
    assert posterior.shape == logits.shape and posterior.dtype == np.float32
    for study in table["study_id"].unique():
        own = (table["study_id"] == study).to_numpy()
        for j, chain in enumerate(chains):
            x = chain.slope * logits[own, j].astype(np.float64) + chain.intercept - chain.prior
            log_ratios = np.where(np.isnan(x), 0, x)
            position = table["position_mm"].to_numpy()[own]
            expected = []
            for i in range(len(x)):  # the slice's own log ratio in full, the others' scaled
                exponents = np.where(np.arange(len(x)) == i, 1.0, chain.temperature)
                expected.append(enumerate_paths(position, exponents * log_ratios, chain)[i])
            np.testing.assert_allclose(posterior[own, j], expected, rtol=1e-5, atol=1e-5)


def test_the_posterior_of_a_single_slice_is_bayes_rule():
    table = slice_table(("train", "a", [7.0]), ("train", "b", [3.0]))
    posterior = posterior_logits(table, np.float32([[1.0], [NAN]]), [PLAIN])
    np.testing.assert_allclose(posterior[:, 0], [logit(0.05) + 1.0 - -2.0, logit(0.05)], rtol=1e-6)


def test_the_influence_of_a_neighbour_falls_with_distance():
    # the outer two have a likelihood ratio of 1: their logits are the prior
    logits = np.float32([[-2], [6], [-2]])
    near, far, endless = (
        posterior_logits(slice_table(("train", "a", [0, gap, 2 * gap])), logits, [PLAIN])[2, 0]
        for gap in (5.0, 20.0, 5000.0)
    )
    assert near > far > endless and endless == pytest.approx(logit(PLAIN.share), abs=1e-4)


def test_series_do_not_influence_each_other():
    table = slice_table(("train", "a", [0, 5]), ("train", "b", [0, 5]), ("test", "b", [0, 5]))
    one = np.float32([[-2], [-2], [-2], [-2], [-2], [-2]])
    two = one.copy()
    two[2:4] = 9
    before, after = posterior_logits(table, one, [PLAIN]), posterior_logits(table, two, [PLAIN])
    assert (before != after)[:, 0].tolist() == [False, False, True, True, False, False]


def test_extreme_logits_have_finite_posteriors():
    table = slice_table(("train", "a", 5.0 * np.arange(300)))
    for value in (-1e4, 1e4):
        posterior = posterior_logits(table, np.full((300, 1), value, np.float32), [PLAIN])
        assert np.isfinite(posterior).all() and (np.sign(posterior) == np.sign(value)).all()


def simulate(rng, series=300, slices=30, share=0.2, rate=0.03, alike=False):
    """Series of labels that follow a chain, and noisy logits of them; alike: one error a series."""
    table = slice_table(
        *[
            ("train", f"{n:04d}", np.cumsum(rng.choice([2.5, 5.0, 10.0], slices)))
            for n in range(series)
        ]
    )
    gap = table["gap_below_mm"].to_numpy()
    y = np.zeros(len(table))
    for i in range(len(table)):
        redrawn = np.isnan(gap[i]) or rng.random() > np.exp(-rate * gap[i])
        y[i] = rng.random() < share if redrawn else y[i - 1]
    noise = np.repeat(rng.normal(size=series), slices) if alike else rng.normal(size=len(y))
    # log likelihood ratio 2 (x - 0)
    return table, y, (logit(share) + 2 * (2 * (y - 0.5) + noise)).astype(np.float32)


def test_the_fit_recovers_rate_and_share():
    table, y, x = simulate(np.random.default_rng(0))
    (chain,) = fit_chains(table, x[:, None], y[:, None])
    assert chain.share == pytest.approx(0.2, rel=0.15)
    assert chain.rate == pytest.approx(0.03, rel=0.15)
    assert chain.first == pytest.approx((y[::30].sum() + 1) / 302)
    assert expit(chain.prior) == pytest.approx(y.mean(), abs=1e-3)
    known = LogisticRegression(C=1e6).fit(x[:, None], y)
    assert chain.slope == pytest.approx(known.coef_[0, 0], rel=0.02)
    assert chain.intercept == pytest.approx(known.intercept_[0], abs=0.02)
    assert chain.temperature >= 0.9  # the errors are independent


def test_correlated_errors_lower_the_temperature():
    table, y, x = simulate(np.random.default_rng(1), alike=True)
    (chain,) = fit_chains(table, x[:, None], y[:, None])
    assert chain.temperature <= 0.2


def test_at_temperature_0_the_posterior_is_the_calibrated_logit():
    table = slice_table(("train", "a", [0, 5, 10]))
    x = np.float32([[-1], [4], [NAN]])
    chain = PLAIN._replace(temperature=0.0, first=PLAIN.share)
    posterior = posterior_logits(table, x, [chain])[:, 0]
    np.testing.assert_allclose(posterior, logit(PLAIN.share) + np.float32([1, 6, 0]), rtol=1e-5)


def test_the_posterior_beats_the_slice_alone_on_held_out_patients():
    table, y, x = simulate(np.random.default_rng(2))
    fold, six = np.repeat(np.arange(300) % 3, 30), np.repeat(y[:, None], 6, axis=1)
    columns, chains = cross_fit_chains(table, np.repeat(x[:, None], 6, axis=1), six, fold, 3)
    assert columns.shape == (len(y), 6) and len(chains) == 4 and list(chains[0]) == list(LABELS)
    assert log_loss(y, expit(columns[:, 0])) < 0.8 * log_loss(y, expit(x))


def test_on_disk_the_temperature_is_called_temper():
    """The key in chain.json of runs of all versions."""
    values = PLAIN.to_json()
    assert list(values) == ["slope", "intercept", "prior", "temper", "first", "share", "rate"]
    assert MarkovChain.from_json(values) == PLAIN


def test_one_wild_logit_does_not_flatten_the_fit():
    rng = np.random.default_rng(0)
    labels = (rng.random(20_000) < 0.1).astype(float)
    x = (rng.normal(-4, 2, 20_000) + 6 * labels).astype(np.float32)
    without = _calibration(x, labels, logit(0.1))
    for wild in (-3000, 3000):
        x[0], labels[0] = wild, float(wild > 0)
        assert np.allclose(_calibration(x, labels, logit(0.1)), without, rtol=0.01)


@pytest.mark.parametrize("k", range(3))
def test_labels_of_a_fold_never_reach_its_rows(k):
    rng = np.random.default_rng(3)
    table, y, x = simulate(rng, series=60, slices=10)
    fold, logits = (
        np.repeat(np.arange(60) % 3, 10),
        rng.normal(x[:, None], 0.5, (600, 6)).astype(np.float32),
    )
    six = np.repeat(y[:, None], 6, axis=1)
    before, chains = cross_fit_chains(table, logits, six, fold, 3)
    after, others = cross_fit_chains(
        table, logits, np.where(fold[:, None] == k, 1 - six, six), fold, 3
    )
    np.testing.assert_array_equal(before[fold == k], after[fold == k])
    assert (before[fold != k] != after[fold != k]).mean() > 0.9  # the test would detect a leak
    assert chains[k] == others[k] and chains[3] != others[3]


def test_unlabelled_rows_do_not_change_the_fit_but_have_a_posterior():
    table, y, x = simulate(np.random.default_rng(4), series=60, slices=10)
    unlabelled = np.repeat(np.arange(60) % 4 == 0, 10)
    (with_unlabelled,) = fit_chains(table, x[:, None], np.where(unlabelled, NAN, y)[:, None])
    (without,) = fit_chains(table[~unlabelled], x[~unlabelled, None], y[~unlabelled, None])
    assert with_unlabelled == pytest.approx(without)
    assert np.isfinite(posterior_logits(table, x[:, None], [with_unlabelled])).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_label_of_one_class_gives_its_prior(value):
    table = slice_table(*[("train", n, 5.0 * np.arange(8)) for n in range(20)])
    x = np.random.default_rng(5).normal(size=(160, 1)).astype(np.float32)
    (chain,) = fit_chains(table, x, np.full((160, 1), value))
    assert chain.slope == 0
    posterior = posterior_logits(table, x, [chain])
    assert np.isfinite(posterior).all() and (np.sign(posterior) == (1 if value else -1)).all()


def test_no_rows_and_no_labels():
    table = slice_table(("train", "a", [0, 5]))
    assert posterior_logits(table.iloc[:0], np.zeros((0, 1), np.float32), [PLAIN]).shape == (0, 1)
    (chain,) = fit_chains(table, np.zeros((2, 1), np.float32), np.full((2, 1), NAN))
    assert np.isfinite(chain).all()


def test_patients_of_train_get_the_chain_without_their_fold():
    rng = np.random.default_rng(3)
    table = random_table(rng)
    logits = rng.normal(-2, 2, (len(table), 2)).astype(np.float32)
    # the last list: all folds
    chains = [
        [PLAIN._replace(slope=1 + k + c / 10, temperature=0.3) for c in range(2)] for k in range(3)
    ]
    fold = table.groupby("patient_id", sort=True).ngroup().to_numpy() % 3 - 1
    assert set(fold) == {-1, 0, 1}
    columns = held_out_posterior_logits(table, logits, fold, chains)
    for k in (-1, 0, 1):
        rows = fold == k
        np.testing.assert_allclose(
            columns[rows], posterior_logits(table[rows], logits[rows], chains[k]), rtol=1e-5
        )
    np.testing.assert_array_equal(
        columns[fold == -1], posterior_logits(table, logits, chains[-1])[fold == -1]
    )
