"""Joins the feature families into one float32 matrix with one fixed column order."""

import numpy as np

from ct.labels import LABELS
from ct.slices import check_table
from features.geometry import GEOMETRY, geometry_features
from features.neighbours import neighbour_features, smooth_features
from features.study import STUDY_KINDS, study_features

SCOPES = {  # what a stacker may look at; little data does better with less
    "context": "the logits of the label itself and of `any`: of the slice, its neighbours and their Gaussian means",
    "study": "these, the study's summaries of both, and the geometry",
    "all": "every feature, those of the other labels, too",
}


def to_logits(probs, clip):
    """Return the logits of probabilities in [0, 1], float32, clipped at `clip` from 0 and 1; NaN stays NaN."""
    p = np.clip(np.asarray(probs, np.float64), clip, 1 - clip)
    return np.log(p / (1 - p)).astype(np.float32)


def mean_logits(predictions, clip):
    """Return the mean over models of the logits, float32 (n, 6). predictions: {model: (n, 6) probabilities, NaN if unknown}"""
    return np.mean([to_logits(p, clip) for p in predictions.values()], axis=0, dtype=np.float32)


def build_features(slices, predictions, config):
    """Build stage two's matrix from stage one's opinions and the slice table.

    slices:      (n rows) slice table, sorted by study, series and place
    predictions: {model name: (n, 6) probabilities in [0, 1], columns LABELS, NaN where the slice was not readable}
    config:      FeatureConfig

    Returns X (n, f) float32 and the f names, in an order that depends on the config and the models' names alone.
    Raises ValueError where the table is not sorted or a series is not whole: neighbours would cross series.
    """
    check_table(slices)
    logits = {model: to_logits(p, config.clip) for model, p in predictions.items()}
    mean = np.mean(list(logits.values()), axis=0, dtype=np.float32)
    parts = [(mean, list(LABELS))]
    if len(logits) > 1:
        parts += [(own, [f"{label}_by_{model}" for label in LABELS]) for model, own in logits.items()]
        parts.append((np.std(list(logits.values()), axis=0, dtype=np.float32), [f"{label}_spread" for label in LABELS]))
    parts.append(neighbour_features(slices, mean, LABELS, config.reach))
    parts.append(smooth_features(slices, mean, LABELS, config.smooth_mm))
    if config.study:
        parts.append(study_features(slices, mean, LABELS))
    if config.geometry:
        parts.append(geometry_features(slices))
    names = [name for _, part in parts for name in part]
    return np.concatenate([columns for columns, _ in parts], axis=1, dtype=np.float32), names


def scope_columns(names, label, scope):
    """Return the column numbers of the features that the stacker of `label` looks at, int array, in the order of `names`."""
    if scope == "all":
        return np.arange(len(names))
    own = [i for i, name in enumerate(names) if name.partition("_")[0] in (label, "any") and name not in GEOMETRY]
    if scope == "study":
        return np.array(sorted(own + [i for i, name in enumerate(names) if name in GEOMETRY]))
    return np.array([i for i in own if not names[i].endswith(STUDY_KINDS)])


def describe(name):
    """Return one line that says what the feature `name` is."""
    if name in GEOMETRY:
        return GEOMETRY[name]
    label, _, rest = name.partition("_")
    if rest == "":
        return f"logit of {label}, mean over the CNNs"
    if rest.startswith("z"):
        step = int(rest[1:])
        return f"logit of {label}, {abs(step)} slice{'s' * (abs(step) > 1)} {'above' if step > 0 else 'below'}"
    if rest.startswith("smooth"):
        return f"logit of {label}, Gaussian mean of width {rest[6:-2]} mm along z"
    known = {
        "spread": f"spread of the CNNs' logits of {label}",
        "study_max": f"largest logit of {label} in the study",
        "study_mean": f"mean logit of {label} over the study",
        "study_std": f"spread of the logit of {label} over the study",
        "study_top3": f"mean of the study's three largest logits of {label}",
        "peak_mm": f"signed distance to the study's largest logit of {label}, mm",
    }
    return known.get(rest, f"logit of {label} by {rest.removeprefix('by_')}")
