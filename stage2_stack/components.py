"""What each component that sees one label's features, or all labels' series, says: nested, held out
and on the test rows.
"""

from dataclasses import dataclass

import numpy as np

from ct.labels import LABELS
from ct.seeds import derive_seed
from features.columns import scope_columns
from stage2_stack.boost import Bins
from stage2_stack.learners import learner_of
from stage2_stack.nested_cv import View, column_opinion, fit_nested
from stage2_stack.search_space import split_scope
from stage2_stack.tuning import why_not_stacked

# components that are a feature as it is
COLUMNS = {"raw": "", "smooth": "_smooth_best", "chain": "_chain"}
OWN = ("lightgbm", "xgboost", "catboost")  # a booster a label
UNTUNED = "study"  # scope of the features of the boosters that are not tuned


@dataclass
class Case:
    """What all components are fitted from: the rows, stack.Rows, their nested.Nest, and the rest as
    of stack.fit_stack.
    """

    rows: object
    nest: object
    bins: Bins
    test_X: np.ndarray
    configs: dict
    config: object
    seed: int

    def y(self, label):
        """Return the labels (n,) of the rows that are learned from, NaN elsewhere."""
        return np.where(self.nest.known, self.rows.y[:, LABELS.index(label)], np.nan)

    def raw(self, *labels):
        """Return the CNNs' mean logits of some labels: (c, n), and of the test rows (K, c, m)."""
        columns = [self.rows.names.index(label) for label in labels]
        return self.rows.X[:, columns].T, np.transpose(self.test_X[:, :, columns], (0, 2, 1))

    def why_not(self, label, k):
        """Return why a label can't be stacked without fold k, or ""."""
        fit = self.nest.last(k).fit
        return why_not_stacked(
            self.y(label)[fit], self.rows.patients[fit], self.config.positive_patients
        )


def own_components(case, label):
    """Return ({component: Opinion}, {component: Fitted}) of what sees one label's features
    alone.
    """
    opinions, fitted, names = {}, {}, case.rows.names
    for component, kind in COLUMNS.items():
        if component in case.config.components and label + kind in names:
            column = names.index(label + kind)
            opinions[component] = column_opinion(
                case.nest, case.rows.X[:, column], case.test_X[:, :, column]
            )
    for component in OWN:
        settings = (
            _own_settings(case, label, component) if component in case.config.components else []
        )
        if any(settings):
            fitted[component] = own_booster(case, label, component, settings)
            opinions[component] = fitted[component].opinions[0]
    return opinions, fitted


def own_booster(case, label, component, settings):
    """Return the Fitted of a label's own booster. settings: K as of fit_nested, with "scope"."""
    names, learner, (raw, test_raw), y = (
        case.rows.names,
        learner_of(component),
        case.raw(label),
        case.y(label)[None],
    )
    scopes = {
        wanted["scope"]: scope_columns(names, label, wanted["scope"])
        for wanted in settings
        if wanted
    }
    seen = {scope: View(case.bins, columns, raw, y, learner) for scope, columns in scopes.items()}
    scope_of = [wanted["scope"] if wanted else next(iter(scopes)) for wanted in settings]
    test = [
        View(
            Bins(case.test_X[k], names, case.config.threads),
            scopes[scope],
            test_raw[k],
            None,
            learner,
        )
        for k, scope in enumerate(scope_of)
    ]
    seed = derive_seed(case.seed, component, label)
    fitted = fit_nested(
        case.nest, [seen[scope] for scope in scope_of], test, settings, case.config, seed
    )
    parts = {
        "gain": fitted.gain,
        "contributions": {k: swing[0] for k, swing in fitted.contributions.items()},
    }
    parts = {
        part: {k: spread_out(values, scopes[scope_of[k]], names) for k, values in found.items()}
        for part, found in parts.items()
    }
    return fitted._replace(**parts)


def series_of_all(case):
    """Return the Fitted of the network that reads series, for all LABELS at once; None where no
    fold has what to learn from.

    Raises ValueError where the rows come without their series.
    """
    from stage2_stack.gru import EPOCHS, PARAMS, SeriesView  # torch takes seconds to import

    if case.rows.starts is None or case.rows.test_starts is None:
        raise ValueError("the component gru reads series: give Rows their starts and test_starts")
    settings = [
        wanted and {**wanted, "max_rounds": EPOCHS} for wanted in where_usable(case, LABELS, PARAMS)
    ]
    if not any(settings):
        return None
    (raw, test_raw), y = case.raw(*LABELS), np.stack([case.y(label) for label in LABELS])
    names, threads = case.rows.names, case.config.threads
    view = SeriesView(case.rows.X, names, case.rows.starts, raw, y, threads)
    test = [
        SeriesView(X, names, case.rows.test_starts, test_raw[k], None, threads)
        for k, X in enumerate(case.test_X)
    ]
    return fit_nested(
        case.nest, [view] * len(test), test, settings, case.config, derive_seed(case.seed, "gru")
    )


def _own_settings(case, label, component):
    """Return the settings of a label's own booster, None for the folds that want none: in which
    tuning saw no use in one, or, for those that are not tuned, in which the label can't be
    stacked.
    """
    if component != "lightgbm":
        where = where_usable(case, [label], learner_of(component).params)
        return [wanted and {**wanted, "scope": UNTUNED} for wanted in where]
    settings = []
    for found in case.configs[label]:  # as of tune.best_config
        params, scope = split_scope(found["params"]) if found["stacked"] else (None, None)
        settings.append(
            {"params": params, "rounds": found["rounds"], "scope": scope} if params else None
        )
    return settings


def where_usable(case, labels, params):
    """Return the settings of the folds in which one of the labels at least can be stacked, None for
    the others.
    """
    usable = [any(not case.why_not(label, k) for label in labels) for k in range(case.nest.k_folds)]
    return [{"params": params, "rounds": None} if use else None for use in usable]


def spread_out(values, columns, names):
    """Return what was found of some columns (c,) as that of all of `names`, 0 for the others:
    (f,).
    """
    whole = np.zeros(len(names))
    whole[columns] = values
    return whole
