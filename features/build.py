"""Joins the feature families into one float32 matrix with one fixed column order."""

import re

import numpy as np
import pandas as pd

from ct.ensemble import to_logits
from ct.labels import LABELS
from ct.slices import check_table
from features.geometry import METADATA, SWITCHES, geometry_features, source_columns
from features.neighbours import (
    BEST_MM,
    best_smooth_features,
    difference_features,
    neighbour_features,
    smooth_features,
)
from features.ranges import SIDED_KINDS, rolling_features, sided_features
from features.series import study_starts
from features.study import OTHER_KINDS, STUDY_KINDS, other_study_features, study_features

SCOPES = {  # what a stacker may look at; little data does better with less
    "context": "the logits of the label itself and of `any`: of the slice, its neighbours and their Gaussian means",
    "study": "these, the summaries of both over all below, all above and the study, and the geometry",
    "all": "every feature, those of the other labels, too",
}
# columns that every family may read
PLACES = ("study_id", "split", "place", "series_slices", "position_mm")
# rows that are built at once, about: so much of a family fits into the processor's cache
BLOCK = 16_384


def build_features(slices, predictions, config, chain=None, probes=None, out=None):
    """Build stage two's matrix from stage one's opinions and the slice table.

    slices:      (n rows) slice table, sorted by study, series and place predictions: {model name:
    (n, 6) probabilities in [0, 1], columns LABELS, NaN where the slice was not readable} config:
    FeatureConfig chain:       (n, 6) logits by features/markov.py, where config.chain probes:
    {model name: (n, 6) logits by features/linear_probe.py}, where config.probe out:         float32
    (n, f) to write to, such as a memory map; None: a new array

    Returns X (n, f) float32, each column in one piece of memory unless `out` is otherwise (LightGBM
    takes both alike), and the f names, in an order that depends on the config and the models' names
    alone. Labels and folds reach X through `chain` and `probes` alone. Raises ValueError where the
    table is not sorted or a series is not whole (neighbours would cross series), or where the
    config wants columns that were not given, or does not want those that were.
    """
    check_table(slices)
    said = _opinions(slices, predictions, config, chain, probes)
    names, places = feature_names(predictions, config), _places(slices, config)
    X = np.empty((len(names), len(slices)), np.float32).T if out is None else out
    if X.shape != (len(slices), len(names)) or X.dtype != np.float32:
        raise ValueError(
            f"out is {X.dtype} {X.shape}, the features are float32 {(len(slices), len(names))}"
        )

    for rows in _blocks(places):
        here, heard = (
            {name: values[rows] for name, values in columns.items()} for columns in (places, said)
        )
        end = 0
        for part, _ in _families(here, heard, config):
            start, end = end, end + part.shape[1]
            X[rows, start:end] = part
    return X, names


def feature_names(models, config):
    """Return the names of the features of the opinions of `models`, in their order: those the
    families give no rows at all.
    """
    none = np.empty((0, len(LABELS)), np.float32)
    each = dict.fromkeys(models, none)
    table = pd.DataFrame({name: np.empty(0) for name in [*PLACES, "patient_id", *_columns(config)]})
    said = _opinions(
        table, each, config, none if config.chain else None, each if config.probe else None
    )
    return [name for _, names in _families(_places(table, config), said, config) for name in names]


def _opinions(slices, predictions, config, chain, probes):
    """Return {end of the names: (n, 6) float32, each column in one piece} of what is said of each
    slice; "": the mean.
    """
    if (chain is not None, probes is not None) != (config.chain, config.probe):
        raise ValueError(
            f"the config says chain: {config.chain}, probe: {config.probe}; give just those columns"
        )
    if probes is not None and list(probes) != list(predictions):
        raise ValueError(
            f"probes of {', '.join(probes)} with opinions of {', '.join(predictions)}; give both of each CNN"
        )
    logits = {model: to_logits(p, config.clip) for model, p in predictions.items()}
    said = {"": np.mean(list(logits.values()), axis=0, dtype=np.float32)}
    several = len(logits) > 1
    if several:
        said |= {f"_by_{model}": own for model, own in logits.items()}
        said["_spread"] = np.std(list(logits.values()), axis=0, dtype=np.float32)
    if config.chain:
        said["_chain"] = chain
    if config.probe:
        said["_probe"] = np.mean(list(probes.values()), axis=0, dtype=np.float32)
        said |= {f"_probe_by_{model}": own for model, own in probes.items() if several}
    if config.other_studies:  # reaches further than the blocks that the other families are built in
        others, _ = other_study_features(slices, said[""], LABELS)
        said |= {
            f"_{kind}": others[:, i * len(LABELS) :][:, : len(LABELS)]
            for i, kind in enumerate(OTHER_KINDS)
        }
    return {kind: np.asfortranarray(values, np.float32) for kind, values in said.items()}


def _families(slices, said, config):
    """Yield (columns, names) of each family, in their order; all stay inside a study."""
    mean = said[""]
    for kind, logits in said.items():
        yield logits, [f"{label}{kind}" for label in LABELS]
    yield neighbour_features(slices, mean, LABELS, config.reach)
    for kind, logits in said.items():
        if kind.startswith("_by_"):
            yield neighbour_features(slices, logits, LABELS, config.model_reach, kind)
    yield difference_features(slices, mean, LABELS, config.difference_reach)
    yield smooth_features(slices, mean, LABELS, config.smooth_mm)
    if config.smooth_best:
        yield best_smooth_features(slices, mean, LABELS)
    yield rolling_features(slices, mean, LABELS, config.rolling)
    if config.cumulative:
        yield sided_features(slices, mean, LABELS)
    if config.study:
        yield study_features(slices, mean, LABELS)
    yield geometry_features(slices, _switched_on(config))


def _places(slices, config):
    """Return {name: (n,) numbers} of all that the families read of the slice table; ids become the
    number of their study.
    """
    starts = study_starts(slices)
    study = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(slices))))
    places = {
        "study_id": study,
        "split": np.zeros(len(slices), np.int8),
        **{name: slices[name] for name in PLACES[2:]},
    }
    places |= {
        name: slices[name].astype(np.float32) for name in _columns(config) if name not in places
    }
    return {name: np.asarray(values) for name, values in places.items()}


def _columns(config):
    return source_columns(_switched_on(config))


def _switched_on(config):
    return [switch for switch in SWITCHES if getattr(config, switch)]


def _blocks(places):
    """Return slices (Python's) of about BLOCK rows of whole studies."""
    rows = len(places["place"])
    starts = np.append(study_starts(places), rows)
    bounds = np.unique(starts[np.searchsorted(starts, np.append(np.arange(0, rows, BLOCK), rows))])
    return [slice(start, end) for start, end in zip(bounds[:-1], bounds[1:], strict=True)]


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
