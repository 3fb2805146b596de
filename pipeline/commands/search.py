"""The verb `search`: optuna searches better settings of one CNN, without the data of one fold."""

import itertools
import math
import time
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from ct.config import suggestion
from ct.errors import InputError, number_of
from ct.patient_folds import fold_groups
from ct.seeds import derive_seed
from pipeline.checked_options import RunOptions, SearchOptions, TuneOptions
from pipeline.freshness import file_digest
from pipeline.input_digests import input_digests
from pipeline.optuna_studies.cnn_trials import SearchContext, run_trials
from pipeline.optuna_studies.inner_split import inner_split
from pipeline.optuna_studies.search_verdict import verdict
from pipeline.optuna_studies.trial_journal import open_study
from pipeline.recipe import Recipe
from pipeline.registry import Stage
from pipeline.run_context import Run
from pipeline.run_lock import check_fresh, opened
from pipeline.stage_runner import run_stage
from pipeline.training.stage_one_inputs import StageOneInputs
from stage1_cnn.backbones.timm_models import check_backbone
from stage1_cnn.config import CnnConfig
from stage1_cnn.model import check_trainable
from stage1_cnn.search_space import Choices, Range, searched, with_values
from stage2_stack.tuning.resumable_trials import finished_trials

# not one of STAGES: no stage reads the work of a search
SEARCH = Stage("search", ("ingest", "folds"), (), "pipeline.commands.search:search_cnn", "search/")
TRIALS = 20  # where --trials is not given


def search(options: SearchOptions) -> None:
    """Search better settings of one CNN; with --stage=two, run `tune`."""
    if options.stage == "two":
        with opened(TuneOptions(run=options.run, trials=options.trials)) as run:
            run_stage(run, "tune")
        return
    # RunOptions: --trials must not change the recipe's trials, which are of stage two
    with opened(RunOptions(run=options.run)) as run:
        if not run.recipe.stage1.models:
            raise InputError(
                "search: the recipe has no CNNs; --stage=two searches the settings of stage two"
            )
        check_fresh(run, "search", ("ingest", "folds"))
        trials = options.trials or TRIALS
        search_cnn(run, options.model, options.fold or 0, trials, options.timeout)


def search_cnn(
    run: Run, name: str | None, k: int, trials: int, timeout: float | None = None
) -> None:
    """Bring the search of one CNN's settings to `trials` trials and print the verdict.

    The data of fold `k` is not used. No file of a stage changes. name: of the CNN, or None where
    the recipe has one; timeout: seconds after which no further trial begins. Raises InputError for
    a CNN or fold that the recipe does not have, and for a space with backbones that do not take the
    images.
    """
    # optuna would log the traceback of an interrupt
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    deadline = time.time() + (timeout or math.inf)
    config, space = _config_of(run.recipe, name), searched(run.recipe.search)
    k_folds = run.recipe.folds.k
    if k >= k_folds:
        raise InputError(
            f"search: --fold={k}, but folds.k = {k_folds} makes folds 0 to {k_folds - 1}"
        )
    check_backbones(config, space, run.recipe.pixels.size)
    context = _context(run, config, space, k)
    journal = context.folder.with_suffix(".journal")
    study = open_study(journal, _study_inputs(run, config, space, k), run.log, _has_values)
    _log_start(context, k, len(finished_trials(study)), trials)
    run_trials(study, context, trials, deadline)
    for line in verdict(study, context, k, trials):
        run.log(f"  {line}")


def check_backbones(config: CnnConfig, space: dict[str, Range | Choices], size: int) -> None:
    """Check that each backbone of the space takes images of each size, as `new` does.

    size: of the pixel cache. Raises InputError for one that does not, and for several backbones
    where the CNN starts from a file of weights.
    """
    backbones: Any = space.get("backbone", (config.backbone,))
    sizes = space.get("image_size", (config.image_size,))
    if config.weights_file and set(backbones) != {config.backbone}:
        raise InputError(
            f"search.space.backbone = {list(backbones)}: {config.name} starts from the weights "
            f"{config.weights_file} of {config.backbone}; leave backbone out of the space, "
            "or set pretrained: false"
        )
    for backbone in backbones:
        check_backbone(backbone)
    if "backbone" in space or "image_size" in space:
        limits = (sizes.low, sizes.high) if isinstance(sizes, Range) else sizes
        for backbone, image_size in itertools.product(backbones, limits):
            values = {"backbone": backbone, "image_size": image_size}
            check_trainable(with_values(config, values), size)


def _config_of(recipe: Recipe, name: str | None) -> CnnConfig:
    """Return the CnnConfig called `name`, or the recipe's only one."""
    models = {config.name: config for config in recipe.stage1.models}
    if name is None and len(models) > 1:
        raise InputError(f"search needs --model, one of {', '.join(models)}")
    if name is not None and name not in models:
        raise InputError(
            f"search: --model={name}: the recipe has no such CNN{suggestion(name, models)}"
        )
    return models[name or next(iter(models))]


def _context(
    run: Run, config: CnnConfig, space: dict[str, Range | Choices], k: int
) -> SearchContext:
    inputs, seed = StageOneInputs(run), derive_seed(run.recipe.seed, "search", config.name, k)
    return SearchContext(
        slices=inputs.slices,
        split=inner_split(inputs.slices, inputs.fold, k, seed),
        read_hu=inputs.cache.read,
        config=config,
        space=space,
        seed=seed,
        folder=run.dir.search(config.name, k),
        log=run.log,
        bar=run.bar,
    )


def _study_inputs(
    run: Run, config: CnnConfig, space: dict[str, Range | Choices], k: int
) -> dict[str, Any]:
    """Return everything that the result of a trial depends on, as plain values."""
    read = input_digests(run, SEARCH)
    if config.weights_file:
        read = read | {"weights": file_digest(config.weights_file)}
    return {
        "model": config.model_dump(mode="json"),
        "space": {field: repr(domain) for field, domain in space.items()},
        "seed": run.recipe.seed,
        "fold": k,
        "read": read,
    }


def _log_start(context: SearchContext, k: int, done: int, trials: int) -> None:
    """Log what is searched on which slices, and how many trials are finished."""
    patients = fold_groups(context.slices)
    train, held_out = (
        f"{number_of(len(rows), 'slice')} of {number_of(len(set(patients[rows])), 'patient')}"
        for rows in context.split
    )
    context.log(f"search: {context.config.name} without fold {k}: {', '.join(context.space)}")
    context.log(f"  each trial trains on {train} and is scored on {held_out}")
    if done:
        next_trial = f"; continues with trial {done}" if done < trials else ""
        context.log(f"  {number_of(done, 'trial')} there already{next_trial}")


def _has_values(trial: FrozenTrial) -> bool:
    """Return whether a trial holds its settings, which later trials and the verdict read."""
    return isinstance(trial.user_attrs.get("values"), dict)
