"""The verb `status`: which stages are fresh, stale or missing; with --verify, damaged files."""

import contextlib
import json
import os
from typing import Any

from ct.errors import InputError, number_of
from ct.storage.file_formats import read_json
from ct.storage.receipt_reader import read_receipt, version_differences
from pipeline.checked_options import StatusOptions
from pipeline.command_line.printed_commands import run_command
from pipeline.commands.unit_list import unit_lines, unit_rows
from pipeline.freshness import changed_file
from pipeline.integrity import damaged_files, receipt_paths
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.run_lock import run_lock
from pipeline.stage_runner import StageState, stage_states

States = dict[str, StageState]
Damaged = list[tuple[str, str]]  # (how a file differs, the stage that makes it)


def status(options: StatusOptions) -> None:
    """Print which stages are fresh, stale or missing, and why.

    Raises InputError where --verify finds a damaged file.
    """
    run = Run(options.run)
    damaged = _verify(run) if options.verify else []
    states = stage_states(run)
    differences = version_differences(_receipts_of(run))
    if options.as_json:
        print(json.dumps(_as_json(run, options, states, differences, damaged), indent=1))
    else:
        _print(run, options, states, differences, damaged)
        if options.units:
            print("\n".join(unit_lines(unit_rows(run))))
    if damaged:
        raise InputError(
            f"--run={options.run}: {number_of(len(damaged), 'file')} damaged or gone, the first: "
            f"{damaged[0][0]}"
        )


def _verify(run: Run) -> Damaged:
    """Read every file of a run, and check its key; return what is damaged.

    Raises InputError where another process works on the run.
    """
    writable = os.access(run.dir.root, os.W_OK)
    lock = run_lock(run.dir.root) if writable else contextlib.nullcontext()
    with lock, run.bar(None, "verifying", "file") as bar:
        damaged = damaged_files(run.dir, lambda name: bar.update(), marks=writable)
    try:
        run.pseudonym_key()
    except InputError as error:
        damaged.append((str(error), "new"))
    return damaged


def _receipts_of(run: Run) -> dict[str, dict[str, Any]]:
    """Return {stage: receipt}, and those of CNNs and folds of another version than `train`."""
    stage_receipts = {}
    for name in STAGES:
        if receipt := read_receipt(run.dir.receipt(name)):
            stage_receipts[name] = receipt
    train = stage_receipts.get("train", {})
    for path in receipt_paths(run.dir):
        if path.name != "train.json" or not path.parent.name.startswith(("fold", "all")):
            continue
        receipt = read_receipt(path)
        if receipt and any(receipt.get(name) != train.get(name) for name in ("versions", "commit")):
            stage_receipts[f"{path.parent.parent.name} {path.parent.name}"] = receipt
    return stage_receipts


def _as_json(
    run: Run, options: StatusOptions, states: States, differences: list[str], damaged: Damaged
) -> dict[str, Any]:
    recipe = run.recipe
    values: dict[str, Any] = {
        "run": options.run,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "data": recipe.data.slices or recipe.data.source,
        "stages": {
            name: {"state": kind, "why": why, "makes": STAGES[name].makes}
            for name, (kind, why) in states.items()
        },
        "scores": _scores(run) if states["stack"][0] == "fresh" else {},
        "different_versions": differences,
    }
    if options.units:
        values["units"] = unit_rows(run)
    if options.verify:
        values["damaged"] = [why for why, _ in damaged]
    return values


def _scores(run: Run) -> dict[str, Any]:
    """Return the scores of a fresh `stack`; {} where their file is damaged."""
    path = run.dir.stage2 / "scores.json"
    name = path.relative_to(run.dir.root).as_posix()
    receipt = read_receipt(run.dir.receipt("stack"))
    if receipt is None or changed_file(run.dir.root, {name: receipt["made"][name]}, verify=True):
        return {}
    scores = read_json(path)
    return {name: scores[name] for name in ("calibrated", "stage_two", "gain") if name in scores}


def _print(
    run: Run, options: StatusOptions, states: States, differences: list[str], damaged: Damaged
) -> None:
    recipe = run.recipe
    data = recipe.data.slices or recipe.data.source
    print(f"{options.run}: recipe {recipe.name}, seed {recipe.seed}, data in {data}")
    for name, (kind, why) in states.items():
        print(f"  {name:9} {kind:8} {why or STAGES[name].makes}")
    for line in differences:
        print(f"  {line}")
    for why, stage in damaged:
        print(f"  {why}, made by `{stage}`" if stage in STAGES else f"  {why}")
    if options.verify and not damaged:
        print("  every file was read and matches its receipt")
    fresh = sum(kind == "fresh" for kind, _ in states.values())
    if fresh < len(states):
        command = run_command("all", run=options.run)
        print(f"  {fresh} of {len(states)} are fresh; next: {command}")
    else:
        print(f"  all are fresh; see {run.dir.report}")
