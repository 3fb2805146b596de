"""Fit the models of a component: nested ones for decisions, one final model per outer fold."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ct.seeds import derive_seed
from ct.system.parallel_jobs import cores, run_threads
from stage2_stack.calibration import Platt
from stage2_stack.config import StackConfig
from stage2_stack.learners.learner import Floats, Ints, Learner
from stage2_stack.learners.model_input import ModelInput
from stage2_stack.nested_cv import FittedComponent, NestedFolds, NestedPredictions, NestedSplit

EXPLAINED = 500  # held-out rows of a fold whose contributions are computed, at most


class FitSettings(NamedTuple):
    """How the models of one outer fold are fitted."""

    params: Mapping[str, Any]  # the learner's
    rounds: int | None = None  # None: the number with the smallest loss on the nested rows
    max_rounds: int | None = None  # the most that are tried in this case; None: the config's
    scope: str = ""  # of the features, as in features.columns.SCOPES
    factor: float = 1.0  # rounds that are fitted, in units of those above

    def key(self) -> str:
        """Return text that is equal for equal settings."""
        return json.dumps(self._asdict(), sort_keys=True)


class SideBySide(NamedTuple):
    """How many fits run at the same time, which changes no result."""

    cores: int | None = None  # that they use together; None: all of the machine
    fit_done: Callable[[], object] = lambda: None  # is called after each fit

    def at_once(self, learner: Learner, threads: int) -> int:
        """Return the number of fits at the same time. threads: of one fit"""
        return max((self.cores or cores()) // threads, 1) if learner.thread_safe else 1


ALL_CORES = SideBySide()


class SplitFit(NamedTuple):
    """The models of one split."""

    split: NestedSplit
    platts: list[Platt]  # calibrations that they start from
    models: list[Any]  # one a seed
    # outer fold -> (rounds,) log loss, summed over the labelled rows that are predicted for it
    curves: dict[int, Floats]


def fit_nested(
    folds: NestedFolds,
    inputs: Sequence[ModelInput],
    settings: Sequence[FitSettings | None],
    config: StackConfig,
    seed: int,
    side_by_side: SideBySide = ALL_CORES,
) -> list[FittedComponent]:
    """Fit the nested and the final models of c labels, and predict the training slices.

    inputs: K, the same where two folds have the same scope; settings: K, None where fold k has no
    model; seed: of this component

    Fits run side by side, `config.threads` cores each; the models do not depend on how many run at
    once. Each fit holds a copy of its binned rows. Out-of-fold predictions are made
    by the models as they are read from their files. Returns one FittedComponent per label.
    """

    def fit(job: tuple[NestedSplit, Mapping[int, FitSettings]]) -> SplitFit:
        fitted = _fit_split(folds, *job, inputs, config, seed)
        side_by_side.fit_done()
        return fitted

    at_once = side_by_side.at_once(inputs[0].learner, config.threads)
    of_fold = {k: chosen for k, chosen in enumerate(settings) if chosen is not None}
    splits = folds.inner_splits([chosen and chosen.key() for chosen in settings])
    nested_fits = run_threads(fit, [(split, of_fold) for split in splits], at_once)
    rounds = _choose_rounds(nested_fits, of_fold)
    final_jobs = [
        (folds.outer_split(k), {k: of_fold[k]._replace(rounds=rounds[k], factor=1.0)})
        for k in of_fold
    ]
    final_fits = run_threads(fit, final_jobs, at_once)
    nested = _predict_nested(folds, inputs, nested_fits, rounds)
    return _use_final_models(inputs, final_fits, nested, rounds, seed)


def _predict_nested(
    folds: NestedFolds,
    inputs: Sequence[ModelInput],
    fits: Sequence[SplitFit],
    rounds: dict[int, int],
) -> Floats:
    """Return the nested logits (K, c, n): NaN in fold k itself, and where fold k has no model."""
    nested = np.full((folds.k_folds, *inputs[0].cnn_logits.shape), np.nan)
    for split, platts, models, _ in fits:
        for k, rows in split.predict.items():
            nested[k][:, rows] = inputs[k].predict(models, platts, rows, rounds[k])
    return nested


def _use_final_models(
    inputs: Sequence[ModelInput],
    fits: Sequence[SplitFit],
    nested: Floats,
    rounds: dict[int, int],
    seed: int,
) -> list[FittedComponent]:
    """Store, predict with and explain the final models, in the order of `rounds`.

    Returns one FittedComponent per label.
    """
    learner, oof = inputs[0].learner, np.full(nested.shape[1:], np.nan)
    files, gain, contributions = {}, {}, {}
    for k, (split, platts, models, _) in zip(rounds, fits, strict=True):
        rows = split.predict[k]
        files[k] = [learner.save(model) for model in models]
        stored = [learner.load(raw) for raw in files[k]]
        oof[:, rows] = inputs[k].predict(stored, platts, rows)
        if (share := _mean_gain(learner, stored)) is not None:
            gain[k] = share
        some = _draw_rows(rows, derive_seed(seed, "contributions", k))
        if (sizes := inputs[k].contributions(stored, some)) is not None:
            contributions[k] = sizes
    return [
        FittedComponent(
            NestedPredictions(nested[:, i], oof[i]),
            files,
            rounds,
            gain,
            {k: sizes[i] for k, sizes in contributions.items()},
        )
        for i in range(len(oof))
    ]


def _fit_split(
    folds: NestedFolds,
    split: NestedSplit,
    settings: Mapping[int, FitSettings],
    inputs: Sequence[ModelInput],
    config: StackConfig,
    seed: int,
) -> SplitFit:
    """Fit one model with each seed."""
    first = next(iter(split.predict))
    source, chosen = inputs[first], settings[first]
    by_patient = config.calibrate_by == "patient"
    observed = folds.patients[split.fit] if by_patient else None
    platts = source.calibrate(split.fit, observed, folds.clipped)
    data, valid = source.training_data(platts, split.fit), []
    labelled = {k: rows[folds.labelled[rows]] for k, rows in split.predict.items()}
    if chosen.rounds is None:
        valid = [source.training_data(platts, rows) for rows in labelled.values()]
    rounds = _times(chosen.rounds or chosen.max_rounds or config.max_rounds, chosen.factor)
    seeds = [derive_seed(seed, "booster", number) for number in range(config.seeds)]
    fits = [
        source.learner.fit(data, chosen.params, rounds, each, config.threads, valid)
        for each in seeds
    ]
    curves = {}
    if valid:
        mean = np.mean([losses for _, losses in fits], axis=0)
        for (k, rows), losses in zip(labelled.items(), mean, strict=True):
            curves[k] = len(rows) * losses
    return SplitFit(split, platts, [model for model, _ in fits], curves)


def _choose_rounds(fits: Sequence[SplitFit], settings: Mapping[int, FitSettings]) -> dict[int, int]:
    """Return {k: rounds}, the factor of the settings times the best number of rounds.

    The best number is that of the settings, or where the nested rows' loss is smallest.
    """
    rounds = {}
    for k, chosen in settings.items():
        best = chosen.rounds
        if best is None:
            total = np.sum([fit.curves[k] for fit in fits if k in fit.curves], axis=0)
            best = int(np.argmin(total[: round(len(total) / chosen.factor)])) + 1
        rounds[k] = _times(best, chosen.factor)
    return rounds


def _times(rounds: int, factor: float) -> int:
    """Return the product, at least one round."""
    return max(round(rounds * factor), 1)


def _mean_gain(learner: Learner, models: Sequence[Any]) -> Floats | None:
    """Return the mean over models of the shares of the gain; None where all are unknown."""
    gains = [share for model in models if (share := learner.gain(model)) is not None]
    return np.asarray(np.mean(gains, axis=0)) if gains else None


def _draw_rows(rows: Ints, seed: int) -> Ints:
    """Draw EXPLAINED rows at most, in their order."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:EXPLAINED])
