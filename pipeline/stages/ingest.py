"""The stage `ingest`: from DICOM files, or a slice list, to the slice table and the pixel cache."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ct.errors import InputError
from ct.patient_folds import fold_by_group
from ct.pixel_cache.shards import shard_path
from ct.pixel_cache.writer import finish_cache, matching_record, shard_parts, with_checksums
from ct.privacy.pseudonyms import public_paths
from ct.slices import PIXEL_COLUMNS, order_slices
from ct.storage.atomic_write import discard, flush, move_into_place, replacing
from ct.storage.file_formats import read_json, read_table, write_json, write_table
from ct.tables.slice_list import read_slice_list, split_by_study
from ct.tables.spreadsheet import write_sheet
from pipeline.freshness import stamp_files
from pipeline.ingestion.file_listing import ListFiles, chunks_of_units, identifier_rule
from pipeline.ingestion.header_units import ReadHeaders
from pipeline.ingestion.ingest_work import IngestWork
from pipeline.ingestion.pixel_units import WriteShards, shards_of_units
from pipeline.ingestion.slice_table_unit import SelectSlices
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.stage_data.ingest_counts import describe, summary
from pipeline.stage_data.sample_rows import match_sample
from pipeline.stage_data.slice_selection import (
    QUARANTINE_COLUMNS,
    clear_partial_labels,
    separate_studies,
    take_patients,
)
from pipeline.units.unit import Unit

MOST_PROCESSES = 8  # that decode copies of slices

Counts = dict[str, Any]


def ingest(run: Run, receipt: Receipt) -> None:
    """Write slices.parquet, quarantine.csv, ingest.json and, from DICOM files, pixels/."""
    if run.recipe.data.slices:
        counts = ingest_slice_list(run, receipt)
    else:
        counts = ingest_dicom(run, receipt)
    for line in describe(counts):
        run.log(f"  {line}")


def ingest_units(run: Run, read: dict[str, str]) -> list[Unit]:
    """Return the units of an ingest of DICOM files that are known so far.

    First the file list, then the headers and the slice table, then the pixels. Returns [] for a
    slice list.
    """
    if run.recipe.data.slices:
        return []
    root, work = str(run.dir.root), IngestWork(run.dir.root)
    units: list[Unit] = [ListFiles(root, read)]
    if units[0].why_not_done() or not work.listing.is_file():
        return units
    inputs, flag = work.inputs_digest(), run.quarantine_unreadable
    counts = read_json(work.source)["files"]
    chunks = chunks_of_units(counts)
    for number, some in enumerate(chunks):
        units.append(ReadHeaders(root, inputs, number, tuple(some), flag, run.started))
    files, processes = sum(counts.values()), min(run.engine.cores(), MOST_PROCESSES)
    select = SelectSlices(root, inputs, read, len(chunks), files, processes, flag)
    units.append(select)
    if not select.why_not_done():
        size = run.recipe.pixels.size
        for number in range(len(shards_of_units(read_json(work.counts)["slices"]))):
            units.append(WriteShards(root, inputs, number, size, flag, run.started))
    return units


def ingest_dicom(run: Run, receipt: Receipt) -> Counts:
    """Join what the units left in the work folder, and remove the folder. Returns the counts."""
    work = IngestWork(run.dir.root)
    with work.held_alone(wait=True):
        work.take_back_pixels()
        slices, pixels = _finish_pixels(run, work)
        slices = slices.join(pixels[list(PIXEL_COLUMNS)])
        unreadable = slices[~slices["readable"]]
        reasons = pixels.loc[unreadable.index, "reason"].array
        rows = unreadable[["path", "split"]].reset_index().assign(kind="pixels", reason=reasons)
        quarantine = pd.concat([read_table(work.header_quarantine), rows])[QUARANTINE_COLUMNS]
        noted = read_json(work.counts)
        counts: Counts = noted["labels"] | summary(slices, quarantine)
        counts |= {"duplicate_label_rows": noted["duplicate_label_rows"]} | noted["selection"]
        counts |= identifier_rule(run.pseudonym_key())
        public = slices.assign(path=public_paths(slices["path"], slices.index))
        receipt.made += _write_tables(run, public, quarantine.sort_values("path"), counts)
        discard(run.dir.series)
        if work.series.is_file():
            with replacing(run.dir.series) as part:
                write_sheet(part, read_table(work.series), index=False)
            receipt.made.append(run.dir.series)
        flush(work.pixels)
        # `replacing` would remove on an error what took hours to decode
        move_into_place(work.pixels, run.dir.pixels)
        receipt.made.append(run.dir.pixels)
        # before the work folder is removed: this takes minutes, and may be interrupted
        stamp_files(run.dir.root, receipt.made)
        discard(work.folder)
    return counts


def _finish_pixels(run: Run, work: IngestWork) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write the tables of the pixel cache. Returns (slice table, what `finish_cache` returns).

    Raises InputError where a shard is missing.
    """
    slices, size = read_table(work.slices), run.recipe.pixels.size
    records, paths = [], []
    for number, part in enumerate(shard_parts(slices)):
        path = shard_path(work.pixels, number)
        record = matching_record(work.shard_record(number), part, size)
        if record is None or not path.is_file():
            raise InputError(f"{path.name} of the ingest is gone; run `ingest` again")
        records.append(with_checksums(record, path))
        paths.append(path)
    for other in set(work.pixels.glob("*")) - set(paths):
        discard(other)  # of an interrupted ingest of more slices
    return slices, finish_cache(work.pixels, slices.index, records, size)


def ingest_slice_list(run: Run, receipt: Receipt) -> Counts:
    """Make the same files from a slice list, which has no pixels. Returns the counts.

    All slices count as readable; the columns of pixels are NaN.
    """
    key, data = run.pseudonym_key(), run.recipe.data
    assert data.slices is not None
    slices, study_counts = separate_studies(read_slice_list(data.slices, key), key)
    # the split comes after the studies: people who share one by mistake have one each by then
    slices, patient_counts = take_patients(split_by_study(slices), data.train_slices)
    where = f"{data.slices}, where a study with labels is in train as a whole"
    slices, unlabelled = clear_partial_labels(slices, where, data.allow_unlabelled)
    quarantine = pd.DataFrame(columns=QUARANTINE_COLUMNS, dtype=str)
    if data.sample:
        test = slices.index[slices["split"] == "test"]
        match_sample(Path(data.sample), key, test, quarantine, data.missing)
    discard(run.dir.listed_folds)
    if "fold" in slices:
        fold = slices.pop("fold").dropna()  # unlabelled slices get their study's from `folds`
        fold_by_group(slices, fold)  # raises where a patient or study is in two folds
        write_table(run.dir.listed_folds, pd.DataFrame({"fold": fold.astype(np.int8)}))
        receipt.made.append(run.dir.listed_folds)
    unknown = dict.fromkeys(PIXEL_COLUMNS, np.float32("nan"))
    slices = order_slices(slices).assign(
        **unknown | {"readable": True, "repaired_intercept": False}
    )
    counts: Counts = patient_counts | summary(slices, quarantine) | {"unlabelled": unlabelled}
    counts |= study_counts | identifier_rule(key)
    receipt.made += _write_tables(run, slices, quarantine, counts)
    return counts


def _write_tables(
    run: Run, slices: pd.DataFrame, quarantine: pd.DataFrame, counts: Counts
) -> list[Path]:
    """Write slice table, quarantine and counts. Returns their paths."""
    write_table(run.dir.slices, slices)
    with replacing(run.dir.quarantine) as part:
        write_sheet(part, quarantine, index=False, private=True)
    write_json(run.dir.ingest, counts)
    return [run.dir.slices, run.dir.quarantine, run.dir.ingest]
