"""The chain against the enumeration of all paths; fitted on other patients' labels alone; what gaps
and silence mean to it.
"""

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
from features.markov_fitting import cross_fit_chains, fit_chains

NAN = np.nan
PLAIN = MarkovChain(
    slope=1.0, intercept=0.0, prior=-2.0, temperature=1.0, first=0.05, share=0.15, rate=0.04
)


def enumerate_paths(position, evidence, chain):
    """Posterior logits of one series: the sum over all 2^n paths of 0 and 1."""
    total = np.zeros((len(position), 2))
    gaps = np.maximum(np.diff(position), MIN_GAP_MM)
    for path in itertools.product((0, 1), repeat=len(position)):
        weight = chain.first if path[0] else 1 - chain.first
        for gap, before, after in zip(gaps, path, path[1:], strict=False):
            drawn_anew = 1 - np.exp(-chain.rate * gap)
            weight *= drawn_anew * (chain.share if after else 1 - chain.share) + (
                1 - drawn_anew
            ) * (before == after)
        weight *= np.exp(sum(evidence[i] for i, state in enumerate(path) if state))
        for i, state in enumerate(path):
            total[i, state] += weight
    return np.log(total[:, 1] / total[:, 0])


@pytest.mark.parametrize("seed", range(3))
def test_the_posterior_is_that_of_all_paths(seed):
    """Gaps, half steps, slices at one place, one-slice series and slices without an opinion
    included.
    """
    rng = np.random.default_rng(seed)
    table = random_table(rng)
    logits = rng.normal(-2, 3, (len(table), 2)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.2] = NAN
    chains = [PLAIN, MarkovChain(0.7, -0.3, -3.0, 0.6, 0.01, 0.3, 0.2)]
    found = posterior_logits(table, logits, chains)
    assert found.shape == logits.shape and found.dtype == np.float32
    for study in table["study_id"].unique():
        own = (table["study_id"] == study).to_numpy()
        for j, chain in enumerate(chains):
            x = chain.slope * logits[own, j].astype(np.float64) + chain.intercept - chain.prior
            evidence, position = np.where(np.isnan(x), 0, x), table["position_mm"].to_numpy()[own]
            heard = [  # of each slice: its own opinion in full, the others' tempered
                np.where(np.arange(len(x)) == i, 1.0, chain.temperature) * evidence
                for i in range(len(x))
            ]
            expected = [enumerate_paths(position, told, chain)[i] for i, told in enumerate(heard)]
            np.testing.assert_allclose(found[own, j], expected, rtol=1e-5, atol=1e-5)


def test_a_slice_alone_is_bayes_rule():
    table = slice_table(("train", "a", [7.0]), ("train", "b", [3.0]))
    found = posterior_logits(table, np.float32([[1.0], [NAN]]), [PLAIN])
    np.testing.assert_allclose(found[:, 0], [logit(0.05) + 1.0 - -2.0, logit(0.05)], rtol=1e-6)


def test_a_neighbour_counts_the_less_the_further_it_is():
    loud = np.float32([[-2], [6], [-2]])  # the outer two say nothing: a logit at the prior
    near, far, endless = (
        posterior_logits(slice_table(("train", "a", [0, gap, 2 * gap])), loud, [PLAIN])[2, 0]
        for gap in (5.0, 20.0, 5000.0)
    )
    assert near > far > endless and endless == pytest.approx(logit(PLAIN.share), abs=1e-4)


def test_series_do_not_hear_each_other():
    table = slice_table(("train", "a", [0, 5]), ("train", "b", [0, 5]), ("test", "b", [0, 5]))
    one = np.float32([[-2], [-2], [-2], [-2], [-2], [-2]])
    two = one.copy()
    two[2:4] = 9
    before, after = posterior_logits(table, one, [PLAIN]), posterior_logits(table, two, [PLAIN])
    assert (before != after)[:, 0].tolist() == [False, False, True, True, False, False]


def test_extreme_opinions_stay_finite():
    table = slice_table(("train", "a", 5.0 * np.arange(300)))
    for value in (-1e4, 1e4):
        found = posterior_logits(table, np.full((300, 1), value, np.float32), [PLAIN])
        assert np.isfinite(found).all() and (np.sign(found) == np.sign(value)).all()


def simulate(rng, series=300, slices=30, share=0.2, rate=0.03, alike=False):
    """Series of labels that follow a chain, and logits of them with noise of their own (alike: one
    error a series).
    """
    table = slice_table(
        *[
            ("train", f"{n:04d}", np.cumsum(rng.choice([2.5, 5.0, 10.0], slices)))
            for n in range(series)
        ]
    )
    gap = table["gap_below_mm"].to_numpy()
    y = np.zeros(len(table))
    for i in range(len(table)):
        anew = np.isnan(gap[i]) or rng.random() > np.exp(-rate * gap[i])
        y[i] = rng.random() < share if anew else y[i - 1]
    noise = np.repeat(rng.normal(size=series), slices) if alike else rng.normal(size=len(y))
    # log likelihood ratio 2 (x - 0)
    return table, y, (logit(share) + 2 * (2 * (y - 0.5) + noise)).astype(np.float32)


def test_rates_and_shares_are_found():
    table, y, x = simulate(np.random.default_rng(0))
    (chain,) = fit_chains(table, x[:, None], y[:, None])
    assert chain.share == pytest.approx(0.2, rel=0.15) and chain.rate == pytest.approx(
        0.03, rel=0.15
    )
    assert chain.first == pytest.approx((y[::30].sum() + 1) / 302) and expit(
        chain.prior
    ) == pytest.approx(y.mean(), abs=1e-3)
    known = LogisticRegression(C=1e6).fit(x[:, None], y)
    assert chain.slope == pytest.approx(known.coef_[0, 0], rel=0.02)
    assert chain.intercept == pytest.approx(known.intercept_[0], abs=0.02)
    assert chain.temperature >= 0.9  # independent errors count in full


def test_errors_that_are_alike_are_tempered():
    table, y, x = simulate(np.random.default_rng(1), alike=True)
    (chain,) = fit_chains(table, x[:, None], y[:, None])
    assert chain.temperature <= 0.2


def test_with_a_temper_of_0_it_is_the_calibrated_opinion():
    table = slice_table(("train", "a", [0, 5, 10]))
    x = np.float32([[-1], [4], [NAN]])
    found = posterior_logits(table, x, [PLAIN._replace(temperature=0.0, first=PLAIN.share)])[:, 0]
    np.testing.assert_allclose(found, logit(PLAIN.share) + np.float32([1, 6, 0]), rtol=1e-5)


def test_it_beats_the_slice_alone_on_patients_it_never_saw():
    table, y, x = simulate(np.random.default_rng(2))
    fold, six = np.repeat(np.arange(300) % 3, 30), np.repeat(y[:, None], 6, axis=1)
    columns, chains = cross_fit_chains(table, np.repeat(x[:, None], 6, axis=1), six, fold, 3)
    assert columns.shape == (len(y), 6) and len(chains) == 4 and list(chains[0]) == list(LABELS)
    assert log_loss(y, expit(columns[:, 0])) < 0.8 * log_loss(y, expit(x))


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
    assert (before[fold != k] != after[fold != k]).mean() > 0.9  # the test would see a leak
    assert chains[k] == others[k] and chains[3] != others[3]


def test_unlabelled_rows_teach_nothing_but_have_a_posterior():
    table, y, x = simulate(np.random.default_rng(4), series=60, slices=10)
    lost = np.repeat(np.arange(60) % 4 == 0, 10)
    (with_them,) = fit_chains(table, x[:, None], np.where(lost, NAN, y)[:, None])
    (without,) = fit_chains(table[~lost], x[~lost, None], y[~lost, None])
    assert with_them == pytest.approx(without)
    assert np.isfinite(posterior_logits(table, x[:, None], [with_them])).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_label_of_one_class_gives_its_prior(value):
    table = slice_table(*[("train", n, 5.0 * np.arange(8)) for n in range(20)])
    x = np.random.default_rng(5).normal(size=(160, 1)).astype(np.float32)
    (chain,) = fit_chains(table, x, np.full((160, 1), value))
    assert chain.slope == 0
    found = posterior_logits(table, x, [chain])
    assert np.isfinite(found).all() and (np.sign(found) == (1 if value else -1)).all()


def test_no_rows_and_no_labels():
    table = slice_table(("train", "a", [0, 5]))
    assert posterior_logits(table.iloc[:0], np.zeros((0, 1), np.float32), [PLAIN]).shape == (0, 1)
    (chain,) = fit_chains(table, np.zeros((2, 1), np.float32), np.full((2, 1), NAN))
    assert np.isfinite(chain).all()


def test_a_known_patients_chain_is_that_without_the_patients_fold():
    rng = np.random.default_rng(3)
    table = random_table(rng)
    logits = rng.normal(-2, 2, (len(table), 2)).astype(np.float32)
    # the last: of all
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
