"""The file of a component of stage two that is fitted: its FittedComponents, as safetensors.

The models are in it as their bytes: a blend decides later which of them the run keeps.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ct.storage.file_formats import read_arrays, write_arrays
from stage2_stack.nested_cv import FittedComponent, NestedPredictions

Fits = Mapping[str, FittedComponent]  # by label; {} where the component has nothing to predict


def write_fits(path: Path, fits: Fits) -> None:
    """Write the fits of one label or, of a joint component, of all its labels."""
    arrays: dict[str, NDArray[Any]] = {}
    for label, fitted in fits.items():
        arrays[f"{label}/nested"] = fitted.predictions.nested
        arrays[f"{label}/oof"] = fitted.predictions.oof
        for k, values in fitted.gain.items():
            arrays[f"{label}/gain/{k}"] = values
        for k, values in fitted.contributions.items():
            arrays[f"{label}/contributions/{k}"] = values
        for k, rounds in fitted.rounds.items():  # the same for all labels of a joint component
            arrays[f"rounds/{k}"] = np.array([rounds])
    for k, models in models_of(fits).items():
        for seed, raw in enumerate(models):
            arrays[f"model/{k}/{seed}"] = np.frombuffer(raw, np.uint8)
    write_arrays(path, arrays)


def models_of(fits: Fits) -> dict[int, list[bytes]]:
    """Return {fold: its final models, one a seed}; a joint component's serve all labels."""
    return next((fitted.files for fitted in fits.values()), {})


def read_fits(path: Path) -> dict[str, FittedComponent]:
    """Read what `write_fits` wrote, exactly."""
    arrays = read_arrays(path)
    labels = [name.removesuffix("/oof") for name in arrays if name.endswith("/oof")]
    rounds = {k: int(values[0]) for k, values in _by_fold(arrays, "rounds/").items()}
    files = {
        k: [arrays[f"model/{k}/{seed}"].tobytes() for seed in range(_seeds(arrays, k))]
        for k in rounds
    }
    return {
        label: FittedComponent(
            NestedPredictions(arrays[f"{label}/nested"], arrays[f"{label}/oof"]),
            files,
            rounds,
            _by_fold(arrays, f"{label}/gain/"),
            _by_fold(arrays, f"{label}/contributions/"),
        )
        for label in labels
    }


def _by_fold(arrays: Mapping[str, NDArray[Any]], start: str) -> dict[int, NDArray[Any]]:
    """Return {fold: array} of the names that begin with `start`, folds in rising order."""
    folds = [int(name.removeprefix(start)) for name in arrays if name.startswith(start)]
    return {k: arrays[f"{start}{k}"] for k in sorted(folds)}


def _seeds(arrays: Mapping[str, NDArray[Any]], k: int) -> int:
    return sum(name.startswith(f"model/{k}/") for name in arrays)
