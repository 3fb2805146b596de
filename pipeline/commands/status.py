"""The verb `status`: what is fresh, stale and missing, and why; with --verify, what is damaged."""

import contextlib
import json
import os

from filelock import Timeout

from ct.errors import InputError
from ct.storage.file_formats import read_json
from ct.storage.receipts import read_receipt, version_differences
from pipeline.command_line.printed_commands import run_command
from pipeline.freshness import changed_file
from pipeline.integrity import damaged_files, receipts
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.run_lock import lock_of
from pipeline.stage_runner import stage_states


def status(options):
    """Show what is fresh, stale and missing, and why. Raises InputError where --verify finds
    something damaged.
    """
    run = Run(options.run)
    damaged = _verified(run) if options.verify else []
    states, unlike = stage_states(run), version_differences(_receipts_of(run))
    if options.as_json:
        print(json.dumps(_as_json(run, options, states, unlike, damaged), indent=1))
    else:
        _print(run, options, states, unlike, damaged)
    if damaged:
        raise InputError(
            f"--run={options.run}: {len(damaged)} files are damaged or gone, the first: {damaged[0][0]}"
        )


def _verified(run):
    """Return `damaged_files` of a run, and whether its key is the right one. Nobody may work on it
    meanwhile.
    """
    writable = os.access(run.dir.root, os.W_OK)
    try:
        lock = lock_of(run.dir.root) if writable else contextlib.nullcontext()
        with lock, run.bar(None, "verifying", "file") as bar:
            damaged = damaged_files(run.dir, lambda name: bar.update(), marks=writable)
    except Timeout:
        raise InputError(
            f"--run={run.dir.root}: another process works on this run; wait for it"
        ) from None
    try:
        run.pseudonym_key()
    except InputError as error:
        damaged.append((str(error), "new"))
    return damaged


def _receipts_of(run):
    """Return {stage: receipt}, with those of CNNs and folds that were made by another version than
    `train` was.
    """
    known = {name: receipt for name in STAGES if (receipt := read_receipt(run.dir.receipt(name)))}
    train = known.get("train", {})
    for path in receipts(run.dir):
        receipt = (
            read_receipt(path)
            if path.name == "train.json" and path.parent.name.startswith("fold")
            else None
        )
        if receipt and any(receipt.get(name) != train.get(name) for name in ("versions", "commit")):
            known[f"{path.parent.parent.name} {path.parent.name}"] = receipt
    return known


def _as_json(run, options, states, unlike, damaged):
    recipe, made = run.recipe, (read_receipt(run.dir.receipt("stack")) or {"made": {}})["made"]
    path = run.dir.stage2 / "scores.json"
    whole = states["stack"][0] == "fresh" and not changed_file(
        run.dir.root, {_name(run, path): made[_name(run, path)]}, True
    )
    scores = read_json(path) if whole else {}
    scores = {name: scores[name] for name in ("calibrated", "stage_two", "gain") if name in scores}
    stages = {
        name: {"state": kind, "why": why, "makes": STAGES[name].makes}
        for name, (kind, why) in states.items()
    }
    about = {
        "run": options.run,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "data": recipe.data.slices or recipe.data.source,
    }
    found = {"damaged": [why for why, _ in damaged]} if options.verify else {}
    return {**about, "stages": stages, "scores": scores, "different_versions": unlike, **found}


def _name(run, path):
    return path.relative_to(run.dir.root).as_posix()


def _print(run, options, states, unlike, damaged):
    recipe = run.recipe
    print(
        f"{options.run}: recipe {recipe.name}, seed {recipe.seed}, data in {recipe.data.slices or recipe.data.source}"
    )
    for name, (kind, why) in states.items():
        print(f"  {name:9} {kind:8} {why or STAGES[name].makes}")
    for line in unlike:
        print(f"  {line}")
    for why, stage in damaged:
        print(f"  {why}, made by `{stage}`" if stage in STAGES else f"  {why}")
    if options.verify and not damaged:
        print("  every file was read and holds what its receipt says")
    if begun := [name for name, (kind, _) in states.items() if kind != "fresh"]:
        print(
            f"  {len(states) - len(begun)} of {len(states)} are fresh; next: {run_command('all', run=options.run)}"
        )
    else:
        print(f"  all are fresh; see {run.dir.report}")
