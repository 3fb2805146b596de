"""The history of a search: its trials, and the importances of the settings."""

import numpy as np
import optuna
import pytest
from optuna.trial import create_trial

from stage2_stack.tuning.booster_trials import run_trials
from stage2_stack.tuning.optuna_history import (
    COLUMNS,
    MIN_COMPLETED,
    importances,
    mean_importances,
    trial_rows,
)
from stage2_stack.tuning.search_space import FIRST, SPACE

optuna.logging.set_verbosity(optuna.logging.WARNING)


class LeavesDecide:
    """Folds whose loss depends on num_leaves, and a little on the learning rate."""

    def evaluate(self, params, report=None):
        loss = np.log(params["num_leaves"]) + 0.05 * np.log(params["learning_rate"])
        for step in (1, 2):
            report(step, loss - step)
        return loss, 7


@pytest.fixture(scope="module")
def study():
    searched = optuna.create_study()
    run_trials(searched, LeavesDecide(), 40, seed=3)
    return searched


def test_the_rows_are_the_trials(study):
    rows, trials = trial_rows(study, 15), study.get_trials()[:15]
    assert [row["trial"] for row in rows] == list(range(15)) and {*rows[0]} | {"label", "fold"} == {
        *COLUMNS
    }
    assert {name: rows[0][name] for name in FIRST} == FIRST
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    for row, trial in zip(rows, trials, strict=True):
        last = max(trial.intermediate_values)
        assert row["loss"] == trial.intermediate_values[last] and row["inner_folds"] == last
        assert (row["state"] == "pruned") == (last == 1)
        assert {name: row[name] for name in SPACE} == trial.params


def test_settings_that_the_loss_depends_on_are_important(study):
    shares, why = importances(study, 40, seed=0)
    assert list(shares) == list(SPACE) and why == "" and sum(shares.values()) == pytest.approx(1)
    assert shares["num_leaves"] > 0.5 and shares["num_leaves"] > 3 * max(
        v for name, v in shares.items() if name != "num_leaves"
    )
    assert shares == importances(study, 40, seed=0)[0]


def test_few_trials_and_equal_ones_have_no_importances(study):
    shares, why = importances(study, 5, seed=0)
    assert shares == {} and why.endswith(f"completed trials, fewer than {MIN_COMPLETED}")
    flat = optuna.create_study()
    for leaves in range(3, 3 + MIN_COMPLETED):
        flat.add_trial(
            create_trial(params={**FIRST, "num_leaves": leaves}, distributions=SPACE, value=0.1)
        )
    assert importances(flat, 40, seed=0) == ({}, "the same loss in all trials")


def test_the_mean_is_over_the_folds_that_have_some():
    one = dict.fromkeys(SPACE, 0.0) | {"num_leaves": 0.75, "scope": 0.25}
    two = dict.fromkeys(SPACE, 0.0) | {"num_leaves": 0.25, "scope": 0.75}
    shares = mean_importances({0: (one, ""), 1: ({}, "too few"), 2: (two, "")})
    assert shares["folds"] == 2 and shares["why"] == {1: "too few"}
    assert (shares["importances"]["num_leaves"], shares["importances"]["scope"]) == (0.5, 0.5)
    assert mean_importances({0: ({}, "none")}) == {
        "importances": {},
        "folds": 0,
        "why": {0: "none"},
    }
