"""Nested predictions: what fold k's decisions are made on.

Calibration, weights, rounds, and whether a component is kept are decided for fold k on the rows of
the other folds, each predicted by a model that saw neither its own fold j nor fold k. The model
without both serves j and k where both want the same settings: K (K - 1) / 2 of these, and K final
ones, each without its fold alone.
"""

import json
from typing import NamedTuple

import numpy as np

from ct.seeds import derive_seed
from ct.system.parallel_jobs import cores, run_threads
from stage2_stack.calibration import fit_platt
from stage2_stack.learners import LightGBM
from stage2_stack.tuning import inner_folds

EXPLAINED = 500  # held-out rows of a fold whose contributions are taken


class Part(NamedTuple):
    """One model: the rows that it is fitted on, int, rising, and {outer fold: rows that it predicts
    for it}.
    """

    fit: np.ndarray
    asked: dict


class Nest:
    """The outer folds of the rows, and for each of them the inner folds of all other rows."""

    def __init__(self, fold, known, patients, strata, k_folds, seed):
        """fold: (n,) 0 ... K-1; known: bool (n,), labelled; patients: (n,); strata: (n,) 0 or 1,
        dealt evenly where K is 2.
        """
        self.fold, self.known, self.k_folds = fold, known, k_folds
        self.inner = np.full((k_folds, len(fold)), -1)
        for k in range(k_folds):
            rows = np.flatnonzero(fold != k)
            self.inner[k, rows] = inner_folds(
                strata[rows], fold[rows], patients[rows], derive_seed(seed, "nest", k)
            )

    def parts(self, kinds):
        """Return the models whose predictions the decisions are made on, a list of Part.

        kinds: K hashable values, equal where two folds want the same settings; None: the fold wants
        no model
        """
        made = {}
        for k, kind in enumerate(kinds):
            inner = self.inner[k]
            for j in np.unique(inner[inner >= 0]) if kind is not None else ():
                key = (frozenset((j, k)), kind) if self.k_folds > 2 else (k, j)
                fit = np.flatnonzero(self.known & (self.fold != k) & (inner != j))
                made.setdefault(key, Part(fit, {})).asked[k] = np.flatnonzero(inner == j)
        return list(made.values())

    def last(self, k):
        """Return the final model of fold k, a Part: it is fitted on all other labelled rows."""
        return Part(
            np.flatnonzero(self.known & (self.fold != k)), {k: np.flatnonzero(self.fold == k)}
        )


class Opinion(NamedTuple):
    """What a component says of one label, in logits; NaN where it says nothing."""

    # (K, n): of the rows outside fold k, by models that saw neither the row's inner fold nor fold k
    nested: np.ndarray
    oof: np.ndarray  # (n,): of fold k's rows, by the model of all others
    test: np.ndarray  # (K, m)


def column_opinion(nest, x, test_x):
    """Return the Opinion of a feature that is a logit of the label by itself: x (n,), test_x (K,
    m).

    A chain's posterior is fitted on the other folds' labels once, so that for fold k a handful of
    its parameters have seen fold k's: DESIGN rule 7.
    """
    nested = np.where(nest.fold[None] != np.arange(nest.k_folds)[:, None], x, np.nan)
    return Opinion(
        nested.astype(np.float64), np.asarray(x, np.float64), np.asarray(test_x, np.float64)
    )


class View:
    """The rows as a model sees them: one label's, or those of c labels one below the other. It
    starts from their logits.
    """

    def __init__(self, bins, columns, raw, y, learner=None):
        """bins: boost.Bins of (c * n, f); columns: int, those it sees; raw: (c, n) logits; y: (c,
        n) 0, 1, NaN, or None; learner: learners.Learner, LightGBM if None
        """
        self.bins, self.columns, self.raw, self.y = bins, columns, raw, y
        self.learner = learner or LightGBM()

    def start(self, rows):
        """Return the c Platts of the logits, fitted on some rows."""
        return [fit_platt(raw[rows], y[rows]) for raw, y in zip(self.raw, self.y, strict=True)]

    def data(self, platts, rows):
        """Return what the learner makes of some labelled rows."""
        y, base = self.y[:, rows].ravel(), self.base(platts, rows).ravel()
        return self.learner.data(self.bins, self.columns, self._stacked(rows), y, base)

    def logits(self, models, platts, rows, rounds=None):
        """Return the logits (c, m) of some rows, mean over models, after `rounds` rounds (None:
        all).
        """
        values, base = self.bins.values(self.columns, self._stacked(rows)), self.base(platts, rows)
        added = [self.learner.added(model, values, self.bins.threads, rounds) for model in models]
        return base + np.mean(added, axis=0).reshape(base.shape)

    def contributions(self, models, rows):
        """Return by how much each column moves the logits of some rows, mean absolute: (c,
        columns), of the mean model; None where it can't be told.
        """
        values = self.bins.values(self.columns, self._stacked(rows))
        found = [self.learner.contributions(model, values, self.bins.threads) for model in models]
        if any(each is None for each in found):
            return None
        return np.abs(np.mean(found, axis=0)).reshape(len(self.raw), len(rows), -1).mean(axis=1)

    def base(self, platts, rows):
        """Return the logits (c, m) that a model of some rows starts from."""
        return np.stack(
            [platt.logit(raw[rows]) for platt, raw in zip(platts, self.raw, strict=True)]
        )

    def _stacked(self, rows):
        return (rows + self.raw.shape[1] * np.arange(len(self.raw))[:, None]).ravel()


class Fitted(NamedTuple):
    """What the models of a component leave."""

    opinions: list  # c Opinion
    models: dict  # k -> the file of one model a seed, as bytes, of the folds that wanted some
    rounds: dict  # k -> rounds
    gain: dict  # k -> (columns,) share of the gain; empty where it can't be told
    # k -> (c, columns) mean absolute contribution to the logits of held-out rows; likewise
    contributions: dict
    suffix: str  # of the files


def fit_nested(nest, views, test_views, settings, config, seed):
    """Fit models for the nested, the held-out and the test rows.

    views, test_views: K of View, one K times where folds see the same settings: K of {"params": the
    learner's, "rounds": None to decide on the nested rows, "max_rounds": the most of them, if not
    the config's, ...}, or None where fold k wants no model config: StackConfig; seed: of this
    component

    Models are fitted side by side, `config.threads` of the machine's cores to each, and are the
    same with any number at once; each holds a copy of its binned rows while it is fitted. Returns
    Fitted. What it says is said by the models as they will be read from their files.
    """
    sees = [
        next(i for i, view in enumerate(views) if view is views[k]) for k in range(nest.k_folds)
    ]
    kinds = [
        wanted and (json.dumps(wanted, sort_keys=True), sees[k])
        for k, wanted in enumerate(settings)
    ]
    learner = views[0].learner

    def fit(job):
        return _fit(nest, *job, views, config, seed)

    at_once = max(cores() // config.threads, 1) if learner.side_by_side else 1
    fitted = run_threads(fit, [(part, settings) for part in nest.parts(kinds)], at_once)
    rounds = _rounds(fitted, settings)
    last = run_threads(
        fit, [(nest.last(k), {k: {**settings[k], "rounds": rounds[k]}}) for k in rounds], at_once
    )
    c, n, m = *views[0].raw.shape, test_views[0].raw.shape[1]
    nested, oof, test = (
        np.full(shape, np.nan) for shape in ((nest.k_folds, c, n), (c, n), (nest.k_folds, c, m))
    )
    for part, platts, models, _ in fitted:
        for k, rows in part.asked.items():
            nested[k][:, rows] = views[k].logits(models, platts, rows, rounds[k])
    kept, gain, contributions = {}, {}, {}
    for k, (part, platts, models, _) in zip(rounds, last, strict=True):
        kept[k] = [learner.dump(model) for model in models]
        models = [learner.load(file) for file in kept[k]]
        oof[:, part.asked[k]] = views[k].logits(models, platts, part.asked[k])
        test[k] = test_views[k].logits(models, platts, np.arange(m))
        gains = [found for model in models if (found := learner.gain(model)) is not None]
        gain |= {k: np.mean(gains, axis=0)} if gains else {}
        swing = views[k].contributions(
            models, _some(part.asked[k], derive_seed(seed, "contributions", k))
        )
        contributions |= {} if swing is None else {k: swing}
    opinions = [Opinion(nested[:, i], oof[i], test[:, i]) for i in range(c)]
    return Fitted(opinions, kept, rounds, gain, contributions, learner.suffix)


def _some(rows, seed):
    """Draw EXPLAINED rows at most, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:EXPLAINED])


def _fit(nest, part, settings, views, config, seed):
    """Fit one model with each seed. Returns (part, platts, models, {k: curve on the rows asked for
    fold k}).
    """
    first = next(iter(part.asked))
    view, wanted = views[first], settings[first]
    platts = view.start(part.fit)
    data, valid = view.data(platts, part.fit), ()
    if wanted["rounds"] is None:
        valid = [view.data(platts, rows[nest.known[rows]]) for rows in part.asked.values()]
    longest = wanted["rounds"] or wanted.get("max_rounds", config.max_rounds)
    seeds = [derive_seed(seed, "booster", number) for number in range(config.seeds)]
    fits = [
        view.learner.fit(data, wanted["params"], longest, s, config.threads, valid) for s in seeds
    ]
    curves = np.mean([curves for _, curves in fits], axis=0)
    sizes = [nest.known[rows].sum() for rows in part.asked.values()]
    weighed = (
        {k: size * curve for k, size, curve in zip(part.asked, sizes, curves, strict=True)}
        if len(valid)
        else {}
    )
    return part, platts, [model for model, _ in fits], weighed


def _rounds(fitted, settings):
    """Return {k: rounds} of the folds that want models: as given, or where the loss on the nested
    rows is smallest.
    """
    found = {}
    for k, wanted in enumerate(settings):
        if wanted:
            curves = [curves[k] for *_, curves in fitted if k in curves]
            found[k] = wanted["rounds"] or int(np.argmin(np.sum(curves, axis=0))) + 1
    return found
