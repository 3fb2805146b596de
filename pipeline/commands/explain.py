"""The verb `explain`: Grad-CAM maps of chosen studies, each slice's from the CNN that never saw its
patient.
"""

import time

import numpy as np
from safetensors.torch import load_file

from ct.errors import InputError
from ct.storage.file_formats import write_array, write_json
from ct.storage.sealed_files import is_whole, seal
from pipeline.options import RunOptions
from pipeline.run_lock import check_fresh, opened
from pipeline.training.stage_one_inputs import StageOneInputs
from report import shown_studies
from stage1_cnn.gradcam import find_layer, gradcam_maps, scaled, to_bytes
from stage1_cnn.model import load_model


def explain(options):
    """Write Grad-CAM maps of some studies."""
    with opened(RunOptions(run=options.run)) as run:
        check_fresh(run, "explain", ("ingest", "folds", "train"))

        start = time.perf_counter()
        print("explain:")
        explain_studies(run, options.studies.split(",") if options.studies else None, options.model)
        print(f"  made in {time.perf_counter() - start:.1f} s; `report` shows it")


def explain_studies(run, studies, name):
    """Write stage1/<model>/explain/<study>.npy and .json of studies that lack them.

    studies: study ids, or None for those that the report shows; name: of a CNN, or None for all of
    them Raises InputError for a study or CNN that the run does not have.
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
    if strange := [study for study in studies if study not in known]:
        raise InputError(
            f"--studies={strange[0]}: the run has no such study; slices.parquet lists them in study_id"
        )
    for model in names if name is None else [name]:
        lacking = [
            study
            for study in studies
            if not all(is_whole(path) for path in run.dir.gradcam_maps(model, study))
        ]
        explain_model(inputs, model, lacking)
        run.log(f"  {model}: {len(lacking)} studies explained, {len(studies) - len(lacking)} kept")


def explain_model(inputs, name, studies):
    """Explain the slices of studies by one CNN: train by the CNN of their own fold, test by the
    mean over the folds.
    """
    run, config = inputs.run, inputs.config(name)
    rows = {study: np.flatnonzero(inputs.slices["study_id"] == study) for study in studies}
    models = [
        load_model(config, load_file(run.dir.fold(name, k) / "weights.safetensors"))
        for k in range(run.recipe.folds.k)
    ]
    layer = find_layer(models[0], config, inputs.cache.size)[0]
    with run.bar(sum(len(each) for each in rows.values()), f"{name} Grad-CAM", "slice") as bar:
        for study, numbers in rows.items():
            chosen = folds_of(inputs.fold[numbers], len(models))
            maps = [_look(inputs, models[k], config, numbers) for k in chosen]
            facts, array = run.dir.gradcam_maps(name, study)
            write_array(array, to_bytes(np.mean(maps, axis=0)))
            seal(array)
            source = (
                f"the CNN of fold {chosen[0]}"
                if len(chosen) == 1
                else f"the mean of all {len(chosen)} folds' CNNs"
            )
            slices = list(inputs.slices.index[numbers])
            write_json(facts, {"slices": slices, "folds": chosen, "from": source, "layer": layer})
            seal(facts)
            bar.update(len(numbers))


def folds_of(fold, k):
    """Return the folds whose CNNs explain one study. fold: (n,) of its slices, -1 for a test
    patient who is not in train.

    Raises ValueError where the study's slices are of several folds.
    """
    found = set(fold.tolist())
    if len(found) != 1:
        raise ValueError(f"the slices of one study are in the folds {sorted(found)}")
    own = int(found.pop())
    return list(range(k)) if own < 0 else [own]


def _look(inputs, model, config, numbers):
    """Return the maps of one CNN, scaled so that each label's strongest place in the study is 1."""
    table_rows = inputs.neighbours(config.neighbours)[numbers]
    return scaled(
        gradcam_maps(model, table_rows, inputs.readable[numbers], inputs.cache.read, config)
    )
