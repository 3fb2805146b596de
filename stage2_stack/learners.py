"""What fits the models of a component: LightGBM here, the optional ones in modules of their own,
all with one interface.
"""

from typing import Protocol

import lightgbm as lgb

from stage2_stack.boost import boosted_logit, fit_booster, gain_share


class Learner(Protocol):
    """Fits models that start from given logits and add to them round by round: a round is a tree,
    or an epoch.
    """

    suffix: str  # of the files that models are kept in, none of them a pickle
    side_by_side: bool  # fits in several threads of one process leave each other alone

    def data(self, bins, columns, rows, y, base):
        """Return what `fit` learns from, or is judged on.

        bins: boost.Bins; columns: int (c,); rows: int (m,), rising; y: (m,) labels of 0 and 1;
        base: (m,) starting logits
        """

    def fit(self, data, params, rounds, seed, threads, valid=()):
        """Fit `rounds` rounds. Returns (model, curves): the log loss on each of v `valid` after
        each round, (v, rounds).

        The first rounds of a longer fit with the same seed are those of a shorter one.
        """

    def added(self, model, values, threads, rounds=None):
        """Return what `rounds` rounds (None: all) add to the starting logits of rows with these
        values (m, c): (m,).
        """

    def gain(self, model):
        """Return each column's share of what the model gained, (c,), summing to 1; None where it
        can't be told.
        """

    def contributions(self, model, values, threads):
        """Return by how much each column moves the logits of rows with these values (m, c): SHAP,
        (m, c); None where it can't be told. They add up to what `added` says, less the same for all
        rows.
        """

    def dump(self, model):
        """Return the model as the bytes of a file, the same each time."""

    def load(self, kept):
        """Return the model of such bytes."""


class LightGBM:
    """Learner: LightGBM, on bins that are made once."""

    suffix, side_by_side = ".txt", True

    def data(self, bins, columns, rows, y, base):
        """Return LightGBM's Dataset."""
        return bins.rows(columns, rows, y, base)

    def fit(self, data, params, rounds, seed, threads, valid=()):
        """Boost `rounds` rounds."""
        return fit_booster(data, params, rounds, seed, threads, valid)

    def added(self, model, values, threads, rounds=None):
        """Return the raw scores of the trees."""
        return boosted_logit(model, values, 0.0, threads, rounds)

    def gain(self, model):
        """Return the shares of the total gain."""
        return gain_share(model)

    def contributions(self, model, values, threads):
        """Return LightGBM's own contributions."""
        return model.predict(values, pred_contrib=True, num_threads=threads)[:, :-1]

    def dump(self, model):
        """Return LightGBM's text."""
        return model.model_to_string().encode()

    def load(self, kept):
        """Read LightGBM's text."""
        return lgb.Booster(model_str=kept.decode())


def learner_of(component):
    """Return the Learner of a component; the optional packages are imported only here."""
    if component == "xgboost":
        from stage2_stack.xgboost_trees import XGBoost

        return XGBoost()
    if component == "catboost":
        from stage2_stack.catboost_trees import CatBoost

        return CatBoost()
    return LightGBM()
