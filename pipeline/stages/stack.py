"""The stage `stack`: a unit for each component and label, then their blend and the scores."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.averaging import combine_folds
from ct.errors import number_of
from ct.labels import LABELS
from ct.run_dir import RunDir
from ct.storage.atomic_write import discard, replacing
from ct.storage.file_formats import read_array, read_json, read_table, write_json, write_table
from ct.storage.receipt_reader import read_receipt
from ct.system.parallel_jobs import cores
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.stage_data.binned_files import FEATURES, BinnedFiles
from pipeline.stage_data.component_fits import models_of, read_fits, write_fits
from pipeline.stage_data.run_tables import load_rows, load_starts, load_test_fold
from pipeline.stage_data.stack_scores import score_stacks
from pipeline.stage_data.stage_two_resources import (
    ComponentFits,
    fit_memory_mb,
    fits_at_once,
    table_size,
    within_memory,
)
from pipeline.units.unit import Log, MakeBar, Resources, Unit
from stage2_stack.components import TUNED
from stage2_stack.components.component import Component, load_component
from stage2_stack.learners.nested_fit import SideBySide
from stage2_stack.stack_context import StackContext, StackData, make_context
from stage2_stack.stacker import Fitted, LabelStack, blend_all, chosen_components

Stacks = dict[str, LabelStack]
# what the fits read; beside it, those of tuned components read the settings of their label
READ_BY_FITS = ("slices.parquet", "folds.parquet", FEATURES, "stage2/features/names.json")


@dataclass(frozen=True)
class FitComponent(Unit):
    """Fit the nested and the final models of one component, and predict the training slices."""

    component: str
    label: str  # "" for a joint component: all its labels together
    read: dict[str, str]  # digests of READ_BY_FITS
    cores: int = 1  # fits run side by side on them
    memory_mb: int = 0

    @property
    def name(self) -> str:
        """Return "stack/<component>/<label>", or "stack/<component>"."""
        return "/".join(filter(None, ("stack", self.component, self.label)))

    @property
    def path(self) -> Path:
        """Return the path of the fits."""
        stem = "-".join(filter(None, (self.component, self.label)))
        return RunDir(self.root).fits / f"{stem}.safetensors"

    def takes(self) -> Resources:
        """Return the cores that the fits use side by side."""
        return Resources(self.cores, memory_mb=self.memory_mb)

    def why_not_done(self, verify: bool = False) -> str:
        """Return why the models must be fitted, or ""."""
        run = Run(self.root)
        return run.why_unit_is_stale(self._receipt(), self._part(run), self.read, verify)

    def run(self, log: Log, bar: MakeBar) -> None:
        """Fit the models."""
        run, component = Run(self.root, log, bar), load_component(self.component)
        labels = [self.label] if self.label else component.labels
        context = _context(run, self.read)
        receipt = Receipt(run.dir.root, self._receipt(), "stack", self._part(run), self.read)
        with receipt, bar(None, self._title, "fit") as fits:
            context.side_by_side = SideBySide(self.cores, fits.update)
            fitted = component.fit(context, labels)
            write_fits(self.path, fitted)
            receipt.made = [self.path]
            receipt.values["models"] = sum(map(len, models_of(fitted).values()))

    def summary(self) -> str:
        """Return the number of final models and the time; "" where no fold is stacked."""
        receipt = read_receipt(self._receipt())
        if not receipt or not receipt["models"]:
            return ""
        models = number_of(receipt["models"], "model")
        return f"{self._title}: {models}, {receipt['seconds']:.1f} s"

    @property
    def _title(self) -> str:
        return self.name.removeprefix("stack/").replace("/", " ")

    def _receipt(self) -> Path:
        return self.path.with_suffix(".receipt.json")

    def _part(self, run: Run) -> dict[str, Any]:
        """Return the unit's part of the recipe, and the settings that were tuned for its label."""
        component, config = load_component(self.component), run.recipe.stage2.model_dump()
        part: dict[str, Any] = {f"stage2.{name}": config[name] for name in component.reads}
        part |= {"seed": run.recipe.seed, "folds.k": run.recipe.folds.k}
        if component.name in TUNED:
            chosen = read_json(run.dir.stage2 / "configs.json")[self.label]
            names = ("stacked", "rounds", "params")
            part["tuned"] = [{name: of_fold[name] for name in names} for of_fold in chosen]
        return part


def stacking_units(run: Run, read: dict[str, str]) -> list[Unit]:
    """Return a FitComponent for each label of a component with models, or one for all labels.

    Those that take longest come first. [] before `tune` is done.
    """
    if not (run.dir.stage2 / "configs.json").exists():
        return []
    config, k_folds, root = run.recipe.stage2, run.recipe.folds.k, str(run.dir.root)
    own = {name: read[name] for name in READ_BY_FITS if name in read}
    fits = [
        ComponentFits.of(component, label, k_folds)
        for component in chosen_components(config)
        if component.learner
        for label in labels_of_units(component)
    ]
    fits.sort(key=lambda each: -each.work)
    rows, names = table_size(run.dir)
    units: list[Unit] = []
    for each, most in zip(
        fits,
        fits_at_once(fits, run.engine.cores() // config.threads, cores() // config.threads),
        strict=True,
    ):
        at_once, memory = within_memory(
            most, partial(fit_memory_mb, each.component, rows, names, k_folds)
        )
        taken = at_once * config.threads
        units.append(FitComponent(root, each.component, each.label, own, taken, memory))
    return units


def labels_of_units(component: Component) -> tuple[str, ...]:
    """Return the label of each unit of a component; "" for all of them."""
    return ("",) if component.joint else component.labels


def stack(run: Run, receipt: Receipt) -> None:
    """Blend the fitted components; write probabilities, models and scores."""
    read = receipt.values["read"]
    context = _context(run, read)
    data, test_X = context.data, read_array(run.dir.stage2 / "features" / "test.npy")
    with run.bar(2, "blending", "step") as bar:
        stacks = blend_all(context, _fitted(run, context, read), test_X, bar.update)
    receipt.made += _write_tables(run.dir, stacks)
    receipt.made += _write_models(run.dir, stacks, data.names)
    write_json(run.dir.stage2 / "scores.json", score_stacks(run, data, stacks))
    receipt.made.append(run.dir.stage2 / "scores.json")
    discard(run.dir.binned)  # of the features: nothing reads them any more
    if run.dir.stage_one_submission.exists():  # made before, perhaps with equal weights
        discard(run.dir.stage_one_submission)
        run.log("  removed submission-stage-one.csv; `submit --stage=one` makes it of this mean")


def _context(run: Run, read: dict[str, str]) -> StackContext:
    """Return the training slices, their nested folds and the settings. read: {name: digest}"""
    X, y, fold, patients, names = load_rows(run.dir)
    config, tuned = run.recipe.stage2, read_json(run.dir.stage2 / "configs.json")
    starts, test_starts = load_starts(run.dir)
    clipped = run.recipe.stage1.clipped
    data = StackData(X, y, fold, patients, names, starts, test_starts, clipped)
    store = BinnedFiles(run.dir, read, config.threads)
    return make_context(data, run.recipe.folds.k, tuned, config, run.recipe.seed, store)


def _fitted(run: Run, context: StackContext, read: dict[str, str]) -> dict[str, Fitted]:
    """Return {label: {component: its fit}}, components in the order of the registry.

    Those with models are read from the files of their units.
    """
    fitted: dict[str, Fitted] = {label: {} for label in LABELS}
    for component in chosen_components(context.config):
        if component.from_subtypes:
            continue  # blend_all fits it
        for label in labels_of_units(component):
            if component.learner:
                fits = read_fits(FitComponent(str(run.dir.root), component.name, label, read).path)
            else:
                fits = component.fit(context, [label])
            for of_label, each in fits.items():
                fitted[of_label][component.name] = each
    return fitted


def _write_tables(run: RunDir, stacks: Stacks) -> list[Path]:
    """Write the four tables of final probabilities. Returns their paths."""
    slices, test_fold = read_table(run.slices), load_test_fold(run)
    tables = {
        ("calibrated", "train"): _columns(stacks, "calibrated"),
        ("oof", "train"): _columns(stacks, "oof"),
        ("test", "test"): combine_folds(_columns(stacks, "test"), test_fold),
        ("calibrated_test", "test"): combine_folds(_columns(stacks, "calibrated_test"), test_fold),
    }
    paths = []
    for (name, split), values in tables.items():
        index = slices.index[slices["split"] == split]
        paths.append(run.stage2 / f"{name}.parquet")
        write_table(paths[-1], pd.DataFrame(values, index=index, columns=list(LABELS)))
    return paths


def _columns(stacks: Stacks, name: str) -> NDArray[np.float64]:
    """Return an attribute of all LabelStacks, (..., 6)."""
    return np.stack([getattr(stacks[label], name) for label in LABELS], axis=-1)


def _write_models(run: RunDir, stacks: Stacks, names: list[str]) -> list[Path]:
    """Write models, calibrations, weights, importances and contributions. Returns their paths."""
    with replacing(run.stage2 / "boosters") as part:
        part.mkdir()
        for label in LABELS:
            for name, model in stacks[label].models.items():
                (part / name).write_bytes(model)
    blends = {label: stacks[label].blends for label in LABELS}
    calibration = {
        label: [blend.platts["raw"]._asdict() for blend in of_label]
        for label, of_label in blends.items()
    }
    write_json(run.stage2 / "calibration.json", calibration)
    write_json(
        run.stage2 / "blend.json",
        {label: [blend.values() for blend in of_label] for label, of_label in blends.items()},
    )
    for table, attribute in (("importances", "gain"), ("contributions", "contributions")):
        columns = {label: getattr(stacks[label], attribute) for label in LABELS}
        by_feature = pd.DataFrame(columns, index=names).rename_axis("feature")
        write_table(run.stage2 / f"{table}.parquet", by_feature)
    written = (
        "boosters",
        "calibration.json",
        "blend.json",
        "importances.parquet",
        "contributions.parquet",
    )
    return [run.stage2 / name for name in written]
