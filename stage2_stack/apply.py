"""Stage two on slices that it was not fitted on, from what was kept of it: blends, calibrations and boosters.

The same arithmetic as that of stage2_stack/stack.py on the test rows, to the last bit, without anything that needs labels. A
component is one entry of COMPONENT.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from ct.labels import LABELS, SUBTYPES
from features.build import scope_columns
from stage2_stack.blend import Blend
from stage2_stack.boost import boosted_logit
from stage2_stack.calibrate import Platt
from stage2_stack.pooled import pooled_matrix
from stage2_stack.stack import COLUMNS


class Stacker(NamedTuple):
    """What fold k's stacker needs."""

    blends: dict  # label -> Blend
    starts: dict  # label -> Platt of the CNNs' mean logit, where the boosters begin
    boosters: dict  # file name as of stack.Stacked.boosters, without "-fold<k>" -> Booster
    seeds: int = 1  # boosters of one kind
    any_at_least_largest: bool = False
    threads: int = 1


def read_blend(kept):
    """Return the Blend whose plain values are `kept`: {"calibrations", "weights", "last"}, as blend.json has them."""
    platts = {name: Platt(**values) for name, values in kept["calibrations"].items()}
    return Blend(platts, kept["weights"], kept["last"] and Platt(**kept["last"]), {}, "")


def apply_stacker(stacker, X, names):
    """Return the final probabilities of fold k's stacker, float64 (n, 6), columns LABELS.

    stacker: Stacker; X: (n, f) float32, the features as fold k's CNNs make them; names: f, of its columns

    Raises KeyError where a feature or booster that a blend has a weight for is not there.
    """
    seen = Seen(stacker, X, {name: i for i, name in enumerate(names)}, names, {})
    for label in (*SUBTYPES, "any"):  # `any` reads the finished subtypes
        blend = stacker.blends[label]
        seen.finished[label] = expit(blend.logit({name: COMPONENT[name](seen, label) for name in blend.weights}))
    made = np.column_stack([seen.finished[label] for label in LABELS])
    if stacker.any_at_least_largest:
        made[:, 0] = made.max(axis=1)
    return made


class Seen(NamedTuple):
    """The rows that a stacker looks at, and what it has said so far."""

    stacker: Stacker
    X: np.ndarray  # (n, f) float32
    place: dict  # feature -> column of X
    names: list
    finished: dict  # label -> probabilities (n,)

    def column(self, label, kind):
        """Return a feature that is a logit of the label by itself, float64 (n,)."""
        return self.X[:, self.place[label + kind]].astype(np.float64)

    def start(self, label):
        """Return the calibrated mean of the CNNs, logits (n,)."""
        return self.stacker.starts[label].logit(self.X[:, self.place[label]])

    def boosted(self, stem, values, label):
        """Return the mean logits (n,) of the boosters `stem`-seed<s> on values (n, p)."""
        boosters = [self.stacker.boosters[f"{stem}-seed{number}"] for number in range(self.stacker.seeds)]
        said = [boosted_logit(booster, values, self.start(label), self.stacker.threads) for booster in boosters]
        return np.mean(said, axis=0)


def _lightgbm(seen, label):
    """What the label's own boosters say; they know their features by name."""
    names = seen.stacker.boosters[f"lightgbm-{label}-seed0"].feature_name()
    return seen.boosted(f"lightgbm-{label}", seen.X[:, [seen.place[name] for name in names]], label)


def _pooled(seen, label):
    """What the boosters of all subtypes say of one, or those of `any` that see the finished subtypes."""
    if label == "any":
        own = seen.X[:, scope_columns(seen.names, "any", "study")]
        finished = np.column_stack([logit(seen.finished[subtype]) for subtype in SUBTYPES]).astype(np.float32)
        return seen.boosted("pooled-any", np.hstack([own, finished]), label)
    rows = slice(SUBTYPES.index(label) * len(seen.X), (SUBTYPES.index(label) + 1) * len(seen.X))
    return seen.boosted("pooled", pooled_matrix(seen.X, seen.names)[rows], label)


COMPONENT = {  # component of stage2_stack/config.py -> function of (Seen, label) that returns its logits (n,)
    **{name: lambda seen, label, kind=kind: seen.column(label, kind) for name, kind in COLUMNS.items()},
    "lightgbm": _lightgbm,
    "pooled": _pooled,
}
