"""`tune` on 30 searches: one process and two, measured; sixteen, simulated from measured searches.

Processor-bound: the figures mean something on a quiet machine alone. Two processes are compared
with one on the same run, whose features are of repeated real studies under simulated CNNs.
"""

import shutil
from pathlib import Path

import pandas as pd

import run as command_line
from benchmarks.large_tables.repeated_studies import (
    FOLDS,
    make_predictions,
    real_studies,
    repeat,
)
from benchmarks.scaling.gold_units import StatedUnit
from benchmarks.scaling.same_bytes import command
from benchmarks.scaling.simulation import simulate
from ct.labels import COMMON_FIRST, LABELS
from ct.storage.file_formats import read_json
from pipeline.engines.placement import Machine
from pipeline.units.unit import Resources

LEAST = {2: 0.9, 16: 0.8}  # bars: processes -> share of a linear gain
SLICES, QUICK_SLICES = 20_000, 6_000
RECIPE = """name: tune
data: {{slices: ""}}
folds: {{k: {folds}}}
stage1: {{models: []}}
features: {{reach: 3, smooth_mm: [5, 10], chain: true}}
stage2: {{components: [raw, lightgbm], trials: {trials}, max_rounds: {rounds}}}
"""


def make_run(folder: Path, quick: bool) -> Path:
    """Make a run folder up to its features, without any image. Returns its path."""
    studies, _ = real_studies()
    slices = repeat(studies, QUICK_SLICES if quick else SLICES)
    predictions, _, fold = make_predictions(slices)
    names = {
        "SOPInstanceUID": slices.index,
        "PatientID": slices["patient_id"],
        "StudyInstanceUID": slices["study_id"],
        "SeriesInstanceUID": slices["series_id"],
        "ImagePositionPatient": [rf"0\0\{height}" for height in slices["position_mm"]],
        "ImageOrientationPatient": [r"1\0\0\0\1\0"] * len(slices),
        "PixelSpacing": [rf"{side}\{side}" for side in slices["pixel_spacing_mm"]],
    }
    table = pd.DataFrame({name: list(values) for name, values in names.items()})
    table[list(LABELS)] = slices[list(LABELS)].to_numpy(int)
    table.to_csv(folder / "slices.csv", index=False)
    trials, rounds = (4, 60) if quick else (5, 100)
    recipe = RECIPE.format(folds=FOLDS, trials=trials, rounds=rounds)
    (folder / "tune.yaml").write_text(recipe, encoding="utf-8")
    run, recipe = folder / "run", f"--recipe={folder / 'tune.yaml'}"
    _here("new", f"--run={run}", recipe, f"--slices={folder / 'slices.csv'}")
    _here("ingest", f"--run={run}")
    for name, values in list(predictions.items())[:2]:
        oof = pd.DataFrame(values, columns=list(LABELS)).fillna(0.1)
        oof.insert(0, "SOPInstanceUID", list(slices.index))
        path = folder / f"{name}.csv"
        oof.assign(fold=fold).to_csv(path, index=False)
        _here("import-predictions", f"--run={run}", f"--name={name}", f"--oof={path}")
    for stage in ("folds", "train", "predict", "features"):
        _here(stage, f"--run={run}")
    return run


def _here(*words: str) -> None:
    """Run a verb in this process, which has imported what it needs."""
    if command_line.main([*words, "--quiet"]):
        raise RuntimeError(f"{' '.join(words)} did not end well")


def measure(folder: Path, quick: bool) -> tuple[dict[int, float], dict[int, float]]:
    """Return ({processes: seconds of `tune`}, {processes: share of a linear gain}) of 1, 2, 16.

    The seconds of 16 processes are simulated from the searches of one process.
    """
    run = make_run(folder, quick)
    seconds: dict[int, float] = {}
    searches: list[StatedUnit] = []
    for processes in (1, 2):
        copy = folder / f"with-{processes}"
        shutil.copytree(run, copy)
        command("tune", f"--run={copy}", f"--workers={processes}")
        seconds[processes] = read_json(copy / "receipts" / "tune.json")["seconds"]
        if processes == 1:
            for label in COMMON_FIRST:  # as `tune` orders its units
                for path in sorted((copy / "stage2" / "tune").glob(f"{label}-*.receipt.json")):
                    took = read_json(path)["seconds"]
                    searches.append(StatedUnit(path.name, Resources(1), took))
    if len(searches) != len(LABELS) * FOLDS:
        raise RuntimeError(f"{len(searches)} searches have a receipt, not {len(LABELS) * FOLDS}")
    together = sum(unit.seconds for unit in searches)
    seconds[16] = simulate([Machine(16, 0)], searches)
    shares = {2: seconds[1] / 2 / seconds[2], 16: together / 16 / seconds[16]}
    return seconds, shares
