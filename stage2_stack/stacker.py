"""Fit stage two: the components, then their blend for each label and outer fold.

The stacker of fold k is fitted on the rows outside fold k. It predicts the rows of fold k, and the
test slices from the features of fold k's CNNs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ct.labels import LABELS, SUBTYPES
from ct.seeds import derive_seed
from stage2_stack.blending import Blend, fit_blend, raw_alone
from stage2_stack.components import REGISTRY
from stage2_stack.components.component import Component, load_component
from stage2_stack.components.noisy_or import finite_logit
from stage2_stack.config import StackConfig
from stage2_stack.fold_stacker import FoldStacker
from stage2_stack.nested_cv import INSTEAD, FittedComponent, NestedPredictions
from stage2_stack.stack_context import StackContext, StackData, Tuned, make_context

Fitted = dict[str, FittedComponent]  # by the name of the component, for one label


@dataclass
class LabelStack:
    """Stage two of one label; probabilities are in [0, 1]."""

    blends: list[Blend]  # K, each made without its fold
    calibrated: NDArray[np.float64]  # (n,) calibrated stage one, out of fold
    # (n,) stage two, out of fold; where fold k is not stacked, the calibrated stage one
    oof: NDArray[np.float64]
    # component -> (n,) its own calibrated probabilities out of fold, or the calibrated stage one
    component_oof: dict[str, NDArray[np.float64]]
    # (K, n) logits of stage two outside fold k, by models without the row's fold and without k
    nested: NDArray[np.float64]
    models: dict[str, bytes]  # name of a file -> its bytes, of the components that have a weight
    # (f,) each feature's share of the gain, mean over folds, of the boosters in the blend
    gain: NDArray[np.float64]
    # (f,) mean absolute contribution of each feature to held-out rows, logits, of the same boosters
    contributions: NDArray[np.float64]
    # (K, m) test slices by stacker k: calibrated stage one, and stage two
    calibrated_test: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    test: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))


def fit_stack(
    data: StackData,
    test_X: NDArray[np.float32],
    tuned: Tuned,
    config: StackConfig,
    seed: int,
    progress: Callable[[], object] | None = None,
) -> dict[str, LabelStack]:
    """Fit the stackers of all labels.

    test_X: (K, m, f) features of the test slices from fold k's CNNs; seed: of the recipe;
    progress: called `steps(config)` times

    Returns {label: LabelStack}.
    """
    progress = progress or (lambda: None)
    context = make_context(data, len(test_X), tuned, config, seed)
    fitted = fit_components(context, chosen_components(config), progress)
    return blend_all(context, fitted, test_X, progress)


def blend_all(
    context: StackContext,
    fitted: dict[str, Fitted],
    test_X: NDArray[np.float32],
    progress: Callable[[], object],
) -> dict[str, LabelStack]:
    """Blend the fitted components label by label, and predict the test slices.

    fitted: {label: {component: its fit}}, without components of the finished subtypes, which are
    fitted here; test_X: as in `fit_stack`; progress: called twice

    Returns {label: LabelStack}.
    """
    stacks, config = {}, context.config
    for label in (*SUBTYPES, "any"):  # components of `any` may read the finished subtypes
        for component in chosen_components(config):
            if component.from_subtypes and label in component.labels:
                fit_component(context, component, [label], fitted)
        stacks[label] = blend_label(context, label, fitted[label])
        context.finished[label] = NestedPredictions(
            stacks[label].nested, finite_logit(stacks[label].oof)
        )
    progress()
    if config.any_at_least_largest:
        stacks["any"].oof = np.max([stacks[label].oof for label in ("any", *SUBTYPES)], axis=0)
    predict_test(stacks, context.data, test_X, config)
    progress()
    return {label: stacks[label] for label in LABELS}


def chosen_components(config: StackConfig) -> list[Component]:
    """Return the components that a config names, in the order in which they enter a blend."""
    names = [entry.name for entry in REGISTRY if entry.name in config.components]
    return [load_component(name) for name in names]


def steps(config: StackConfig) -> int:
    """Return how often fit_stack calls its `progress`."""
    return len(LABELS) + sum(component.joint for component in chosen_components(config)) + 2


def fit_components(
    context: StackContext, components: Sequence[Component], progress: Callable[[], object]
) -> dict[str, Fitted]:
    """Fit all components that do not need finished labels: label by label, then the joint ones."""
    fitted: dict[str, Fitted] = {label: {} for label in LABELS}
    for label in LABELS:
        for component in components:
            if not (component.joint or component.from_subtypes) and label in component.labels:
                fit_component(context, component, [label], fitted)
        # free the bins of columns that only this label reads
        context.features.keep_only([np.arange(len(context.data.names))])
        progress()
    context.features.keep_only()
    for component in components:
        if component.joint:
            fit_component(context, component, component.labels, fitted)
            progress()
    return fitted


def fit_component(
    context: StackContext, component: Component, labels: Sequence[str], fitted: dict[str, Fitted]
) -> None:
    """Fit one component on labels, and add the results to `fitted`."""
    for label, of_label in component.fit(context, labels).items():
        fitted[label][component.name] = of_label


def blend_label(context: StackContext, label: str, fitted: Fitted) -> LabelStack:
    """Blend the components of one label, for each fold on the rows of the others.

    Returns a LabelStack without predictions of the test slices.
    """
    fold, k_folds, n = context.data.fold, context.folds.k_folds, len(context.data.X)
    logits = {name: component.predictions for name, component in fitted.items()}
    blends = [choose_blend(context, label, logits, k) for k in range(k_folds)]
    nested = np.full((k_folds, n), np.nan)
    oof, calibrated = np.full(n, np.nan), np.full(n, np.nan)
    component_oof = {name: np.full(n, np.nan) for name in logits}
    for k, blend in enumerate(blends):
        held, others = fold == k, fold != k
        nested[k, others] = blend.logit({name: x.nested[k, others] for name, x in logits.items()})
        oof[held] = blend.logit({name: x.oof[held] for name, x in logits.items()})
        calibrated[held] = blend.platts["raw"].logit(logits["raw"].oof[held])
        for name, x in logits.items():
            platt = blend.platts.get(name)
            alone = calibrated[held] if platt is None else platt.logit(x.oof[held])
            component_oof[name][held] = alone
    return LabelStack(
        blends,
        expit(calibrated),
        expit(oof),
        {name: expit(x) for name, x in component_oof.items()},
        nested,
        _files_in_blends(context, label, fitted, blends),
        *_importances(fitted, blends, len(context.data.names)),
    )


def choose_blend(
    context: StackContext, label: str, logits: Mapping[str, NestedPredictions], k: int
) -> Blend:
    """Return the Blend of one label for fold k. logits: {component: NestedPredictions}."""
    fit, y = context.folds.outer_split(k).fit, context.targets(label)
    raw, by_patient = logits["raw"].nested[k, fit], context.config.calibrate_by == "patient"
    patients = context.data.patients[fit]
    observed = patients if by_patient else None
    if reason := context.why_not_stacked(label, k):
        return raw_alone(raw, y[fit], reason, observed, context.data.clipped)
    nested = {name: x.nested[k, fit] for name, x in logits.items()}
    nested = {name: x for name, x in nested.items() if name == "raw" or not np.isnan(x).all()}
    # without another component, the reason is the one that tuning gave
    if len(nested) == 1 and (why := context.tuned[label][k].get("why")):
        return raw_alone(raw, y[fit], why, observed, context.data.clipped)
    blend = fit_blend(
        nested,
        y[fit],
        patients,
        context.config.confidence,
        derive_seed(context.seed, "blend", label, k),
        context.data.clipped,
        by_patient,
    )
    return blend._replace(why=f"{blend.why}; {INSTEAD}") if blend.why else blend


def predict_test(
    stacks: Mapping[str, LabelStack],
    data: StackData,
    test_X: NDArray[np.float32],
    config: StackConfig,
) -> None:
    """Set `test` and `calibrated_test` of all labels. test_X: as in `fit_stack`."""
    shape = (*test_X.shape[:2], len(LABELS))
    final, calibrated = np.empty(shape), np.empty(shape)
    for k, X in enumerate(test_X):
        stacker = stacker_of_fold(stacks, k, config)
        final[k] = stacker.predict(X, data.names, data.test_starts)
        for j, label in enumerate(LABELS):
            raw = X[:, data.names.index(label)]
            calibrated[k, :, j] = expit(stacker.calibrations[label].logit(raw))
    for j, label in enumerate(LABELS):
        stacks[label].test, stacks[label].calibrated_test = final[:, :, j], calibrated[:, :, j]


def stacker_of_fold(stacks: Mapping[str, LabelStack], k: int, config: StackConfig) -> FoldStacker:
    """Return the stacker of fold k. stacks: of all labels."""
    blends = {label: stacks[label].blends[k] for label in LABELS}
    calibrations = {label: blend.platts["raw"] for label, blend in blends.items()}
    files = {name: raw for label in LABELS for name, raw in stacks[label].models.items()}
    return FoldStacker(k, blends, calibrations, files, config)


def _files_in_blends(
    context: StackContext, label: str, fitted: Fitted, blends: Sequence[Blend]
) -> dict[str, bytes]:
    """Return {file name: bytes} of the models of the components that have a weight in a blend."""
    files: dict[str, bytes] = {}
    for k, blend in enumerate(blends):
        for name, component in fitted.items():
            if name in blend.weights and k in component.files:
                names = load_component(name).file_names(label, k, context.config.seeds)
                files |= dict(zip(names, component.files[k], strict=True))
    return files


def _importances(
    fitted: Fitted, blends: Sequence[Blend], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (gain, contributions) of the `count` features, as in LabelStack."""
    gain, contributions = np.zeros(count), np.zeros(count)
    for k, blend in enumerate(blends):
        used = [component for name, component in fitted.items() if name in blend.weights]
        gains = [component.gain[k] for component in used if k in component.gain]
        sizes = [component.contributions[k] for component in used if k in component.contributions]
        gain += np.sum(gains, axis=0) / max(len(gains), 1) / len(blends)
        contributions += np.sum(sizes, axis=0) / max(len(sizes), 1) / len(blends)
    return gain, contributions
