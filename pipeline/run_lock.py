"""Open a run folder for a verb: alone, with the verb's changes to the recipe, or for a shard."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ct.errors import InputError
from ct.kaggle_layout import hidden_folders
from ct.storage.atomic_write import refuse_links, restore_all
from ct.storage.file_lock import discard_unused, file_lock
from pipeline.checked_options import IN_RECIPE, EvaluateOptions, RunOptions, ScoreOptions
from pipeline.engines.choice import chosen_engine
from pipeline.freshness import first_difference
from pipeline.integrity import check_content
from pipeline.recipe import with_changes
from pipeline.run_context import Run
from pipeline.stage_runner import stage_states
from pipeline.units.unit_lock import LOCKS, join_lock, stage_of_shards
from stage2_stack.config import check_installed


@contextlib.contextmanager
def run_lock(root: Path) -> Iterator[None]:
    """Hold a run folder alone. Raises InputError where other processes work on it."""
    with _run_lock(root, shared=False):
        yield


@contextlib.contextmanager
def _run_lock(root: Path, shared: bool) -> Iterator[None]:
    with file_lock(root / ".lock", shared) as held:
        if not held:
            raise InputError(f"--run={root}: another process works on this run; wait for it")
        yield


@contextlib.contextmanager
def opened(options: RunOptions | ScoreOptions | EvaluateOptions) -> Iterator[Run]:
    """Open a run folder for work and apply the options to it and its recipe.

    Raises InputError where another process works on the run.
    """
    if options.run is None:
        raise ValueError("the options name no run folder")
    root = Path(options.run)
    Run(root)  # raises InputError where there is no run, without making a lock file
    with run_lock(root):
        refuse_links(root)
        restore_all(root)
        run = Run(root)  # the recipe as it is now that no other process can change it
        run.change_recipe(_recipe_changes(options))
        try:
            with _prepared(run, options):
                yield run
        finally:
            discard_unused(root / LOCKS)


@contextlib.contextmanager
def opened_for_stage(options: RunOptions, stage: str) -> Iterator[Run]:
    """Open a run folder for one stage: as `opened` does, or, for a shard, beside other shards."""
    if getattr(options, "shard", None) is None:
        with opened(options) as run:
            yield run
    else:
        with _opened_for_shard(options, stage) as run:
            yield run


@contextlib.contextmanager
def _opened_for_shard(options: RunOptions, stage: str) -> Iterator[Run]:
    """Open a run folder beside other shards of `stage`, which read the recipe as it is.

    Raises InputError where another verb works on the run, or shards of another stage do, and where
    the options change the recipe.
    """
    root = Path(options.run)
    Run(root)
    with _run_lock(root, shared=True):
        refuse_links(root)
        with stage_of_shards(root, stage) as other:
            if other:
                raise InputError(f"--run={root}: shards of {other} work on this run; wait for them")
            with join_lock(root, stage, wait=False) as held:
                if held:  # else a shard replaces folders at this moment
                    restore_all(root)
            run = Run(root)
            _refuse_changes(run, options)
            with _prepared(run, options):
                yield run


def _refuse_changes(run: Run, options: RunOptions) -> None:
    """Raise InputError where the options of a shard change the recipe."""
    before = run.recipe.model_dump(mode="json")
    changed = with_changes(run.recipe, _recipe_changes(options)).model_dump(mode="json")
    if difference := first_difference(before, changed):
        raise InputError(
            f"a shard does not change the recipe, which other shards read ({difference}); change "
            f"it in {run.dir.recipe} before they start"
        )


def _recipe_changes(options: RunOptions | ScoreOptions | EvaluateOptions) -> dict[str, Any]:
    """Return {dotted key: value} of the options that are fields of the recipe."""
    return {
        IN_RECIPE[name]: value for name, value in options if name in IN_RECIPE and value is not None
    }


@contextlib.contextmanager
def _prepared(run: Run, options: RunOptions | ScoreOptions | EvaluateOptions) -> Iterator[None]:
    """Apply the options that are not of the recipe."""
    check_installed(run.recipe.stage2.components)
    run.workers = getattr(options, "workers", None)
    run.timeout = getattr(options, "timeout", None)
    run.quarantine_unreadable = getattr(options, "quarantine_unreadable", False)
    with hidden_folders(run.recipe.data.source), chosen_engine(options) as run.engine:
        yield


def check_fresh(run: Run, verb: str, stages: Sequence[str]) -> None:
    """Raise InputError where one of `stages`, whose work a verb reads, is stale or damaged."""
    states = stage_states(run)
    for name in stages:
        kind, why = states[name]
        if kind != "fresh":
            run.pseudonym_key()  # if this is damaged, `ingest` and `all` would fail in the same way
            because = f" ({why})" if kind == "stale" else ""
            raise InputError(
                f"{verb} reads what {name} makes, which is {kind}{because}; run `{name}` or `all`"
            )
    check_content(run.dir, verb, stages)
