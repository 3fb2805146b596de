"""The verb `search`: optuna looks for better settings of one CNN, on an inner split of the rows
outside one fold.
"""

import itertools
import math
import time

import numpy as np
import optuna
from optuna.trial import TrialState

from ct.config import suggestion
from ct.errors import InputError
from ct.labels import LABELS
from ct.metrics import gain_table
from ct.patient_folds import assign_folds, fold_groups
from ct.seeds import derive_seed
from ct.storage.file_formats import read_table
from ct.storage.sealed_files import is_whole
from pipeline.freshness import file_digest
from pipeline.options import RunOptions, TuneOptions
from pipeline.optuna_studies.cnn_trials import SearchContext, best_of, finished, kept, run_trials
from pipeline.optuna_studies.trial_journal import open_study
from pipeline.registry import Stage
from pipeline.run_lock import check_fresh, opened
from pipeline.stage_runner import run_stage
from pipeline.training.stage_one_inputs import StageOneInputs
from stage1_cnn.dataset import fold_rows
from stage1_cnn.model import check_backbone, check_trainable
from stage1_cnn.search_space import Range, searched, with_values, yaml_lines
from stage1_cnn.train_loop import CURVE_SLICES

SEARCH = Stage(
    "search", ("ingest", "folds"), (), "pipeline.commands.search:search_cnn", "search/"
)  # not one of STAGES: nothing reads it
PARTS = 4  # of the patients outside the fold, one is held out
# held-out patients without which no gain is beyond doubt: four that gain are no rarer than heads
# four times
FEW = 5


def search(options):
    """Look for better settings of one CNN; for stage two that is `tune`."""
    if options.stage == "two":
        with opened(TuneOptions(run=options.run, trials=options.trials)) as run:
            run_stage(run, "tune")
        return
    # its trials are not the recipe's, which are of stage two
    with opened(RunOptions(run=options.run)) as run:
        if not run.recipe.stage1.models:
            raise InputError(
                "search: the recipe has no CNNs; --stage=two searches the settings of stage two"
            )
        check_fresh(run, "search", ("ingest", "folds"))

        search_cnn(run, options.model, options.fold or 0, options.trials or 20, options.timeout)


def search_cnn(run, name, k, trials, timeout=None):
    """Bring the search of one CNN's settings without fold `k` to `trials` trials, and say what it
    found. Changes no stage.

    name: of the CNN; None where the recipe has one. timeout: seconds after which no further trial
    begins Raises InputError for what the recipe does not have, and for a space with backbones that
    do not take the pictures.
    """
    # it would log the traceback of an interrupt
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    deadline = time.monotonic() + (timeout or math.inf)
    config, space = _entry(run.recipe, name), searched(run.recipe.search)
    if k >= run.recipe.folds.k:
        raise InputError(
            f"search: --fold={k}, but folds.k = {run.recipe.folds.k} makes folds 0 to {run.recipe.folds.k - 1}"
        )
    check_backbones(config, space, run.recipe.pixels.size)
    inputs, seed, folder = (
        StageOneInputs(run),
        derive_seed(run.recipe.seed, "search", config.name, k),
        run.dir.search(config.name, k),
    )
    split = inner_split(inputs.slices, inputs.fold, k, seed)
    bench = SearchContext(
        inputs.slices, split, inputs.cache.read, config, space, seed, folder, run.log, run.bar
    )
    weights = (
        {"weights": file_digest(config.pretrained)} if isinstance(config.pretrained, str) else {}
    )
    same = {
        "model": config.model_dump(mode="json"),
        "space": {field: repr(where) for field, where in space.items()},
    }
    same |= {"seed": run.recipe.seed, "fold": k, "read": run.input_digests(SEARCH) | weights}
    study = open_study(folder.with_suffix(".journal"), same, run.log, _sound)
    patients = fold_groups(inputs.slices)
    learn, held = (f"{len(rows)} slices of {len(set(patients[rows]))} patients" for rows in split)
    run.log(f"search: {config.name} without fold {k}: {', '.join(space)}")
    run.log(f"  each trial learns from {learn} and is scored on {held}")
    if done := len(finished(study)):
        run.log(
            f"  {done} trials are there already"
            + (f"; continues with trial {done}" if done < trials else "")
        )
    run_trials(study, bench, trials, deadline)
    for line in verdict(study, bench, k, trials):
        run.log(f"  {line}")


def inner_split(slices, fold, k, seed):
    """Return the row numbers (training, held out) of an inner split by patient of the train slices
    outside fold `k`.

    About a quarter of the patients is held out, those of one group (`ct.patient_folds.fold_groups`)
    together; of their slices those with labels and pixels, CURVE_SLICES at most. Raises InputError where
    fewer than two patients, or groups, are left.
    """
    rows = np.flatnonzero((slices["split"] == "train").to_numpy() & (fold != k))
    part = slices.iloc[rows]
    count = len(set(fold_groups(part)))
    if count < 2:
        raise InputError(
            f"search: {count} patients are outside fold {k}, 2 are needed; add data, or raise folds.k"
        )
    train, held = fold_rows(part, _assign_parts(part, min(PARTS, count), seed), 0)
    known = (part[list(LABELS)].notna().all(axis=1) & part["readable"]).to_numpy(bool)
    held = held[known[held]]
    if not len(held):
        raise InputError(
            f"search: no readable slice with labels is held out of those outside fold {k}; add data"
        )
    return rows[train], rows[held[:: math.ceil(len(held) / CURVE_SLICES)]]


def check_backbones(config, space, size):
    """Show each backbone of the space each size of picture, as `new` does with the recipe's. Raises
    InputError.
    """
    backbones, sizes = (
        space.get("backbone", (config.backbone,)),
        space.get("image_size", (config.image_size,)),
    )
    if isinstance(config.pretrained, str) and set(backbones) != {config.backbone}:
        raise InputError(
            f"search.space.backbone = {list(backbones)}: {config.name} begins with the weights {config.pretrained} of "
            f"{config.backbone}; leave backbone out of the space, or set pretrained: false"
        )
    for backbone in backbones:
        check_backbone(backbone)
    if "backbone" in space or "image_size" in space:
        ends = (sizes.low, sizes.high) if isinstance(sizes, Range) else sizes
        for backbone, side in itertools.product(backbones, ends):
            check_trainable(with_values(config, {"backbone": backbone, "image_size": side}), size)


def verdict(study, bench, k, trials):
    """Return the lines that say what the first `trials` finished trials found, with what to adopt
    where it is beyond doubt.
    """
    done = finished(study)[:trials]
    best = best_of(done)
    innocent = f"chosen without fold {k}'s patients: fold {k}'s score is innocent of the choice, the others' are not wholly"
    pruned = sum(trial.state == TrialState.PRUNED for trial in done)
    if not best:
        none = f"nothing beat the recipe's {done[0].value:.4f} in {len(done)} trials, {pruned} of them pruned or failed"
        return [none, innocent]
    patients = fold_groups(bench.slices)[bench.split[1]]
    labels = bench.slices[list(LABELS)].to_numpy()[bench.split[1]]
    gain = gain_table(
        labels, *(_opinions(bench, number) for number in (0, best)), patients, bench.seed
    )["weighted"]
    count, values = len(set(patients)), done[best].user_attrs["values"]
    lines = [
        f"best of {len(done)} trials, {pruned} of them pruned or failed: trial {best} with {done[best].value:.4f}; "
        f"the recipe's own {done[0].value:.4f}",
        f"gain {gain['gain']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f} over {count} patients, 95 %); "
        "a part of it is the luck of the best of many",
    ]
    if count >= FEW and gain["low"] > 0:
        lines += [f"to adopt, in the entry of {bench.config.name} under stage1.models:"]
        lines += [f"  {line}" for line in yaml_lines(values)]
    else:
        why = (
            f"{count} held-out patients, {FEW} are needed"
            if count < FEW
            else "the interval holds 0"
        )
        lines += [
            f"nothing beat the recipe beyond doubt ({why}); trial {best} was {', '.join(yaml_lines(values))}"
        ]
    return [*lines, innocent]


def _entry(recipe, name):
    """Return the CnnConfig called `name`, or the recipe's only one."""
    models = {config.name: config for config in recipe.stage1.models}
    if name is None and len(models) > 1:
        raise InputError(f"search needs --model, one of {', '.join(models)}")
    if name is not None and name not in models:
        raise InputError(
            f"search: --model={name}: the recipe has no such CNN{suggestion(name, models)}"
        )
    return models[name or next(iter(models))]


def _assign_parts(slices, parts, seed):
    """Return the part of every slice, by patient: fewer `parts` where so few patients leave one
    empty.
    """
    try:
        return assign_folds(slices, parts, seed)
    except InputError:
        if parts > 2:
            return _assign_parts(slices, parts - 1, seed)
        raise InputError(
            "search: the patients outside the fold are too few to hold some out; add data"
        ) from None


def _sound(trial):
    """Return whether a trial has what later trials and the verdict read."""
    return isinstance(trial.user_attrs.get("values"), dict)


def _opinions(bench, number):
    """Return the kept probabilities (n, 6) of a trial on the held-out slices."""
    path = kept(bench, number)
    if not is_whole(path):
        state, journal = (
            "damaged" if path.exists() else "gone",
            bench.folder.with_suffix(".journal"),
        )
        raise InputError(f"{path} is {state}; remove {journal}, too, and search anew")
    return read_table(path).loc[bench.slices.index[bench.split[1]]].to_numpy()
