"""A run folder of the recipe `gold` with any number of slices: real studies under new names.

Predictions and embeddings are made up; what stages do with them takes as long as with real ones.
"""

import numpy as np
import pandas as pd

from benchmarks.large_tables.repeated_studies import repeat
from ct.dicom.header_table import CHUNK_COLUMNS, CHUNK_FILES, DTYPES, TEXT, TEXT_COLUMNS
from ct.labels import KAGGLE_ORDER, LABELS
from ct.patient_folds import assign_folds
from ct.run_dir import RunDir
from ct.slices import ORIENTATION, POSITION
from ct.storage.file_formats import new_memory_map, write_json, write_table
from pipeline.recipe import find_recipe, load_recipe, save_recipe
from pipeline.stage_data.ingest_counts import summary
from pipeline.stage_data.slice_selection import QUARANTINE_COLUMNS

TRAIN, TEST = 752_803, 121_232  # slices of the competition
DIMENSIONS = (1280, 768, 2048, 1024)  # of gold's embeddings, CNN by CNN
TILE = 4096  # rows of embeddings that are drawn; then they repeat
FIRST_TEST = 0xF00000000  # number in the name of the first test slice
KEY = b"k" * 32  # of the pseudonyms: none is made of names in the competition's form


def split_tables(studies, count):
    """Return slice tables of about `count` train slices, and of test slices in proportion."""
    train, test = repeat(studies, count), repeat(studies, max(count * TEST // TRAIN, 1))
    for name in ("patient_id", "study_id", "series_id"):
        test[name] = "test-" + test[name]
    test.index = pd.Index([f"ID_{FIRST_TEST + row:09x}" for row in range(len(test))])
    test = test.rename_axis("slice_id").assign(split="test", **dict.fromkeys(LABELS, np.nan))
    return train, test


def write_headers(folder, train, test):
    """Write what ingest has of the headers of these slices, the label csv and the sample."""
    for split, table in (("train", train), ("test", test)):
        headers = header_rows(split, table)
        for number, first in enumerate(range(0, len(headers), CHUNK_FILES)):
            chunk = headers.iloc[first : first + CHUNK_FILES]
            path = folder / split / f"{number:05d}.parquet"
            write_table(path, chunk, lasting=False)
    write_labels(folder / "labels.csv", train.index, train[list(KAGGLE_ORDER)].to_numpy(int))
    write_labels(folder / "sample.csv", test.index, np.zeros((len(test), len(LABELS)), int))


def header_rows(split, table):
    """Return the rows of a slice table as the units of ingest keep them, sorted by path."""
    text = {name: table[name] for name in TEXT_COLUMNS if name in table}
    text |= {
        "path": [f"stage_2_{split}/{slice_id}.dcm" for slice_id in table.index],
        "transfer_syntax": "1.2.840.10008.1.2.1",
        "reason": "",
    }
    numbers = dict.fromkeys(POSITION[:2], -125.0) | {"ipp_z": table["position_mm"]}
    numbers |= dict(zip(ORIENTATION, (1.0, 0.0, 0.0, 0.0, 0.97, -0.24), strict=True))
    rows = table.assign(**text, **numbers)[list(CHUNK_COLUMNS)]
    return rows.astype(DTYPES | dict.fromkeys((*TEXT_COLUMNS, "reason"), TEXT))


def write_labels(path, slice_ids, y):
    """Write six rows a slice, as in the competition's files."""
    with open(path, "w", encoding="utf-8") as file:
        file.write("ID,Label\n")
        for slice_id, row in zip(slice_ids, y.tolist(), strict=True):
            file.writelines(
                f"{slice_id}_{label},{value}\n"
                for label, value in zip(KAGGLE_ORDER, row, strict=True)
            )


def write_run(folder, train, test):
    """Write the recipe, the slice table, and predictions and embeddings of every CNN and fold."""
    run, recipe = RunDir(folder), load_recipe(find_recipe("gold"))
    folder.mkdir(parents=True)
    save_recipe(run.recipe, recipe)
    slices = pd.concat([train, test]).assign(readable=True)
    write_table(run.slices, slices)
    folds = pd.DataFrame({"fold": assign_folds(slices, recipe.folds.k, recipe.seed)}, slices.index)
    write_table(run.folds, folds)
    fold = folds["fold"].to_numpy()[: len(train)]
    write_results(run, slices)
    rng = np.random.default_rng(0)
    for model, width in zip(recipe.stage1.models, DIMENSIONS, strict=True):
        oof = pd.DataFrame(rng.random((len(train), 6), np.float32), train.index, list(LABELS))
        write_table(run.oof(model.name), oof)
        for k in range(recipe.folds.k):
            home = run.fold(model.name, k)
            write_predictions(home / "held_out", oof[fold == k], width, rng)
            probs = rng.random((len(test), 6), np.float32)
            write_predictions(
                home / "test", pd.DataFrame(probs, test.index, list(LABELS)), width, rng
            )


def write_results(run, slices):
    """Write what the report reads of `ingest` and of stage two, with random probabilities."""
    quarantine = pd.DataFrame(columns=QUARANTINE_COLUMNS, dtype=str)
    quarantine.to_csv(run.quarantine, index=False)
    write_json(run.ingest, summary(slices, quarantine))
    rng = np.random.default_rng(1)
    for name in ("oof", "calibrated", "test", "calibrated_test"):
        rows = slices.index[slices["split"] == ("test" if "test" in name else "train")]
        table = pd.DataFrame(rng.random((len(rows), len(LABELS))), rows, list(LABELS))
        write_table(run.stage2 / f"{name}.parquet", table)


def write_predictions(path, table, width, rng):
    """Write a table of probabilities and embeddings of so many dimensions."""
    write_table(path.with_suffix(".parquet"), table, lasting=False)
    shape = len(table), width
    array = new_memory_map(path.with_name(f"{path.name}_embeddings.npy"), np.float16, shape)
    tile = rng.normal(size=(TILE, width)).astype(np.float16)
    for first in range(0, len(array), TILE):
        array[first : first + TILE] = tile[: len(array) - first]
    array.flush()
