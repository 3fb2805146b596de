"""The verb `all`: bring every stage up to date."""

import time

from pipeline import stage_processes
from pipeline.commands.new import check_recipe_store
from pipeline.run_lock import opened
from pipeline.stage_runner import run_all, stage_states


def run_all_stages(options):
    """Bring every stage up to date."""
    start = time.perf_counter()
    with opened(options) as run:
        if run.recipe.stage2.storage and stage_states(run)["tune"][0] != "fresh":
            check_recipe_store(run.recipe)  # better before the CNNs are trained than after
        made = [] if stage_processes.APART else run_all(run)
    if stage_processes.APART:
        made = stage_processes.run_all_apart(options)
    took = f"in {time.perf_counter() - start:.0f} s"
    print(
        f"all: {', '.join(made)} made {took}"
        if made
        else f"all: everything is fresh, looked through {took}"
    )
    for path in (run.dir.submission, run.dir.report):
        if path.exists():
            print(f"  {path}")
