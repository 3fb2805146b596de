"""Run one stage or all in order; list which stages are fresh, stale or missing."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from ct.errors import InputError, number_of
from ct.system.blas_threads import one_blas_thread
from ct.system.parallel_jobs import run_threads
from pipeline.engines.shard_engine import ShardEngine
from pipeline.freshness import first_difference, why_stale
from pipeline.input_digests import Digests, input_digests
from pipeline.integrity import check_content
from pipeline.receipt import Receipt
from pipeline.registry import STAGES, USER_INPUTS, Stage
from pipeline.run_context import Run
from pipeline.units.unit import Unit, UnitsLeft
from pipeline.units.unit_lock import join_lock
from pipeline.units.unit_runner import log_done

StageState = tuple[str, str]  # "fresh", "stale" or "missing", and why


def stage_states(run: Run) -> dict[str, StageState]:
    """Return {stage: (state, why)}; a stage that reads a stale or missing one is stale, too."""
    states: dict[str, StageState] = {}
    for name, stage in STAGES.items():
        why = why_stage_is_stale(run, stage)
        not_fresh = next((read for read in stage.reads if _is_not_fresh(states, read)), None)
        if why == "not made yet":
            states[name] = ("missing", why)
        elif why or not_fresh:
            states[name] = ("stale", why or f"{not_fresh} is to be made again")
        else:
            states[name] = ("fresh", "")
    return states


def _is_not_fresh(states: dict[str, StageState], name: str) -> bool:
    return name in states and states[name][0] != "fresh"


def why_stage_is_stale(run: Run, stage: Stage) -> str:
    """Return why a stage must run, or "" where it is fresh."""
    receipt, part = run.dir.receipt(stage.name), run.recipe_part(stage.keys)
    why = why_stale(run.dir.root, receipt, part, input_digests(run, stage))
    if why == "key changed":
        return "the key is damaged or gone, put it back from a copy of the run"
    return why


def run_stage(run: Run, name: str) -> bool:
    """Bring one stage up to date. Returns whether it ran.

    Raises InputError where a stage that it reads is not fresh, or a file that it reads is damaged.
    """
    stage = STAGES[name]
    _check_inputs_fresh(run, stage)
    why = why_stage_is_stale(run, stage)
    if not why:
        run.log(f"{name}: fresh, nothing to do")
        return False
    check_content(run.dir, name, [read for read in stage.reads if read in STAGES])
    if "key" in stage.reads:
        run.pseudonym_key()  # checked before the receipt with its digest is removed
    inputs = [STAGES[read].makes if read in STAGES else USER_INPUTS[read] for read in stage.reads]
    run.log(f"{name}: {why}" if why != "not made yet" else f"{name}:")
    run.log(f"  reads {'; '.join(inputs)}")
    receipt = Receipt(
        run.dir.root,
        run.dir.receipt(name),
        name,
        run.recipe_part(stage.keys),
        input_digests(run, stage),
    )
    receipt.values |= {"processes": 1, "device": "cpu"}  # of a unit; stage one overwrites them
    if not _run_units(run, stage, receipt) or not _join_once(run, stage, receipt):
        return False
    run.log(f"  made {stage.makes if receipt.made else 'nothing'} in {receipt.seconds:.1f} s")
    return True


def _run_units(run: Run, stage: Stage, receipt: Receipt) -> bool:
    """Run the units of a stage. Returns False where other shards have not finished theirs."""
    if not stage.units or _lacks_cnns(run, stage):
        return True
    try:
        run_units(run, stage, receipt.values["read"])
    except Exception as error:
        if _is_finished_by_another_shard(run, stage):
            return True  # it may have removed what the units left, so that they look missing
        if not isinstance(error, UnitsLeft):
            raise
        run.log(
            f"{stage.name}: {error.left} of {error.total} units are left to other shards; "
            "the one that ends last finishes the stage"
        )
        return False
    receipt.values |= {"engine": run.engine.name, "units_at_once": run.engine.at_once()}
    return True


def _is_finished_by_another_shard(run: Run, stage: Stage) -> bool:
    """Return whether the stage is fresh; wait for a shard that joins its parts at this moment."""
    if not isinstance(run.engine, ShardEngine):
        return False
    with join_lock(run.dir.root, stage.name):
        return not why_stage_is_stale(run, stage)


def _join_once(run: Run, stage: Stage, receipt: Receipt) -> bool:
    """Make the files of a stage and its receipt. Returns False where another shard has done so."""
    if not isinstance(run.engine, ShardEngine):
        _join(run, stage, receipt)
        return True
    with join_lock(run.dir.root, stage.name):
        if not why_stage_is_stale(run, stage):
            run.log("  another shard has finished the stage")
            return False
        _join(run, stage, receipt)
    return True


def _join(run: Run, stage: Stage, receipt: Receipt) -> None:
    with receipt:
        if _lacks_cnns(run, stage):
            run.log("  the recipe has no CNNs")  # torch need not be imported
        else:
            function = _load(stage.function)
            with one_blas_thread():  # another engine must give the same bytes
                function(run, receipt)


def _lacks_cnns(run: Run, stage: Stage) -> bool:
    return stage.name in ("train", "predict") and not run.recipe.stage1.models


def run_units(run: Run, stage: Stage, read: Digests) -> None:
    """Run the units of a stage that are not done, until no plan has new ones.

    read: digests of what the stage reads. They are planned again once all are done: the units of
    pixels are known after those of headers, which another process may do between the plan and the
    check. Raises what `Engine.run` raises, and InputError where the recipe was changed meanwhile.
    """
    done: set[str] = set()
    _check_same_recipe(run, stage)
    while True:
        plan = units_of(run, stage, read)
        new, missing = [unit for unit in plan if unit.name not in done], []
        if not new:
            _check_same_recipe(run, stage, plan)
            return
        # on all cores: to continue an ingest, all of its shards are read
        reasons = run_threads(lambda unit: unit.why_not_done(verify=True), new)
        for unit, why in zip(new, reasons, strict=True):
            if why:
                missing.append(unit)
            else:
                log_done(unit, run.log, kept=True)
        if isinstance(run.engine, ShardEngine):
            run.engine.plan(plan)
        if missing:
            run.engine.run(missing, run.log, run.bar)
        done |= {unit.name for unit in new}


def _check_same_recipe(run: Run, stage: Stage, units: Sequence[Unit] = ()) -> None:
    """Raise InputError where recipe.yaml is not for a stage, or a unit, what it was when it began.

    Each unit reads it when it starts, and the receipt of the stage holds what was read first.
    units: that are done; where it was changed and put back, some may have read the other one
    """
    if not run.recipe_is_rewritten():
        return
    part, now = run.recipe_part(stage.keys), Run(run.dir.root).recipe_part(stage.keys)
    why = first_difference(part, now)
    others = [] if why else [unit.name for unit in units if unit.why_not_done()]
    if others:
        count, more = number_of(len(units), "unit"), ", ..." if others[1:] else ""
        verb = "is" if len(others) == 1 else "are"
        why = f"put back, but {len(others)} of {count} ({others[0]}{more}) {verb} of another recipe"
    if why:
        raise InputError(
            f"{run.dir.recipe} was changed while {stage.name}, or a stage before it, worked: "
            f"{why}; run `{stage.name}` again, with the recipe that you want"
        )


def units_of(run: Run, stage: Stage, read: Digests) -> list[Unit]:
    """Return the units of a stage that are known so far; [] for a stage without units.

    read: digests of what the stage reads
    """
    planned: list[Unit] = _load(stage.units)(run, read) if stage.units else []
    return planned


def run_all(run: Run) -> list[str]:
    """Bring every stage up to date, in order. Returns the names of those that ran."""
    return [name for name in STAGES if run_stage(run, name)]


def _load(location: str) -> Callable[..., Any]:
    """Import "module:function"."""
    module, function = location.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded


def _check_inputs_fresh(run: Run, stage: Stage) -> None:
    """Raise InputError where a stage that `stage` reads is stale or missing."""
    states = stage_states(run)
    for read in stage.reads:
        if read in STAGES and states[read][0] != "fresh":
            run.pseudonym_key()  # if this is damaged, `ingest` and `all` would fail in the same way
            kind, why = states[read]
            state = kind if kind == "missing" else f"{kind} ({why})"
            raise InputError(
                f"{stage.name} reads what {read} makes, and {read} is {state}; "
                f"run `{read}` or `all`"
            )
