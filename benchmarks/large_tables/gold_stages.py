"""What the stages that hold all slices do, each to be measured in a process of its own.

The run is one of gold_run.py. Each function does its imports first.
"""

import numpy as np
import pandas as pd

from benchmarks.large_tables.gold_run import KEY
from benchmarks.large_tables.own_memory import measured
from ct.labels import LABELS
from ct.storage.file_formats import write_json


def index(folder):
    """Join the headers and the labels of all slices as `ingest` does; write the slice table."""
    from ct.dicom.header_table import join_header_chunks
    from ct.labels import read_labels
    from ct.slices import order_slices
    from ct.sources.folder import Folder
    from ct.storage.file_formats import read_table, write_table
    from pipeline.stage_data import slice_selection as selection
    from pipeline.stage_data.sample_rows import match_sample

    headers = folder / "headers"
    with measured() as cost:
        tables, quarantines = [], []
        for split in ("train", "test"):
            chunks = [read_table(path) for path in sorted(headers.glob(f"{split}/*.parquet"))]
            table, quarantine = join_header_chunks(chunks, Folder(headers), KEY, 1)
            tables.append(table.assign(split=split))
            quarantines.append(quarantine.assign(split=split))
        slices, quarantine = pd.concat(tables), pd.concat(quarantines)
        del tables, table
        selection.check_sets_disjoint(slices)
        on_disk = selection.train_ids(slices, quarantine)
        slices, _ = selection.separate_studies(slices, KEY)
        slices, _ = selection.take_patients(slices, None)
        labels, _ = read_labels(headers / "labels.csv")
        slices, _ = selection.join_labels(
            slices, labels, on_disk, headers / "labels.csv", KEY, False
        )
        test = slices.index[slices["split"] == "test"]
        match_sample(headers / "sample.csv", KEY, test, quarantine, "refuse")
        write_table(folder / "index" / "slices.parquet", order_slices(slices))
    return cost, [folder / "index"]


def folds(folder):
    """Assign the folds."""
    from pipeline.stages import folds as stage

    run, receipt = opened(folder, "folds")
    with measured() as cost:
        stage.folds(run, receipt)
    return cost, receipt.made


def probes(folder):
    """Fit the linear probes of every CNN and fold, one after the other."""
    from pipeline.stage_data.probe_unit import probe_units

    run, _ = opened(folder, "features")
    with measured() as cost:
        for unit in probe_units(run, {}):
            unit.run(run.log, run.bar)
    return cost, [run.dir.stage2 / "probes"]


def columns(folder):
    """Fit the Markov chains, and build the features of train and test slices."""
    from pipeline.stages import features as stage

    run, receipt = opened(folder, "features")
    with measured() as cost:
        stage.features(run, receipt)
    return cost, [run.dir.stage2 / "features"]


def blend(folder):
    """Blend random fits of every component, predict the test slices and score, as `stack` does."""
    from pipeline.stages import stack as stage

    run, receipt = opened(folder, "stack")
    write_fits_of_all(run)
    with measured() as cost:
        stage.stack(run, receipt)
    return cost, receipt.made


def write_fits_of_all(run):
    """Write random predictions of every component with models; none is better than the CNNs."""
    from pipeline.stage_data.component_fits import write_fits
    from pipeline.stage_data.run_tables import load_rows
    from pipeline.stages.stack import stacking_units
    from stage2_stack.components.component import load_component
    from stage2_stack.nested_cv import FittedComponent, NestedPredictions

    rng, k_folds, made_up = np.random.default_rng(0), run.recipe.folds.k, {"stacked": True}
    made_up |= {"rounds": 1, "params": {}, "why": ""}
    write_json(run.dir.stage2 / "configs.json", {label: [made_up] * k_folds for label in LABELS})
    _, _, fold, _, _ = load_rows(run.dir)
    outside = fold[None] != np.arange(k_folds)[:, None]
    for unit in stacking_units(run, {}):
        labels = [unit.label] if unit.label else load_component(unit.component).labels
        fits = {}
        for label in labels:
            logits = rng.normal(-2, 1, len(fold))
            nested = np.where(outside, logits, np.nan)
            fits[label] = FittedComponent(NestedPredictions(nested, logits))
        write_fits(unit.path, fits)


def report(folder):
    """Write the report, without pictures of slices: their number does not grow."""
    from pipeline.stages import report as stage

    run, receipt = opened(folder, "report")
    with measured() as cost:
        stage.report(run, receipt)
    return cost, receipt.made


def opened(folder, stage):
    """Return a Run without log and bars, and a Receipt of a stage that is never written."""
    from pipeline.progress import Bar
    from pipeline.receipt import Receipt
    from pipeline.run_context import Run

    def bar(total, text, unit):
        return Bar(total=total, disable=True)

    run = Run(folder / "run", lambda line: None, bar)
    return run, Receipt(run.dir.root, run.dir.receipt(stage), stage, {}, {})


STAGES = {
    function.__name__: function for function in (index, folds, probes, columns, blend, report)
}
