"""Joins the feature families into one float32 matrix with one fixed column order."""

import numpy as np
import pandas as pd

from ct.ensemble import to_logits
from ct.labels import LABELS
from ct.slices import check_table
from features.geometry import SWITCHES, geometry_features, source_columns
from features.neighbours import (
    best_smooth_features,
    difference_features,
    neighbour_features,
    smooth_features,
)
from features.rolling_windows import rolling_features, sided_features
from features.series import study_starts
from features.study import OTHER_KINDS, other_study_features, study_features

# columns that every family may read
PLACES = ("study_id", "split", "place", "series_slices", "position_mm")
# rows that are built at once, about: so much of a family fits into the processor's cache
BLOCK = 16_384


def build_features(slices, predictions, config, markov_logits=None, probe_logits=None, out=None):
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
    said = logits_by_source(slices, predictions, config, markov_logits, probe_logits)
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
    said = logits_by_source(
        table, each, config, none if config.chain else None, each if config.probe else None
    )
    return [name for _, names in _families(_places(table, config), said, config) for name in names]


def logits_by_source(slices, predictions, config, markov_logits, probe_logits):
    """Return {end of the names: (n, 6) float32, each column in one piece} of what is said of each
    slice; "": the mean.
    """
    if (markov_logits is not None, probe_logits is not None) != (config.chain, config.probe):
        raise ValueError(
            f"the config says chain: {config.chain}, probe: {config.probe}; give just those columns"
        )
    if probe_logits is not None and list(probe_logits) != list(predictions):
        raise ValueError(
            f"probes of {', '.join(probe_logits)} with opinions of {', '.join(predictions)}; give both of each CNN"
        )
    logits = {model: to_logits(p, config.clip) for model, p in predictions.items()}
    said = {"": np.mean(list(logits.values()), axis=0, dtype=np.float32)}
    several = len(logits) > 1
    if several:
        said |= {f"_by_{model}": own for model, own in logits.items()}
        said["_spread"] = np.std(list(logits.values()), axis=0, dtype=np.float32)
    if config.chain:
        said["_chain"] = markov_logits
    if config.probe:
        said["_probe"] = np.mean(list(probe_logits.values()), axis=0, dtype=np.float32)
        said |= {f"_probe_by_{model}": own for model, own in probe_logits.items() if several}
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
