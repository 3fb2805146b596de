"""Open a run folder for a verb: one process at a time, with the verb's changes to the recipe."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from ct.errors import InputError
from ct.kaggle_layout import hidden_folders
from ct.storage.atomic_write import refuse_links, restore_all
from pipeline.checked_options import IN_RECIPE, RunOptions, ScoreOptions
from pipeline.integrity import check_content
from pipeline.run_context import Run
from pipeline.stage_runner import stage_states
from stage2_stack.config import check_installed


def lock_of(root: Path) -> FileLock:
    """Return the lock of a run folder, not acquired yet. Raises InputError where it is a link."""
    path = root / ".lock"
    if path.is_symlink():
        raise InputError(
            f"{path} is a link; nothing is written or removed beyond it: remove the link"
        )
    return FileLock(path, timeout=0)


@contextlib.contextmanager
def opened(options: RunOptions | ScoreOptions) -> Iterator[Run]:
    """Open a run folder for work and apply the options to it and its recipe.

    Raises InputError where another process works on the run.
    """
    if options.run is None:
        raise ValueError("the options name no run folder")
    root = Path(options.run)
    run = Run(root)
    try:
        with lock_of(root):
            refuse_links(root)
            restore_all(root)
            changes = {
                IN_RECIPE[name]: value
                for name, value in options
                if name in IN_RECIPE and value is not None
            }
            run.change_recipe(changes)
            check_installed(run.recipe.stage2.components)
            run.workers = getattr(options, "workers", None)
            run.timeout = getattr(options, "timeout", None)
            run.quarantine_unreadable = getattr(options, "quarantine_unreadable", False)
            with hidden_folders(run.recipe.data.source):
                yield run
    except Timeout:
        raise InputError(f"--run={root}: another process works on this run; wait for it") from None


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
