"""The fitted models that `score` applies to new studies, taken from a finished run.

packed_model.py reads the same from the folder that `export-model` writes:

    model.json     format, versions it was made with, digest of every other file
    recipe.yaml    the recipe without paths
    stage2.json    feature names, blends, calibrations, Markov chains, ranges of the training data
    weights/<model>-fold<k>.safetensors, or <model>-all.safetensors with stage1.all_data, and that
                   of the distilled CNN
    boosters/<name>  probes.safetensors
    README.md  card.json    the model card: training data and scores
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.averaging import weight_array
from ct.checks.training_ranges import training_ranges
from ct.errors import InputError
from ct.labels import LABELS
from ct.metrics import KAGGLE_CLIP
from ct.patient_folds import fold_by_id
from ct.run_dir import ALL_DATA, ALL_FOLDS, RunDir, fit_names, fold_folder
from ct.storage.file_formats import read_arrays, read_json, read_table
from features.cnn_weights import equal_weights
from features.linear_probe import PARTS, LinearProbe
from features.markov import MarkovChain
from pipeline.receipt import versions
from pipeline.recipe import Recipe
from pipeline.run_context import Run
from pipeline.scoring.run_operating_points import points_of_run
from pipeline.stage_data.run_tables import training_prior
from stage2_stack.blending import read_blend
from stage2_stack.calibration import Platt
from stage2_stack.fold_stacker import FoldStacker
from stage2_stack.study_level import fit_studies

STAGES = ("ingest", "folds", "train", "features", "tune", "stack")  # a model is made of their files


@dataclass(frozen=True)
class ScoringModel:
    """The fitted models of a run.

    recipe:   the recipe of the run
    stage2:   plain values, as returned by `stage_two_values`
    weights:  (CNN, fold or ALL_DATA) -> file of its weights
    boosters: file name -> file of a model of stage two
    probes:   file of the linear probes, None where the recipe has none
    versions: package -> version the model was made with
    fast:     whether the distilled CNN predicts new patients in place of the others

    A packed model lacks the rest, and an older run lacks the last two:

    key:             of the run's pseudonyms
    patients:        `fold` and `part` of each training patient, indexed by pseudonym
    held_out_chains: label -> values of the Markov chain fitted without each fold
    held_out_weights: {CNN: {label: weight}} fitted without each fold
    """

    recipe: Recipe
    stage2: dict[str, Any]
    weights: Mapping[tuple[str, int], Path]
    boosters: Mapping[str, Path]
    probes: Path | None
    versions: Mapping[str, str]
    fast: bool = False
    key: bytes | None = None
    patients: pd.DataFrame | None = None
    held_out_chains: Mapping[str, list[dict[str, float]]] | None = None
    held_out_weights: Sequence[Mapping[str, Mapping[str, float]]] | None = None

    def stacker(self, k: int) -> FoldStacker:
        """Return the stacker of fold k."""
        of_fold = [path for name, path in self.boosters.items() if f"-fold{k}-" in name]
        return FoldStacker(
            k,
            {label: read_blend(self.stage2["blend"][label][k]) for label in LABELS},
            {label: Platt(**self.stage2["calibration"][label][k]) for label in LABELS},
            {path.name: path.read_bytes() for path in of_fold},
            self.recipe.stage2,
        )

    def cnn_weights(self) -> NDArray[np.float64]:
        """Return the weights of c CNNs, (K + 1, c, 6), as returned by `cross_fit_weights`.

        A packed model has only the weights of all folds, which then replace the others. A model of
        a recipe with equal weights, and one of an older version, has none: they are equal.
        """
        cnns = [config.name for config in self.recipe.stage1.models]
        fits = len(self.held_out_weights or range(self.recipe.folds.k)) + 1
        of_all = self.stage2.get("cnn_weights")
        if of_all is None:
            return equal_weights(len(cnns), fits - 1)
        held_out = self.held_out_weights or [of_all] * (fits - 1)
        return weight_array([*held_out, of_all], cnns)

    def chains(self) -> list[list[MarkovChain]]:
        """Return K + 1 lists of one MarkovChain per label: K fitted without a fold, one with all.

        A packed model and an older run have only the chains of all folds, which then replace the
        others.
        """
        k_folds, all_folds = self.recipe.folds.k, self.stage2["chain"]
        held_out = self.held_out_chains or {label: [all_folds[label]] * k_folds for label in LABELS}
        without_fold = [{label: held_out[label][k] for label in LABELS} for k in range(k_folds)]
        return [
            [MarkovChain.from_json(values[label]) for label in LABELS]
            for values in (*without_fold, all_folds)
        ]

    def probe(self, name: str, k: int) -> tuple[LinearProbe, list[LinearProbe]]:
        """Return (probe, parts) of one CNN of fold k.

        probe: fitted on all patients; parts: fitted without each part of the patients, [] in a
        packed model and in an older run
        """
        if self.probes is None:
            raise ValueError("the model has no probes")
        arrays, fields = read_arrays(self.probes), ("centre", "weights", "intercept")
        start = f"{name}.fold{k}."
        count = sum(f"{start}part{j}.centre" in arrays for j in range(PARTS))
        prefixes = [start, *(f"{start}part{j}." for j in range(count))]
        probe, *parts = (
            LinearProbe(*(arrays[prefix + field] for field in fields)) for prefix in prefixes
        )
        return probe, parts

    def study_calibrations(self) -> dict[str, Platt]:
        """Return the calibration of whole studies, {label: Platt}."""
        return {label: Platt(**values) for label, values in self.stage2["studies"].items()}


def model_of_run(run: Run) -> ScoringModel:
    """Return the models of a finished run.

    Raises InputError where the run has no CNNs of its own, or where a file is missing.
    """
    recipe, folder = run.recipe, run.dir
    if recipe.stage1.imports:
        raise InputError(
            f"{folder.root} stacks imported predictions ({', '.join(recipe.stage1.imports)}); "
            "their models are not in the run, so it cannot score new slices; "
            "remove them (`import-predictions --remove`) and run `all`"
        )
    if not recipe.stage1.models:
        raise InputError(f"{folder.root} has no CNNs; new slices cannot be scored without them")
    if recipe.features.probe and not folder.probes.is_file():
        raise InputError(
            f"{folder.probes} is not there; remove {folder.receipt('features')} and run `all`"
        )
    slices, fold = read_table(folder.slices), read_table(folder.folds)["fold"]
    train = slices[slices["split"] == "train"]
    fitted = _fitted(recipe, recipe.trained_folds())
    stage2 = stage_two_values(run, train, fold.reindex(train.index).to_numpy())
    return ScoringModel(
        recipe=recipe,
        stage2=json.loads(json.dumps(stage2)),
        weights={(name, k): folder.fold(name, k) / "weights.safetensors" for name, k in fitted},
        boosters={path.name: path for path in sorted((folder.stage2 / "boosters").iterdir())},
        probes=folder.probes if recipe.features.probe else None,
        versions=read_json(folder.receipt("stack"))["versions"],
        key=run.pseudonym_key(),
        patients=_training_patients(folder, train["patient_id"], fold),
        held_out_chains=_held_out_chains(run),
        held_out_weights=_held_out_weights(run),
    )


def packed_folds(recipe: Recipe) -> list[int]:
    """Return the folds whose CNNs a packed model holds: ALL_DATA alone where there is such a CNN.

    A packed model scores new patients only, for whom it replaces those of the folds.
    """
    return [ALL_DATA] if recipe.stage1.all_data else recipe.trained_folds()


def packed_weights(recipe: Recipe) -> list[tuple[str, int]]:
    """Return (CNN, fold or ALL_DATA) of all weights of a packed model, the distilled CNN last."""
    return _fitted(recipe, packed_folds(recipe))


def _fitted(recipe: Recipe, folds: list[int]) -> list[tuple[str, int]]:
    distilled = recipe.stage1.distilled
    last = [(distilled.name, ALL_DATA)] if distilled else []
    return [*((config.name, k) for config in recipe.stage1.fits() for k in folds), *last]


def with_distilled(model: ScoringModel, fast: bool) -> ScoringModel:
    """Return the model; where `fast`, one that predicts new patients with its distilled CNN alone.

    Raises InputError where it has no such CNN.
    """
    if fast and model.recipe.stage1.distilled is None:
        raise InputError(
            f"--fast: the recipe {model.recipe.name} has no distilled CNN; set stage1.distilled in "
            "the run's recipe.yaml and run `all` (then pack it again), or leave out --fast"
        )
    return replace(model, fast=fast)


def weights_name(cnn: str, k: int) -> str:
    """Return the name of a CNN's weights in a packed model."""
    return f"{cnn}-{fold_folder(k)}.safetensors"


def _training_patients(folder: RunDir, patients: pd.Series, fold: pd.Series) -> pd.DataFrame:
    """Return `fold` and `part` of each training patient, indexed by patient.

    An older run has no parts: -1, the probe of all patients.
    """
    table = fold_by_id(patients, fold).rename("fold").to_frame()
    part = (
        read_table(folder.patient_parts)["part"].reindex(table.index)
        if folder.patient_parts.exists()
        else -1
    )
    return table.assign(part=part)


def _held_out_chains(run: Run) -> dict[str, list[dict[str, float]]] | None:
    """Return {label: values of the MarkovChain without each fold}.

    None without Markov chains, and for an older run, which applied the chains of all folds.
    """
    if not run.recipe.features.chain or not run.dir.patient_parts.exists():
        return None
    values = read_json(run.dir.markov_chains)
    return {
        label: [values[label][f"without fold {k}"] for k in range(run.recipe.folds.k)]
        for label in LABELS
    }


def _held_out_weights(run: Run) -> list[dict[str, dict[str, float]]] | None:
    """Return {CNN: {label: weight}} without each fold; None where weights are equal."""
    if run.recipe.features.cnn_weights == "equal":
        return None
    values = read_json(run.dir.cnn_weights)
    return [values[fit] for fit in fit_names(run.recipe.folds.k)[:-1]]


def stage_two_values(run: Run, train: pd.DataFrame, fold: NDArray[np.integer]) -> dict[str, Any]:
    """Return the values of stage two that are neither boosters nor probes: stage2.json.

    train: slice table; fold: (n,) of its rows
    """
    folder, fitted = run.dir.stage2, {}
    for name in ("blend", "calibration"):
        fitted[name] = read_json(folder / f"{name}.json")
    if run.recipe.features.chain:
        fitted["chain"] = {
            label: chains[ALL_FOLDS] for label, chains in read_json(run.dir.markov_chains).items()
        }
    if run.recipe.features.cnn_weights == "fitted":
        fitted["cnn_weights"] = read_json(run.dir.cnn_weights)[ALL_FOLDS]
    calibrations, studies = study_calibration_of_run(run, train, fold)
    return {
        "names": list(read_json(folder / "features" / "names.json")),
        **fitted,
        "studies": {label: platt._asdict() for label, platt in calibrations.items()},
        "prior": training_prior(run.dir),
        "training": training_ranges(train),
        "operating_points": points_of_run(run, train, studies),
    }


def final_clip(recipe: Recipe) -> float:
    """Return how far final probabilities are clipped from 0 and 1 before their logit is taken."""
    return recipe.features.clip if recipe.stage1.clipped else KAGGLE_CLIP


def study_calibration_of_run(
    run: Run, train: pd.DataFrame, fold: NDArray[np.integer]
) -> tuple[dict[str, Platt], pd.DataFrame]:
    """Return `fit_studies` of a run's out-of-fold probabilities.

    train: slice table; fold: (n,) of its rows
    """
    oof = read_table(run.dir.stage2 / "oof.parquet").reindex(train.index)[list(LABELS)].to_numpy()
    y = train[list(LABELS)].to_numpy(np.float64)
    studies = train["study_id"].to_numpy(object)
    by_patient = run.recipe.stage2.calibrate_by == "patient"
    patients = train["patient_id"].to_numpy(object) if by_patient else None
    clipped = run.recipe.stage1.clipped
    return fit_studies(studies, oof, y, fold, final_clip(run.recipe), clipped, patients)


def other_versions(model: ScoringModel) -> str:
    """Return a line on the packages whose version is not the one the model was made with, or ""."""
    here = versions()
    differing = [
        f"{name} {version} (here {here.get(name)})"
        for name, version in model.versions.items()
        if here.get(name) != version
    ]
    return f"made with {', '.join(differing)}: the last digits may differ" if differing else ""
