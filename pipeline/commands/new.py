"""The verb `new`: make a run folder from a recipe and a data source."""

import os
import secrets
from pathlib import Path

from ct.errors import InputError
from ct.run_dir import RunDir
from pipeline.command_line.printed_commands import run_command
from pipeline.recipe import find_recipe, load_recipe, save_recipe, with_changes
from pipeline.run_context import KEY_BYTES
from stage2_stack.config import check_installed


def new(options):
    """Make a run folder from a recipe and a data source."""
    run = RunDir(options.run)
    # what a killed `new` may leave; nothing depends on it yet
    unfinished = {run.key.name, run.recipe.name + ".part"}
    if run.root.exists() and (
        not run.root.is_dir() or any(path.name not in unfinished for path in run.root.iterdir())
    ):
        raise InputError(
            f"--run={options.run} is there already; continue it with `all`, or name a new folder"
        )
    recipe = load_recipe(find_recipe(options.recipe))
    given = {
        "data.source": _absolute(options.data),
        "data.labels": _absolute(options.labels),
        "data.sample": _absolute(options.sample),
        "data.slices": _absolute(options.slices),
        "data.train_slices": options.train_slices,
        "data.allow_unlabelled": options.allow_unlabelled,
        "data.missing": options.missing,
        "seed": options.seed,
    }
    recipe = with_changes(
        recipe, {name: value for name, value in given.items() if value is not None}
    )
    check_installed(recipe.stage2.components)
    check_recipe_store(recipe)
    recipe = _check_models(_check_source(recipe))
    run.root.mkdir(parents=True, exist_ok=True)
    run.key.touch(mode=0o600)  # before there is anything in it to read
    run.key.write_bytes(secrets.token_bytes(KEY_BYTES))
    save_recipe(run.recipe, recipe)
    print(
        f"new: {options.run} with the recipe {recipe.name}, data in {options.data or options.slices}"
    )
    if recipe.stage1.models:
        print(f"  next: {run_command('all', run=options.run)}")
    else:
        print(
            f"  next: {run_command('import-predictions', run=options.run, name='NAME', oof='FILE')}"
        )


def _check_source(recipe):
    """Check the data that a recipe names. Returns it, with the number of folds that a slice list
    gives.
    """
    from ct.kaggle_layout import find_competition, require_csv, hidden_folders
    from ct.submission import read_sample
    from ct.tables.slice_list import read_slice_list

    data = recipe.data
    if not data.slices:
        with hidden_folders(data.source):
            read_sample(find_competition(data.source, data.labels, data.sample).sample_csv)
        return recipe
    if data.sample:
        read_sample(require_csv(data.sample, "sample"))
    slices = read_slice_list(data.slices, b"")  # the names are forgotten again
    if "fold" not in slices:
        return recipe
    return with_changes(recipe, {"folds.k": int(slices["fold"].max()) + 1})


def check_recipe_store(recipe):
    """Open the database for trials that a recipe names, where it does."""
    if recipe.stage2.storage:
        from pipeline.optuna_studies.trial_database import check_store

        check_store(recipe.stage2.storage)


def _check_models(recipe):
    """Check the backbones and local weights of a recipe, whose paths become absolute."""
    if not recipe.stage1.models:
        return recipe
    from pipeline.training.tensorboard import check_scalars
    from stage1_cnn.model import check_backbone, check_trainable

    check_scalars(recipe.stage1.tensorboard)
    models = []
    for config in recipe.stage1.models:
        check_backbone(config.backbone)
        values = config.model_dump(mode="json")
        if isinstance(config.pretrained, str):
            values["pretrained"] = _absolute(config.pretrained)
            if not Path(values["pretrained"]).is_file():
                raise InputError(
                    f"stage1 model {config.name}: pretrained = {config.pretrained!r} is not a file"
                )
        check_trainable(config, recipe.pixels.size)
        models.append(values)
    return with_changes(recipe, {"stage1.models": models})


def _absolute(path):
    return None if path is None else os.path.abspath(os.path.expanduser(path))
