"""Stage two on slices that it was not fitted on, from what was kept of it: blends, calibrations and
models.

The same arithmetic as that of stage2_stack/stacker.py on the test rows, to the last bit, without
anything that needs labels. A component is one entry of COMPONENT.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from ct.labels import LABELS, SUBTYPES
from features.columns import scope_columns
from stage2_stack.blending import Blend
from stage2_stack.boost import Bins
from stage2_stack.calibration import Platt
from stage2_stack.components import COLUMNS, OWN, UNTUNED
from stage2_stack.learners import learner_of
from stage2_stack.nested_cv import View
from stage2_stack.pooled import PooledBins, pooled_names
from stage2_stack.stacker import union


class Stacker(NamedTuple):
    """What fold k's stacker needs."""

    blends: dict  # label -> Blend
    starts: dict  # label -> Platt of the CNNs' mean logit, where the models begin
    files: dict  # name as of stack.Stacked.models, without "-fold<k>" -> bytes
    seeds: int = 1  # models of one kind
    any_at_least_largest: bool = False
    threads: int = 1


def read_blend(kept):
    """Return the Blend whose plain values are `kept`: {"calibrations", "weights", "last"}, as
    blend.json has them.
    """
    platts = {name: Platt(**values) for name, values in kept["calibrations"].items()}
    return Blend(platts, kept["weights"], kept["last"] and Platt(**kept["last"]), {}, "")


def apply_stacker(stacker, X, names, starts=None):
    """Return the final probabilities of fold k's stacker, float64 (n, 6), columns LABELS.

    stacker: Stacker; X: (n, f) float32, the features as fold k's CNNs make them; names: f, of its
    columns; starts: (s,) first row of each series, for `gru`

    Raises KeyError where a file that a blend has a weight for is not there, ValueError where a
    feature is not.
    """
    seen = Seen(stacker, X, names, starts)
    for label in (*SUBTYPES, "any"):  # `any` hears the finished subtypes
        blend = stacker.blends[label]
        seen.finished[label] = expit(
            blend.logit({name: COMPONENT[name](seen, name, label) for name in blend.weights})
        )
    made = np.column_stack([seen.finished[label] for label in LABELS])
    if stacker.any_at_least_largest:
        made[:, 0] = made.max(axis=1)
    return made


@dataclass
class Seen:
    """The rows that a stacker looks at, and what it has said of them so far."""

    stacker: Stacker
    X: np.ndarray  # (n, f) float32
    names: list
    starts: np.ndarray | None
    finished: dict = field(default_factory=dict)  # label -> probabilities (n,)
    # component of several labels -> {label: logits (n,)}
    together: dict = field(default_factory=dict)

    def column(self, name):
        """Return the feature of this name, float32 (n,)."""
        return self.X[:, self.names.index(name)]

    def models(self, stem, learner):
        """Return the models of `stem`, one a seed."""
        seeds = range(self.stacker.seeds)
        return [
            learner.load(self.stacker.files[f"{stem}-seed{number}{learner.suffix}"])
            for number in seeds
        ]

    def asked(self, view, models, labels):
        """Return what models say of labels together, {label: logits (n,)}."""
        said = view.logits(
            models, [self.stacker.starts[label] for label in labels], np.arange(len(self.X))
        )
        return dict(zip(labels, said, strict=True))

    def raw(self, labels):
        """Return the CNNs' mean logits of labels, (c, n)."""
        return np.stack([self.column(label) for label in labels])


def _own(seen, component, label):
    """What the label's own boosters say."""
    learner = learner_of(component)
    models = seen.models(f"{component}-{label}", learner)
    if component == "lightgbm":  # whose scope was tuned
        columns = np.array([seen.names.index(name) for name in models[0].feature_name()])
    else:
        columns = scope_columns(seen.names, label, UNTUNED)
    view = View(
        Bins(seen.X, seen.names, seen.stacker.threads), columns, seen.raw([label]), None, learner
    )
    return seen.asked(view, models, [label])[label]


def _pooled(seen, component, label):
    """What the boosters of the subtypes say of one."""
    if component not in seen.together:
        learner, names = learner_of(component), pooled_names(seen.names)
        bins = PooledBins(seen.X, seen.names, seen.stacker.threads)
        view = View(bins, np.arange(len(names)), seen.raw(SUBTYPES), None, learner)
        seen.together[component] = seen.asked(view, seen.models(component, learner), SUBTYPES)
    return seen.together[component][label]


def _gru(seen, component, label):
    """What the networks that read series say of a label."""
    if component not in seen.together:
        from stage2_stack.gru import GRU, SeriesView  # torch takes seconds to import

        if seen.starts is None:
            raise ValueError("the component gru reads series: give the rows' starts")
        view = SeriesView(
            seen.X, seen.names, seen.starts, seen.raw(LABELS), None, seen.stacker.threads
        )
        seen.together[component] = seen.asked(view, seen.models(component, GRU()), LABELS)
    return seen.together[component][label]


def _subtypes(seen, component, label):
    """What the finished subtypes say of `any`."""
    return union(np.stack([logit(seen.finished[subtype]) for subtype in SUBTYPES]))


# component of stage2_stack/config.py -> function of (Seen, component, label) that returns its
# logits (n,)
COMPONENT = {
    **{
        name: lambda seen, _, label, kind=kind: seen.column(label + kind).astype(np.float64)
        for name, kind in COLUMNS.items()
    },
    **dict.fromkeys(OWN, _own),
    "pooled": _pooled,
    "subtypes": _subtypes,
    "gru": _gru,
}
