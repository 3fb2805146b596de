"""Columns of the feature matrix, by name: which columns a model reads, and their descriptions."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ct.labels import LABELS
from features.geometry import METADATA
from features.neighbours import BEST_MM
from features.rolling_windows import SIDED_KINDS
from features.study import OTHER_KINDS, STUDY_KINDS

# which features the stacker of a label reads; with few studies, fewer features score better
SCOPES = {
    "context": "logits of the label and of `any`: the slice, its neighbours, Gaussian means",
    "study": "these, both labels' one-sided and whole-study summaries, and the geometry",
    "all": "every feature, including those of the other labels",
}
# position of a slice in its series, for models of the whole sequence
POSITION_FEATURES = ("position_rel", "gap_below_mm", "gap_above_mm")


class NameParts(NamedTuple):
    """Parts of the name of a feature from logits: "any_z+1_by_vgg" is any, z+1, vgg."""

    label: str
    kind: str
    model: str


def scope_columns(names: Sequence[str], label: str, scope: str) -> NDArray[np.int64]:
    """Return the columns that the stacker of `label` reads, int, in the order of `names`.

    scope: one of SCOPES
    """
    if scope == "all":
        return np.arange(len(names))
    wide_kinds = {*STUDY_KINDS, *SIDED_KINDS, *OTHER_KINDS}
    columns = []
    for i, name in enumerate(names):
        if name in METADATA:
            selected = scope == "study"
        else:
            parts = _split_name(name)
            selected = parts.label in (label, "any")
            selected &= scope == "study" or parts.kind not in wide_kinds
        if selected:
            columns.append(i)
    return np.array(columns)


def slice_columns(names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the columns that describe a slice without its neighbours.

    Returns (logits, place). logits: int (6, g), one row per label; the mean over CNNs first, then
    each CNN and the mean of the probes, in the same order for all labels. place: int (h,), the
    columns of POSITION_FEATURES.
    """
    logits: dict[str, list[int]] = {label: [] for label in LABELS}
    for i, name in enumerate(names):
        if name not in METADATA:
            label, kind, model = _split_name(name)
            if label in logits and (kind == "" or (kind == "probe" and not model)):
                logits[label].append(i)
    place = [i for i, name in enumerate(names) if name in POSITION_FEATURES]
    return np.array(list(logits.values())), np.array(place, int)


def _split_name(name: str) -> NameParts:
    stem, _, model = name.partition("_by_")
    label, _, kind = stem.partition("_")
    return NameParts(label, kind, model)


# pattern of a feature's kind -> its description; {0} is the label, {1} the group in the pattern
KINDS = {
    "": "logit of {0}",
    "spread": "standard deviation of the CNNs' logits of {0}",
    "chain": "posterior logit of {0}, Markov chain along the series",
    "probe": "logit of {0}, linear probe of the embedding",
    "others_max": "maximum logit of {0} in the patient's other studies",
    "others_top3": "largest top-3 mean of the logits of {0} in the patient's other studies",
    r"z-(\d+)": "logit of {0}, {1} below",
    r"z\+(\d+)": "logit of {0}, {1} above",
    r"dz-(\d+)": "logit of {0} minus the logit {1} below",
    r"dz\+(\d+)": "logit of {0} minus the logit {1} above",
    r"smooth([\d.e+-]+)mm": "logit of {0}, Gaussian mean along z, sigma {1} mm",
    "smooth_best": "logit of {0}, Gaussian mean along z, best sigma of the label",
    r"min(\d+)": "minimum logit of {0} within {1} on either side",
    r"max(\d+)": "maximum logit of {0} within {1} on either side",
    "(below|above)_mean": "mean logit of {0} over all slices {1}",
    "(below|above)_std": "standard deviation of the logit of {0} over all slices {1}",
    "study_max": "maximum logit of {0} in the study",
    "study_mean": "mean logit of {0} over the study",
    "study_std": "standard deviation of the logit of {0} over the study",
    "study_top3": "mean of the three largest logits of {0} in the study",
    "study_share": "fraction of the study's slices with a probability of {0} above 0.5",
    "peak_mm": "signed distance to the study's maximum logit of {0}, mm",
    "peak_away_mm": "distance to the study's maximum logit of {0}, mm",
    "peak_rel": "relative height of the study's maximum logit of {0}, 0 lowest slice, 1 highest",
}


def describe(name: str) -> str:
    """Return the description of a feature, one line."""
    if name in METADATA:
        return METADATA[name]
    label, kind, model = _split_name(name)
    subject, end = label, ""
    if kind in ("", "probe"):
        end = f", CNN {model}" if model else ", mean over the CNNs"
    elif model:
        subject = f"{label} by {model}"
    elif kind == "smooth_best":
        end = f" ({BEST_MM[label]:g} mm)"
    for pattern, text in KINDS.items():
        if match := re.fullmatch(pattern, kind):
            words = list(match.groups())
            if words and words[0].isdigit() and not kind.startswith("smooth"):
                words[0] += " slice" if words[0] == "1" else " slices"
            return text.format(subject, *words) + end
    raise ValueError(f"no feature is called {name}")
