"""The verb `new`: make a run folder from a recipe and a data source."""

import os
import secrets
from pathlib import Path
from typing import Any

from ct.errors import InputError
from ct.run_dir import RunDir
from pipeline.checked_options import NewOptions
from pipeline.command_line.printed_commands import run_command
from pipeline.recipe import Recipe, find_recipe, load_recipe, save_recipe, with_changes
from pipeline.run_context import KEY_BYTES
from stage1_cnn.config import CnnConfig
from stage2_stack.config import check_installed


def new(options: NewOptions) -> None:
    """Check the recipe, the data and the models, and make the run folder."""
    run = RunDir(options.run)
    _check_unused(run, options.run)
    recipe = _with_options(load_recipe(find_recipe(options.recipe)), options)
    check_installed(recipe.stage2.components)
    check_trial_store(recipe)
    recipe = _check_models(_check_source(_with_format(recipe, options.format)))
    run.root.mkdir(parents=True, exist_ok=True)
    run.key.touch(mode=0o600)  # private before the key is in it
    run.key.write_bytes(secrets.token_bytes(KEY_BYTES))
    save_recipe(run.recipe, recipe)
    data = options.data or options.slices
    print(f"new: {options.run} with the recipe {recipe.name}, data in {data}")
    if recipe.stage1.models:
        command = run_command("all", run=options.run)
    else:
        command = run_command("import-predictions", run=options.run, name="NAME", oof="FILE")
    print(f"  next: {command}")


def _check_unused(run: RunDir, typed: str) -> None:
    """Raise InputError where the run folder exists, but for what a killed `new` leaves in it."""
    if not run.root.exists():
        return
    unfinished = {run.key.name, run.recipe.name + ".part"}
    if not run.root.is_dir() or any(path.name not in unfinished for path in run.root.iterdir()):
        raise InputError(
            f"--run={typed} is there already; continue it with `all`, or name a new folder"
        )


def _with_options(recipe: Recipe, options: NewOptions) -> Recipe:
    """Return the recipe with the options that the user gave; paths become absolute."""
    changes = {
        "data.source": _absolute(options.data),
        "data.format": options.format,
        "data.labels": _absolute(options.labels),
        "data.sample": _absolute(options.sample),
        "data.slices": _absolute(options.slices),
        "data.train_slices": options.train_slices,
        "data.series": options.series,
        "data.allow_unlabelled": options.allow_unlabelled,
        "data.missing": options.missing,
        "seed": options.seed,
    }
    typed = {name: value for name, value in changes.items() if value is not None}
    return with_changes(recipe, typed)


def _with_format(recipe: Recipe, typed: str | None) -> Recipe:
    """Return the recipe with the format of its data and the path of a public data set's labels.

    typed: the flag --format. Data with labels, but no sample and no test set in Kaggle's layout,
    are studies of the user's own. Raises InputError where they have no labels.
    """
    from ct.kaggle_layout import NoCompetition, find_folders
    from ct.label_tables.public_data import LABEL_FILES

    data = recipe.data
    if data.slices:
        return recipe
    layout = data.format
    if layout == "kaggle" and data.labels and not data.sample and typed is None:
        try:
            find_folders(data.source)
        except NoCompetition:
            layout = "own"
    if layout == "kaggle":
        return recipe
    if data.sample:
        raise InputError("--sample is for Kaggle's layout; studies of your own have no test set")
    labels = data.labels
    if labels is None and layout in LABEL_FILES:
        labels = os.path.join(data.source, LABEL_FILES[layout])
    if labels is None:
        raise InputError("studies of your own need --labels=FILE, a table of labels by slice")
    return with_changes(recipe, {"data.format": layout, "data.labels": labels})


def _check_own_studies(recipe: Recipe) -> None:
    """Check the label table of studies of the user's own.

    Raises InputError where it is faulty, or has labels of studies alone.
    """
    from ct.label_tables.own_labels import names_slices
    from ct.label_tables.public_data import (
        STUDY_LABELS,
        read_label_table,
        warning_of_competition,
    )
    from ct.sources.own_files import find_own_studies

    data = recipe.data
    found = find_own_studies(data.source, data.labels or "")
    if warning := warning_of_competition([data.source, data.labels, *found.source.folders()]):
        print(f"new: {warning}")
    table = read_label_table(found.labels_csv, data.format, recipe.labels.given())
    if data.format in STUDY_LABELS or not names_slices(table):
        raise InputError(
            f"--labels={data.labels} has labels of studies, not of slices: they serve to "
            "`evaluate`, not to train"
        )


def _check_source(recipe: Recipe) -> Recipe:
    """Check the recipe's data. Returns the recipe with the number of folds of its slice list."""
    from ct.kaggle_layout import find_competition, hidden_folders, require_csv
    from ct.submission import read_sample
    from ct.tables.slice_list import read_slice_list

    data = recipe.data
    if data.format != "kaggle" and not data.slices:
        _check_own_studies(recipe)
        return recipe
    if not data.slices:
        with hidden_folders(data.source):
            read_sample(find_competition(data.source, data.labels, data.sample).sample_csv)
        return recipe
    if data.sample:
        read_sample(require_csv(data.sample, "sample"))
    slices = read_slice_list(data.slices, b"")  # the key does not matter: no name is kept
    if "fold" not in slices:
        return recipe
    return with_changes(recipe, {"folds.k": int(slices["fold"].max()) + 1})


def check_trial_store(recipe: Recipe) -> None:
    """Open the recipe's database of trials, if it has one. Raises InputError where that fails."""
    if recipe.stage2.storage:
        from pipeline.optuna_studies.trial_database import check_store

        check_store(recipe.stage2.storage)


def _check_models(recipe: Recipe) -> Recipe:
    """Check the backbones and local weights. Returns the recipe with absolute paths of weights."""
    if not recipe.stage1.models:
        return recipe
    from pipeline.training.tensorboard import check_tensorboard
    from stage1_cnn.backbones.timm_models import check_backbone
    from stage1_cnn.model import check_trainable

    check_tensorboard(recipe.stage1.tensorboard)
    stage1, changes = recipe.stage1, dict[str, Any]()
    for config in (*stage1.models, *([stage1.distilled] if stage1.distilled else [])):
        check_backbone(config.backbone)
        config = _with_absolute_path(config)
        check_trainable(config, recipe.pixels.size)
        values = config.model_dump(mode="json")
        if config.name in [model.name for model in stage1.models]:
            changes.setdefault("stage1.models", []).append(values)
        else:
            changes["stage1.distilled"] = values
    return with_changes(recipe, changes)


def _with_absolute_path(config: CnnConfig) -> CnnConfig:
    """Return the CNN with the absolute path of its weights. Raises InputError without the file."""
    if not config.weights_file:
        return config
    path = os.path.abspath(os.path.expanduser(config.weights_file))
    if not Path(path).is_file():
        raise InputError(
            f"stage1 model {config.name}: pretrained = {config.pretrained!r} is not a file"
        )
    return config.model_copy(update={"pretrained": path})


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(os.path.expanduser(path))
