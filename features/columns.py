"""Columns of the feature matrix, by name: which of them a model reads, and what each holds."""

import re

import numpy as np

from ct.labels import LABELS
from features.geometry import METADATA
from features.neighbours import BEST_MM
from features.rolling_windows import SIDED_KINDS
from features.study import OTHER_KINDS, STUDY_KINDS

SCOPES = {  # what a stacker may look at; little data does better with less
    "context": "the logits of the label itself and of `any`: of the slice, its neighbours and their Gaussian means",
    "study": "these, the summaries of both over all below, all above and the study, and the geometry",
    "all": "every feature, those of the other labels, too",
}


def _parts(name):
    """Return (label, kind, model) of the name of a feature that is made of opinions: any_z+1_by_vgg
    -> any, z+1, vgg.
    """
    stem, _, model = name.partition("_by_")
    label, _, kind = stem.partition("_")
    return label, kind, model


def scope_columns(names, label, scope):
    """Return the column numbers of the features that the stacker of `label` looks at, int array, in
    the order of `names`.
    """
    if scope == "all":
        return np.arange(len(names))
    own = [
        i
        for i, name in enumerate(names)
        if name not in METADATA and _parts(name)[0] in (label, "any")
    ]
    if scope == "study":
        return np.array(sorted(own + [i for i, name in enumerate(names) if name in METADATA]))
    wide = {*STUDY_KINDS, *SIDED_KINDS, *OTHER_KINDS}
    return np.array([i for i in own if _parts(names[i])[1] not in wide])


def slice_columns(names):
    """Return the column numbers of what is said of a slice by itself.

    (said, place): int (6, g), the logits of each of LABELS: the mean first, then others in an order
    that is the same for all labels, by each CNN and by the probes; int (h,), height and distances
    to the next slices
    """
    parts = [_parts(name) if name not in METADATA else ("", "", "") for name in names]
    said = [
        [
            i
            for i, (of, kind, model) in enumerate(parts)
            if of == label and (kind == "" or (kind == "probe" and not model))
        ]
        for label in LABELS
    ]
    place = [
        i
        for i, name in enumerate(names)
        if name in ("position_rel", "gap_below_mm", "gap_above_mm")
    ]
    return np.array(said), np.array(place, int)


# pattern of a feature's kind -> what it is; {0} is the label, {1} and {2} what the pattern caught
KINDS = {
    "": "logit of {0}",
    "spread": "spread of the CNNs' logits of {0}",
    "chain": "posterior logit of {0} by the chain model of its series",
    "probe": "logit of {0} by a linear probe of the embedding",
    "others_max": "largest logit of {0} in the patient's other studies",
    "others_top3": "largest top-3 mean of the logits of {0} in the patient's other studies",
    r"z-(\d+)": "logit of {0}, {1} below",
    r"z\+(\d+)": "logit of {0}, {1} above",
    r"dz-(\d+)": "logit of {0} less that {1} below",
    r"dz\+(\d+)": "logit of {0} less that {1} above",
    r"smooth([\d.e+-]+)mm": "logit of {0}, Gaussian mean of width {1} mm along z",
    "smooth_best": "logit of {0}, Gaussian mean of its own width along z",
    r"min(\d+)": "smallest logit of {0} within {1} on either side",
    r"max(\d+)": "largest logit of {0} within {1} on either side",
    "(below|above)_mean": "mean logit of {0} over all slices {1}",
    "(below|above)_std": "spread of the logit of {0} over all slices {1}",
    "study_max": "largest logit of {0} in the study",
    "study_mean": "mean logit of {0} over the study",
    "study_std": "spread of the logit of {0} over the study",
    "study_top3": "mean of the study's three largest logits of {0}",
    "study_share": "share of the study's slices whose probability of {0} is above one half",
    "peak_mm": "signed distance to the study's largest logit of {0}, mm",
    "peak_away_mm": "distance to the study's largest logit of {0}, mm",
    "peak_rel": "height of the study's largest logit of {0} in its series, 0 lowest slice, 1 highest",
}


def describe(name):
    """Return one line that says what the feature `name` is."""
    if name in METADATA:
        return METADATA[name]
    label, kind, model = _parts(name)
    caught, about = next(
        (found, about) for pattern, about in KINDS.items() if (found := re.fullmatch(pattern, kind))
    )
    words = [
        f"{word} slice{'s' * (word != '1')}" if word.isdigit() and "mm" not in kind else word
        for word in caught.groups()
    ]
    end = f", of {model}" if model else ", mean over the CNNs"
    if kind not in ("", "probe") or (model and not kind):
        label, end = label + f" by {model}" * bool(model), ""
    if kind == "smooth_best":
        end = f" ({BEST_MM[label]:g} mm)"
    return about.format(label, *words) + end
