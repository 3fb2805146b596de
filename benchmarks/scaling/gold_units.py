"""The units of the recipe `gold` with stated times: what its simulated schedule is made of.

Stage one: images/s that timm publishes for one RTX 3090 (results/benchmark-train-amp-nhwc-pt112-
cu113-rtx3090.csv and benchmark-infer-..., mixed precision, channels last), scaled to 384 pixels by
the number of pixels where they were measured at another size. Nothing is lost on the way.

Stage two: rates measured on one core here, scaled by rows, rounds and columns as at the head of
recipes/gold.yaml. How a fit gains from threads is measured here for two threads; for more it is
Amdahl's law with the serial share that follows from it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ct.labels import LABELS
from features.build import feature_names
from pipeline.engines.placement import threads_each
from pipeline.recipe import find_recipe, load_recipe
from pipeline.stage_data.stage_two_resources import (
    ComponentFits,
    bins_memory_mb,
    fit_memory_mb,
    fits_at_once,
    search_memory_mb,
)
from pipeline.training.unit_resources import cnn_resources
from pipeline.units.unit import Resources
from stage2_stack.components.component import load_component

GOLD = load_recipe(find_recipe("gold"))
TRAIN_SLICES, TEST_SLICES = 752_803, 121_232
NAMES = feature_names([model.name for model in GOLD.stage1.models], GOLD.features)
FOLDS, TRIALS, ROUNDS = GOLD.folds.k, GOLD.stage2.trials, GOLD.stage2.max_rounds
FIT_ROWS = TRAIN_SLICES * (FOLDS - 1) // FOLDS  # a final model; 602,242
NESTED_ROWS = TRAIN_SLICES * (FOLDS - 2) // FOLDS  # a nested model or a trial's fit; 451,681


class Rate(NamedTuple):
    """Published images/s of a backbone, and the pixels of a side that they hold for."""

    train: float
    train_size: int
    predict: float
    predict_size: int


PUBLISHED = {
    "tf_efficientnetv2_s.in21k_ft_in1k": Rate(488.25, 300, 1191.03, 384),
    "convnext_tiny.fb_in22k_ft_in1k_384": Rate(282.39, 384, 814.55, 384),
    "seresnext50_32x4d.racm_in1k": Rate(814.69, 224, 2741.98, 224),
    "densenet121.ra_in1k": Rate(913.65, 224, 2936.15, 224),
}
START = 20.0  # s to start a process, import torch and load weights
CORE_MINUTES = {"ingest/headers": 3, "ingest/pixels": 47}  # docs/kaggle.md
INGEST_UNITS = 200  # of headers, and of pixels: more than there are cores
LIST_FILES, SLICE_TABLE = 30.0, 30.0  # s: the directory of the zip takes 9
DISK_GB = {"zip read": 190, "pixel cache written": 102}
DISK_GB_A_SECOND = 1.0  # of the shared disk, an assumption: ten-gigabit network or one NVMe disk
PROBE = 10.0  # s of a core, of 150,561 embeddings (benchmarks.growth)
FEATURE_TABLES = 45.0  # s: one train table and five test tables, after the probes (the same)
# s of one LightGBM fit of 31,000 rows, 234 columns, 200 rounds on one core, and the factors of
# more columns and of memory bandwidth that 16 fits share
BASE_FIT, BASE_ROWS, BASE_ROUNDS, MORE_COLUMNS, BANDWIDTH = 3.0, 31_000, 200, 1.2, 1.5
# s to bin all columns, and those of a label's narrower scopes: a minute for 1000 columns
ALL_BINS, BINS = 60.0, 20.0
JOINS = {"folds": 10.0, "train": 10.0, "tune": 5.0, "stack": 550.0, "submit": 15.0, "report": 60.0}
SPEEDUP_OF_TWO = 1.85  # of one fit with two threads (benchmarks.scale_out measures it)


class StatedUnit(NamedTuple):
    """A unit of a stage and how long it takes."""

    name: str
    takes: Resources
    seconds: float
    needs: tuple[str, ...] = ()


class StatedStage(NamedTuple):
    """The units of a stage, and what no engine makes faster."""

    name: str
    units: list[StatedUnit]
    join: float = 0.0  # s of one process after the units
    disk: float = 0.0  # s that the shared disk needs at least, whoever reads


def thread_speedup(threads: int) -> float:
    """Return how much faster a LightGBM fit is with more threads, by Amdahl's law."""
    serial = 2 / SPEEDUP_OF_TWO - 1
    return 1 / (serial + (1 - serial) / threads)


def fit_seconds(rows: int, threads: int = 1) -> float:
    """Return the seconds of one fit of all rounds."""
    one_core = BASE_FIT * rows / BASE_ROWS * ROUNDS / BASE_ROUNDS * MORE_COLUMNS * BANDWIDTH
    return one_core / thread_speedup(threads)


def gold_stages(machines: int, cores: int) -> Iterator[StatedStage]:
    """Yield the stages of a `gold` run in their order. cores: of each machine"""
    disk = sum(DISK_GB.values()) / DISK_GB_A_SECOND
    yield StatedStage("ingest", list(_ingest_units()), disk=disk)
    yield StatedStage("folds", [], JOINS["folds"])
    yield StatedStage("train", list(_cnn_units("train")), JOINS["train"])
    yield StatedStage("predict", list(_cnn_units("predict")))
    probes = [
        StatedUnit(f"features/probe/{unit.name}", Resources(1), PROBE)
        for unit in _cnn_units("predict")
    ]
    yield StatedStage("features", probes, FEATURE_TABLES)
    threads = threads_each(machines * cores, len(LABELS) * FOLDS)
    yield StatedStage("tune", list(search_units(threads)), JOINS["tune"])
    yield StatedStage("stack", list(_stack_units(cores, machines * cores)), JOINS["stack"])
    yield StatedStage("submit", [], JOINS["submit"])
    yield StatedStage("report", [], JOINS["report"])


def cnn_hours() -> dict[str, tuple[float, float, float]]:
    """Return {CNN: hours of one fold's (fit, held-out predictions, test predictions)}."""
    hours = {}
    for model in GOLD.stage1.models:
        rate = PUBLISHED[model.backbone]
        train = rate.train * (rate.train_size / GOLD.pixels.size) ** 2
        predict = rate.predict * (rate.predict_size / GOLD.pixels.size) ** 2 / (1 + len(model.tta))
        hours[model.name] = (
            FIT_ROWS * model.epochs / train / 3600,
            TRAIN_SLICES / FOLDS / predict / 3600,
            TEST_SLICES / predict / 3600,
        )
    return hours


def fit_units() -> list[StatedUnit]:
    """Return the 20 fits alone, without the predictions of the held-out slices."""
    return [
        StatedUnit(f"{name}/fold{k}", Resources(2, 1), 3600 * fit)
        for name, (fit, _, _) in cnn_hours().items()
        for k in range(FOLDS)
    ]


def search_units(threads: int) -> Iterator[StatedUnit]:
    """Yield the searches of `tune`, and the bins that they need.

    Every trial of a search runs all its fits: none is pruned.
    """
    seconds = TRIALS * (FOLDS - 1) * fit_seconds(NESTED_ROWS, threads)
    for label in LABELS:
        memory_mb = search_memory_mb(TRAIN_SLICES, NAMES, FOLDS, label)
        takes, needs = Resources(threads, 0, memory_mb), ("tune/bins/all", f"tune/bins/{label}")
        for k in range(FOLDS):
            yield StatedUnit(f"tune/{label}/fold{k}", takes, seconds, needs)
    for label in ("", *LABELS):
        takes = Resources(1, 0, bins_memory_mb(TRAIN_SLICES, NAMES, label))
        yield StatedUnit(f"tune/bins/{label or 'all'}", takes, BINS if label else ALL_BINS)


def _ingest_units() -> Iterator[StatedUnit]:
    """Yield the list of files, header chunks, the slice table, and pixel shards."""
    names = [f"ingest/headers/{number}" for number in range(INGEST_UNITS)]
    yield StatedUnit("ingest/files", Resources(1), LIST_FILES)
    seconds = 60 * CORE_MINUTES["ingest/headers"] / INGEST_UNITS
    for name in names:
        yield StatedUnit(name, Resources(1), seconds, ("ingest/files",))
    yield StatedUnit("ingest/slices", Resources(1), SLICE_TABLE, tuple(names))
    seconds = 60 * CORE_MINUTES["ingest/pixels"] / INGEST_UNITS
    for number in range(INGEST_UNITS):
        yield StatedUnit(f"ingest/pixels/{number}", Resources(1), seconds, ("ingest/slices",))


def _cnn_units(stage: str) -> Iterator[StatedUnit]:
    """Yield the units of `train` or `predict`: the CNNs in the order of the recipe, then folds."""
    for name, (fit, held_out, test) in cnn_hours().items():
        hours = fit + held_out if stage == "train" else test
        takes = cnn_resources(GOLD.stage1.model(name), GOLD.pixels.size, TRAIN_SLICES + TEST_SLICES)
        for k in range(FOLDS):
            yield StatedUnit(f"{stage}/{name}/fold{k}", takes, START + 3600 * hours)


def _stack_units(cores: int, all_cores: int) -> Iterator[StatedUnit]:
    """Yield the fits of the boosters: one unit a label, and one of the pooled component.

    A fit has `blend_rounds` times the rounds of a trial, at most. All other components take
    seconds. Fits of one unit run side by side, one core each; the final ones wait for the rounds
    that the nested ones give.
    """
    pooled, booster = load_component("pooled"), load_component("lightgbm")
    units = [ComponentFits.of(pooled, "", FOLDS)]
    units += [ComponentFits.of(booster, label, FOLDS) for label in LABELS]
    for unit, side_by_side in zip(units, fits_at_once(units, all_cores, cores), strict=True):
        labels = 1 if unit.label else len(pooled.labels)  # the pooled booster has the rows of all
        seconds = -(-unit.most // side_by_side) * fit_seconds(labels * NESTED_ROWS)
        seconds += -(-FOLDS // side_by_side) * fit_seconds(labels * FIT_ROWS)
        memory_mb = fit_memory_mb(unit.component, TRAIN_SLICES, NAMES, FOLDS, side_by_side)
        seconds *= GOLD.stage2.blend_rounds
        takes = Resources(side_by_side, 0, memory_mb)
        yield StatedUnit(f"stack/{unit.label or unit.component}", takes, seconds)
