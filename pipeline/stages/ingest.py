"""The stage `ingest`: from DICOM files, or a slice list, to the slice table and the pixel cache."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ct.dicom.header_table import read_headers
from ct.errors import InputError
from ct.kaggle_layout import Competition
from ct.labels import LABELS, read_labels
from ct.patient_folds import check_folds
from ct.pixel_cache.writer import write_cache
from ct.privacy.pseudonyms import EXACT_LENGTHS, LegacyKey, public_paths
from ct.slices import PIXEL_COLUMNS, order_slices
from ct.storage.atomic_write import discard, flush, move_into_place, replacing
from ct.storage.file_formats import write_json, write_table
from ct.storage.ingest_work import check_key_digest, prepare_ingest_work, resumable_folder
from ct.tables.slice_list import read_slice_list
from ct.tables.spreadsheet import write_sheet
from pipeline.freshness import stamp_files
from pipeline.receipt import Receipt, versions
from pipeline.run_context import Run
from pipeline.stage_data.ingest_counts import describe, summary
from pipeline.stage_data.sample_rows import match_sample
from pipeline.stage_data.slice_selection import (
    QUARANTINE_COLUMNS,
    check_sets_disjoint,
    join_labels,
    separate_studies,
    take_patients,
    train_ids,
)

Tables = tuple[pd.DataFrame, pd.DataFrame]  # slices, quarantine
Counts = dict[str, Any]


def ingest(run: Run, receipt: Receipt) -> None:
    """Write slices.parquet, quarantine.csv, ingest.json and, from DICOM files, pixels/."""
    if run.recipe.data.slices:
        counts = ingest_slice_list(run, receipt)
    else:
        counts = ingest_dicom(run, receipt)
    for line in describe(counts):
        run.log(f"  {line}")


def ingest_dicom(run: Run, receipt: Receipt) -> Counts:
    """Read headers, labels and pixels of the source. Returns the counts.

    What is read stays in a work folder until everything is written, so that an interrupted ingest
    continues.
    """
    competition, key = run.find_source(), run.pseudonym_key()
    competition.source.quarantine_unreadable = run.quarantine_unreadable
    labels, duplicates = read_labels(competition.labels_csv)  # first: its faults show in seconds
    read = receipt.values["read"]
    files = {name: digest for name, digest in read.items() if name not in ("label csv", "key")}
    inputs = {"source": run.recipe.data.source, "files": files, "versions": versions()}
    rule = identifier_rule(key)
    with resumable_folder(run.dir.ingest_work, inputs | rule, run.log) as work:
        check_key_digest(work / "key.txt", read["key"])
        prepare_ingest_work(work, run.dir.pixels, run.log)
        slices, quarantine, label_counts, selection_counts = select_slices(
            run, competition, labels, key, work
        )
        slices, quarantine = read_pixels(run, competition, slices, quarantine, work)
        counts: Counts = label_counts | summary(slices, quarantine)
        counts |= {"duplicate_label_rows": duplicates} | selection_counts | rule
        public = slices.assign(path=public_paths(slices["path"], slices.index))
        receipt.made += _write_tables(run, public, quarantine.sort_values("path"), counts)
        flush(work / "pixels")
        # `replacing` would remove on an error what took hours to decode
        move_into_place(work / "pixels", run.dir.pixels)
        receipt.made.append(run.dir.pixels)
        # before the work folder is removed: this takes minutes, and may be interrupted
        stamp_files(run.dir.root, receipt.made)
    return counts


def select_slices(
    run: Run, competition: Competition, labels: pd.DataFrame, key: bytes, work: Path
) -> tuple[pd.DataFrame, pd.DataFrame, Counts, Counts]:
    """Read all headers, select the slices of the run and join their labels.

    Returns (slices in order, quarantine, counts of labels, counts of studies and patients).
    """
    data = run.recipe.data
    slices, quarantine = read_sets(run, competition, key, work)
    check_sets_disjoint(slices)
    on_disk = train_ids(slices, quarantine)
    slices, study_counts = separate_studies(slices, key, work / "quarantine.csv")
    slices, patient_counts = take_patients(slices, data.train_slices)
    slices, label_counts = join_labels(
        slices, labels, on_disk, competition.labels_csv, key, data.allow_unlabelled
    )
    test = slices.index[slices["split"] == "test"]
    match_sample(competition.sample_csv, key, test, quarantine, data.missing)
    return order_slices(slices), quarantine, label_counts, patient_counts | study_counts


def ingest_slice_list(run: Run, receipt: Receipt) -> Counts:
    """Make the same files from a slice list, which has no pixels. Returns the counts.

    All slices count as readable; the columns of pixels are NaN.
    """
    key, data = run.pseudonym_key(), run.recipe.data
    assert data.slices is not None
    slices, study_counts = separate_studies(read_slice_list(data.slices, key), key)
    slices, patient_counts = take_patients(slices, data.train_slices)
    slices, unlabelled = _without_partial_labels(slices, data.slices, data.allow_unlabelled)
    quarantine = pd.DataFrame(columns=QUARANTINE_COLUMNS, dtype=str)
    if data.sample:
        test = slices.index[slices["split"] == "test"]
        match_sample(Path(data.sample), key, test, quarantine, data.missing)
    discard(run.dir.listed_folds)
    if "fold" in slices:
        fold = slices.pop("fold")
        check_folds(slices, fold.fillna(-1).to_numpy())
        train_fold = fold[slices["split"] == "train"].astype(np.int8)
        write_table(run.dir.listed_folds, pd.DataFrame({"fold": train_fold}))
        receipt.made.append(run.dir.listed_folds)
    unknown = dict.fromkeys(PIXEL_COLUMNS, np.float32("nan"))
    slices = order_slices(slices).assign(
        **unknown | {"readable": True, "repaired_intercept": False}
    )
    counts: Counts = patient_counts | summary(slices, quarantine) | {"unlabelled": unlabelled}
    counts |= study_counts | identifier_rule(key)
    receipt.made += _write_tables(run, slices, quarantine, counts)
    return counts


def _without_partial_labels(
    slices: pd.DataFrame, path: str, allow_unlabelled: bool
) -> tuple[pd.DataFrame, int]:
    """Remove the labels of train slices that have only some. Returns (slices, number of them)."""
    known = slices[list(LABELS)].notna().all(axis=1)
    unlabelled = slices.index[(slices["split"] == "train") & ~known]
    if len(unlabelled) and not allow_unlabelled:
        raise InputError(
            f"{len(unlabelled)} slices have some labels and lack others, the first is "
            f"{unlabelled[0]}; complete {path}, or leave such slices out of training with "
            "--allow-unlabelled"
        )
    slices.loc[unlabelled, list(LABELS)] = np.nan
    return slices, len(unlabelled)


def _write_tables(
    run: Run, slices: pd.DataFrame, quarantine: pd.DataFrame, counts: Counts
) -> list[Path]:
    """Write slice table, quarantine and counts. Returns their paths."""
    write_table(run.dir.slices, slices)
    with replacing(run.dir.quarantine) as part:
        write_sheet(part, quarantine, index=False, private=True)
    write_json(run.dir.ingest, counts)
    return [run.dir.slices, run.dir.quarantine, run.dir.ingest]


def read_sets(run: Run, competition: Competition, key: bytes, work: Path) -> Tables:
    """Read the headers of train and test. Returns (header table, quarantine), both with `split`.

    Paths are relative to the source.
    """
    tables, quarantines = [], []
    for split, folder in (("train", competition.train_dir), ("test", competition.test_dir)):
        files = competition.source.files(folder.name)
        with run.bar(len(files), f"{split} headers", "file") as bar:
            table, quarantine = read_headers(
                competition.source, files, key, run.workers, bar.reach, work / f"{split}-headers"
            )
        tables.append(table.assign(split=split))
        quarantines.append(quarantine.assign(split=split))
    return pd.concat(tables), pd.concat(quarantines, ignore_index=True)


def read_pixels(
    run: Run, competition: Competition, slices: pd.DataFrame, quarantine: pd.DataFrame, work: Path
) -> Tables:
    """Write the pixel cache to the work folder.

    Returns (slices with PIXEL_COLUMNS, quarantine with the slices that do not decode).
    """
    with run.bar(len(slices), "pixels", "slice") as bar:
        pixels = write_cache(
            work / "pixels",
            competition.source,
            slices,
            run.recipe.pixels.size,
            run.workers,
            bar.reach,
            work / "shards",
            run.log,
        )
    slices = slices.join(pixels[list(PIXEL_COLUMNS)])
    unreadable = slices[~slices["readable"]]
    reasons = pixels.loc[unreadable.index, "reason"].array
    rows = unreadable[["path", "split"]].reset_index().assign(kind="pixels", reason=reasons)
    return slices, pd.concat([quarantine, rows])[QUARANTINE_COLUMNS]


def identifier_rule(key: bytes) -> dict[str, str]:
    """Return what ingest.json notes of the rule for identifiers; {} for the earlier rule."""
    return {} if isinstance(key, LegacyKey) else {"identifiers": EXACT_LENGTHS}
