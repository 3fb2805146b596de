"""The verb `explain`: Grad-CAM maps of studies, by CNNs that were not trained on the patient."""

import time
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

from ct.errors import InputError, number_of
from ct.storage.file_formats import write_array, write_json
from ct.storage.sealed_files import is_whole, seal
from pipeline.checked_options import ExplainOptions, RunOptions
from pipeline.run_context import Run
from pipeline.run_lock import check_fresh, opened
from pipeline.training.stage_one_inputs import StageOneInputs
from report import shown_studies
from stage1_cnn.config import CnnConfig
from stage1_cnn.gradcam import find_layer, gradcam_maps, scaled, to_bytes
from stage1_cnn.model import Cnn, load_model


def explain(options: ExplainOptions) -> None:
    """Write Grad-CAM maps of some studies."""
    with opened(RunOptions(run=options.run)) as run:
        check_fresh(run, "explain", ("ingest", "folds", "train"))

        start = time.perf_counter()
        print("explain:")
        explain_studies(run, options.studies.split(",") if options.studies else None, options.model)
        print(f"  made in {time.perf_counter() - start:.1f} s; `report` shows the maps")


def explain_studies(run: Run, studies: Sequence[str] | None, name: str | None) -> None:
    """Write stage1/<model>/explain/<study>.npy and .json of studies that lack them.

    studies: study ids, or None for the studies in the report; name: of a CNN, or None for all CNNs.
    Raises InputError for a study or CNN that the run does not have.
    """
    names, inputs = [config.name for config in run.recipe.stage1.models], StageOneInputs(run)
    if not names:
        raise InputError(
            "explain: the recipe has no CNNs; imported predictions cannot be explained"
        )
    if name is not None and name not in names:
        raise InputError(f"--model={name}: the recipe has no such CNN; it has {', '.join(names)}")
    if studies is None:
        studies = shown_studies(run.dir, run.recipe.report.browser_slices)
    known = set(inputs.slices["study_id"])
    if unknown := [study for study in studies if study not in known]:
        raise InputError(
            f"--studies={unknown[0]}: the run has no such study; "
            "slices.parquet lists them in study_id"
        )
    for model in names if name is None else [name]:
        missing = []
        for study in studies:
            if not all(is_whole(path) for path in run.dir.gradcam_maps(model, study)):
                missing.append(study)
        explain_model(inputs, model, missing)
        explained = number_of(len(missing), "study")
        run.log(f"  {model}: {explained} explained, {len(studies) - len(missing)} kept")


def explain_model(inputs: StageOneInputs, name: str, studies: Iterable[str]) -> None:
    """Write the maps of studies by one CNN.

    A train study gets the map of the CNN of its fold, a test study the mean over the folds.
    """
    run, config = inputs.run, inputs.config(name)
    study_ids = inputs.slices["study_id"]
    rows = {study: np.flatnonzero(study_ids == study) for study in studies}
    models = []
    for k in range(run.recipe.folds.k):
        models.append(load_model(config, load_file(run.dir.fold(name, k) / "weights.safetensors")))
    layer = find_layer(models[0], config, inputs.cache.size)[0]
    with run.bar(sum(len(each) for each in rows.values()), f"{name} Grad-CAM", "slice") as bar:
        for study, numbers in rows.items():
            folds = folds_of(inputs.fold[numbers], len(models))
            maps = [_scaled_maps(inputs, models[k], config, numbers) for k in folds]
            facts_path, maps_path = run.dir.gradcam_maps(name, study)
            write_array(maps_path, to_bytes(np.mean(maps, axis=0)))
            seal(maps_path)
            source = f"the mean of all {len(folds)} folds' CNNs"
            if len(folds) == 1:
                source = f"the CNN of fold {folds[0]}"
            slices = list(inputs.slices.index[numbers])
            facts = {"slices": slices, "folds": folds, "from": source, "layer": layer}
            write_json(facts_path, facts)
            seal(facts_path)
            bar.update(len(numbers))


def folds_of(fold: NDArray[np.int8], k: int) -> list[int]:
    """Return the folds whose CNNs explain one study, of `k` folds.

    fold: (n,) of its slices, -1 for a test patient who is not in train. Raises ValueError where the
    slices are of several folds.
    """
    folds = sorted(set(fold.tolist()))
    if len(folds) != 1:
        raise ValueError(f"the slices of one study are in the folds {folds}")
    own = int(folds[0])
    return list(range(k)) if own < 0 else [own]


def _scaled_maps(
    inputs: StageOneInputs, model: Cnn, config: CnnConfig, numbers: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the maps (n, 6, h, w) of one CNN; each label's largest value in the study is 1."""
    table_rows = inputs.neighbours(config.neighbours)[numbers]
    return scaled(
        gradcam_maps(model, table_rows, inputs.readable[numbers], inputs.cache.read, config)
    )
