"""Which stages of a run are fresh, stale or missing, and how they are brought up to date."""

import importlib

from ct.errors import InputError
from ct.system.engine import cores
from pipeline.integrity import check_content
from pipeline.receipt import Receipt
from pipeline.registry import GIVEN, PARALLEL, STAGES


def stage_states(run):
    """Return {stage: (state, why)} with the states fresh, stale and missing; a stage after a stale
    one is stale, too.
    """
    states, upstream = {}, {}
    for name, stage in STAGES.items():
        why = run.why_stale(stage)
        waits = next((read for read in stage.reads if upstream.get(read)), None)
        if why == "not made yet":
            states[name] = ("missing", why)
        elif why or waits:
            states[name] = ("stale", why or f"{waits} is to be made again")
        else:
            states[name] = ("fresh", "")
        upstream[name] = states[name][0] != "fresh"
    return states


def run_stage(run, name):
    """Bring one stage up to date. Returns whether it had to work.

    Raises InputError where a stage that it reads is not fresh.
    """
    stage = STAGES[name]
    states = stage_states(run)
    for read in stage.reads:
        if read in STAGES and states[read][0] != "fresh":
            run.pseudonym_key()  # with a damaged one `ingest` and `all` would end as this does
            raise InputError(
                f"{name} reads what {read} makes, and {read} is {_phrase(states[read])}; run `{read}` or `all`"
            )
    why = run.why_stale(stage)
    if not why:
        run.log(f"{name}: fresh, nothing to do")
        return False
    check_content(run.dir, name, [read for read in stage.reads if read in STAGES])
    if "key" in stage.reads:
        run.pseudonym_key()  # before the receipt that knows its digest goes
    run.log(f"{name}: {why}" if why != "not made yet" else f"{name}:")
    run.log(
        f"  reads {'; '.join(STAGES[read].makes if read in STAGES else GIVEN[read] for read in stage.reads)}"
    )
    module, function = stage.function.split(":")
    receipt = Receipt(
        run.dir.root, run.dir.receipt(name), name, run.part(stage.keys), run.read(stage)
    )
    receipt.values |= {
        "processes": (run.workers or cores()) if name in PARALLEL else 1,
        "device": "cpu",
    }
    with receipt:
        # nor is there a need of torch
        if name in ("train", "predict") and not run.recipe.stage1.models:
            run.log("  the recipe has no CNNs")
        else:
            getattr(importlib.import_module(module), function)(run, receipt)
    run.log(f"  made {stage.makes if receipt.made else 'nothing'} in {receipt.seconds:.1f} s")
    return True


def run_all(run):
    """Bring every stage up to date, in order. Returns the names of those that had to work."""
    return [name for name in STAGES if run_stage(run, name)]


def _phrase(state_and_why):
    kind, why = state_and_why
    return "missing" if kind == "missing" else f"stale ({why})"
