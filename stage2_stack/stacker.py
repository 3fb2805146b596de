"""Fits stage two: what each component says, nested and held out, then a blend of them for each
label and outer fold.

Stacker k is fitted on the rows outside fold k, to score fold k and its CNNs' test opinions.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit, log_expit, logit

from ct.labels import LABELS, SUBTYPES
from ct.seeds import derive_seed
from stage2_stack.blending import fit_blend, raw_alone
from stage2_stack.boost import Bins
from stage2_stack.components import Case, own_components, series_of_all, where_usable
from stage2_stack.nested_cv import Nest, Opinion, View, fit_nested
from stage2_stack.pooled import PARAMS, PooledBins, as_own, pooled_names
from stage2_stack.tuning import INSTEAD


@dataclass
class Rows:
    """The train slices, as stage two sees them."""

    X: np.ndarray  # (n, f) float32; it may be a memory map
    # (n, 6) 0, 1 or NaN; a row that lacks one label is predicted, but not learned from
    y: np.ndarray
    fold: np.ndarray  # (n,) 0 ... K-1
    patients: np.ndarray  # (n,)
    names: list  # f names of the columns of X
    # (s,) first row of each series, whose rows lie together, from bottom to top; for `gru`
    starts: np.ndarray | None = None
    test_starts: np.ndarray | None = None  # of the test rows


@dataclass
class Stacked:
    """What the stackers of one label leave; probabilities are in [0, 1]."""

    blends: list  # K Blend, each made without its fold
    calibrated: np.ndarray  # (n,) calibrated stage one, out of fold
    # (n,) stage two, out of fold; where fold k is not stacked, the calibrated stage one
    oof: np.ndarray
    calibrated_test: np.ndarray  # (K, m) likewise on the test rows, fold k by stacker k
    test: np.ndarray  # (K, m)
    # component -> (n,) what it says alone, out of fold, calibrated; or the calibrated stage one
    rungs: dict
    # (K, n) logits of stage two outside fold k, by models that saw neither the row's fold nor fold
    # k
    nested: np.ndarray
    # name of a file -> its bytes, of the components that have a weight
    models: dict = field(default_factory=dict)
    # (f,) mean over folds of each feature's share of the gain, of the boosters in the blend
    gain: np.ndarray | None = None
    # (f,) likewise of its mean absolute contribution to held-out rows, logits
    contributions: np.ndarray | None = None


def fit_stack(rows, test_X, configs, config, seed, progress=None):
    """Fit the stackers of all labels.

    rows: Rows; test_X: (K, m, f), fold k's CNNs' view of the test rows; configs: {label: K dicts as
    of tune.best_config}; config: StackConfig; seed: of the recipe; progress: called `steps(config)`
    times

    Returns {label: Stacked}.
    """
    progress = progress or (lambda: None)
    known = ~np.isnan(rows.y).any(axis=1)
    some = np.nan_to_num(rows.y[:, 0])
    nest = Nest(rows.fold, known, rows.patients, some, len(test_X), derive_seed(seed, "stack"))
    case = Case(rows, nest, Bins(rows.X, rows.names, config.threads), test_X, configs, config, seed)
    own = {}
    for label in LABELS:
        own[label] = own_components(case, label)
        case.bins.keep_only([np.arange(len(rows.names))])  # other labels see other columns, or all
        progress()
    case.bins.keep_only()
    if "gru" in config.components:
        share(own, "gru", series_of_all(case), LABELS)
        progress()
    pool = pooled_subtypes(case) if "pooled" in config.components else None
    share(own, "pooled", pool, SUBTYPES)
    made = {label: blended(case, label, *own[label]) for label in SUBTYPES}
    progress()
    if "subtypes" in config.components:
        own["any"][0]["subtypes"] = one_at_least(made)
    made["any"] = blended(case, "any", *own["any"])
    progress()
    if config.any_at_least_largest:
        for part in ("oof", "test"):
            largest = np.max([getattr(made[label], part) for label in SUBTYPES], axis=0)
            setattr(made["any"], part, np.maximum(getattr(made["any"], part), largest))
    return {label: made[label] for label in LABELS}


def steps(config):
    """Return how often fit_stack says that it is further."""
    return len(LABELS) + 2 + ("gru" in config.components)


def share(own, component, fitted, labels):
    """Enter what a component says of labels, in their order, into {label: ({component: Opinion},
    {component: Fitted})}.
    """
    if fitted:
        for label, opinion in zip(labels, fitted.opinions, strict=True):
            opinions, models = own[label]
            opinions[component], models[component] = opinion, fitted


def pooled_subtypes(case):
    """Return the Fitted of the five subtypes together, in the order SUBTYPES; None where no fold
    has what to learn from.
    """
    settings = where_usable(case, SUBTYPES, PARAMS)
    if not any(settings):
        return None
    (raw, test_raw), y = case.raw(*SUBTYPES), np.stack([case.y(label) for label in SUBTYPES])
    names, threads = pooled_names(case.rows.names), case.config.threads
    columns = np.arange(len(names))
    view = View(PooledBins(case.rows.X, case.rows.names, threads), columns, raw, y)
    test = [
        View(PooledBins(X, case.rows.names, threads), columns, test_raw[k], None)
        for k, X in enumerate(case.test_X)
    ]
    return fit_nested(
        case.nest, [view] * len(test), test, settings, case.config, derive_seed(case.seed, "pooled")
    )


def one_at_least(made):
    """Return the Opinion on `any` that one of the finished subtypes at least is there, were they
    independent of each other.

    made: {subtype: Stacked}. For fold k a row's subtypes are those by stackers that saw neither its
    fold nor fold k.
    """
    said = {
        "nested": [made[label].nested for label in SUBTYPES],
        "oof": [logit(made[label].oof) for label in SUBTYPES],
        "test": [logit(made[label].test) for label in SUBTYPES],
    }
    return Opinion(**{part: union(np.stack(logits)) for part, logits in said.items()})


def union(logits):
    """Return the logit that one at least of independent events comes to pass: of logits (c, ...),
    float64 (...).
    """
    none = -log_expit(-logits).sum(axis=0)  # less the log of the probability that none does
    return none + np.log(-np.expm1(-none))


def blended(case, label, opinions, fitted):
    """Blend the opinions on one label, for each fold on the rows of the others. Returns Stacked.

    opinions: {component: Opinion}; fitted: {component: Fitted}, of those that have models
    """
    y, fold, k_folds = case.y(label), case.rows.fold, case.nest.k_folds
    blends = [_blend(case, label, opinions, k) for k in range(k_folds)]
    nested = np.full((k_folds, len(y)), np.nan)
    oof, test = np.full(len(y), np.nan), np.empty(opinions["raw"].test.shape)
    base, base_test, rungs = oof.copy(), test.copy(), {name: oof.copy() for name in opinions}
    for k, blend in enumerate(blends):
        held, others = fold == k, fold != k
        nested[k, others] = blend.logit(
            {name: opinion.nested[k, others] for name, opinion in opinions.items()}
        )
        oof[held] = blend.logit({name: opinion.oof[held] for name, opinion in opinions.items()})
        test[k] = blend.logit({name: opinion.test[k] for name, opinion in opinions.items()})
        raw = blend.platts["raw"]
        base[held], base_test[k] = (
            raw.logit(opinions["raw"].oof[held]),
            raw.logit(opinions["raw"].test[k]),
        )
        for name, opinion in opinions.items():
            platt = blend.platts.get(name)
            rungs[name][held] = base[held] if platt is None else platt.logit(opinion.oof[held])
    rungs = {name: expit(logits) for name, logits in rungs.items()}
    made = Stacked(blends, expit(base), expit(oof), expit(base_test), expit(test), rungs, nested)
    made.gain, made.contributions = np.zeros((2, len(case.rows.names)))
    for k, blend in enumerate(blends):
        used = {name: found for name, found in fitted.items() if name in blend.weights}
        for part in ("gain", "contributions"):
            told = [
                _of_features(case, label, name, getattr(found, part)[k])
                for name, found in used.items()
                if k in getattr(found, part)
            ]
            setattr(
                made, part, getattr(made, part) + np.sum(told, axis=0) / max(len(told), 1) / k_folds
            )
        for name, found in used.items():
            stem = f"{name}-fold{k}" if len(found.opinions) > 1 else f"{name}-{label}-fold{k}"
            made.models |= {
                f"{stem}-seed{s}{found.suffix}": model for s, model in enumerate(found.models[k])
            }
    return made


def _blend(case, label, opinions, k):
    """Return the Blend of one label for fold k."""
    fit, y = case.nest.last(k).fit, case.y(label)
    why = case.why_not(label, k)
    if why:
        return raw_alone(opinions["raw"].nested[k, fit], y[fit], why)
    said = {name: opinion.nested[k, fit] for name, opinion in opinions.items()}
    said = {
        name: logits for name, logits in said.items() if name == "raw" or not np.isnan(logits).all()
    }
    # tuning has already said why there is no booster
    if len(said) == 1 and (why := case.configs[label][k].get("why")):
        return raw_alone(said["raw"], y[fit], why)
    blend = fit_blend(
        said,
        y[fit],
        case.rows.patients[fit],
        case.config.confidence,
        derive_seed(case.seed, "blend", label, k),
    )
    return blend._replace(why=f"{blend.why}; {INSTEAD}") if blend.why else blend


def _of_features(case, label, component, values):
    """Return what was found of a component's columns, the same for all labels or a row each, as
    that of X's features: (f,).
    """
    if component != "pooled":
        return values
    return as_own(
        values[SUBTYPES.index(label)] if values.ndim > 1 else values, case.rows.names, label
    )
