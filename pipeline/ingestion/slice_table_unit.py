"""The unit of ingest that makes the slice table: joined headers, selection, labels, order."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ct.dicom.header_table import join_header_chunks
from ct.pixel_cache.writer import shard_parts
from ct.privacy.pseudonyms import pseudonym
from ct.slices import order_slices
from ct.sources.file_list import PROBE, file_table, noted_file
from ct.sources.file_reader import probe_names
from ct.sources.folder import Folder
from ct.sources.zip_archive import ZipArchive
from ct.storage.atomic_write import discard
from ct.storage.file_formats import read_json, read_table, write_json, write_table
from ct.storage.kept_pieces import pieces_digest
from ct.submission import read_sample
from pipeline.ingestion.file_listing import Chunk, chunks_of_units
from pipeline.ingestion.ingest_work import IngestWork
from pipeline.ingestion.label_join import OwnLabels, labelled_slices, matched_labels
from pipeline.ingestion.pixel_units import shards_of_units
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.stage_data.own_series import ChosenSeries, choose_own_series
from pipeline.stage_data.sample_rows import match_sample
from pipeline.stage_data.slice_selection import (
    check_sets_disjoint,
    separate_studies,
    take_patients,
    train_ids,
)
from pipeline.units.unit import Log, MakeBar, Resources, Unit

FIXED_MB, BYTES_A_FILE = 300, 1500  # of a process: 1,353 MB with 874,035 files of a zip
KEYS = (  # of the recipe
    "data.source",
    "data.format",
    "data.labels",
    "labels",
    "data.train_slices",
    "data.series",
    "data.allow_unlabelled",
)

Tables = tuple[pd.DataFrame, pd.DataFrame]  # slices, quarantine


@dataclass(frozen=True)
class SelectSlices(Unit):
    """Join the headers of all files, select the slices of the run and join their labels."""

    inputs: str  # digest of the inputs of the ingest
    read: dict[str, str]  # digests of what the stage reads
    header_units: int
    files: int
    processes: int  # that decode where several files are of one slice
    quarantine_unreadable: bool  # as in ct.sources.source.Source

    @property
    def name(self) -> str:
        """Return "ingest/slices"."""
        return "ingest/slices"

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the names of the units that read the headers."""
        return tuple(f"ingest/headers/{number}" for number in range(self.header_units))

    @property
    def extends_plan(self) -> bool:
        """Return True: the units that read pixels are planned from the slice table."""
        return True

    @property
    def is_brief(self) -> bool:
        """Return True."""
        return True

    def takes(self) -> Resources:
        """Return its processes, and memory for the headers of all files."""
        return Resources(self.processes, memory_mb=FIXED_MB + self.files * BYTES_A_FILE // 10**6)

    def why_not_done(self, verify: bool = False) -> str:
        """Return why the slice table must be made, or ""."""
        run, work = Run(self.root), IngestWork(self.root)
        if work.inputs_digest() != self.inputs:
            return "of other inputs"
        read = self._read(work)
        return run.why_unit_is_stale(work.selection, run.recipe_part(KEYS), read, verify)

    def run(self, log: Log, bar: MakeBar) -> None:
        """Write slice table, quarantine, counts, and the list of files of each unit of pixels."""
        run, work = Run(self.root, log, bar), IngestWork(self.root)
        with work.held(self.inputs):
            part, read = run.recipe_part(KEYS), self._read(work)
            receipt = Receipt(run.dir.root, work.selection, "ingest", part, read)
            receipt.made = [work.slices, work.header_quarantine, work.counts, work.pixel_lists]
            with receipt:
                source = work.whole_source()
                source.quarantine_unreadable = self.quarantine_unreadable
                slices, quarantine = self._join_headers(work, source, run.pseudonym_key())
                own = matched_labels(run, work, slices, log)
                chosen = self._choose_series(run, work, source, slices, own)
                if chosen.table is not None:
                    write_table(work.series, chosen.table)
                    receipt.made.append(work.series)
                quarantine = pd.concat([quarantine, chosen.strays], ignore_index=True)
                on_disk = train_ids(slices, quarantine)
                slices, counts = _select(run, work, chosen.slices, quarantine, on_disk, own)
                counts["selection"] |= chosen.counts
                write_table(work.slices, slices)
                write_table(work.header_quarantine, quarantine)
                write_json(work.counts, counts)
                _write_lists(work, source, slices)

    def _read(self, work: IngestWork) -> dict[str, str]:
        chunks = [work.header_chunk(*chunk) for chunk in _chunks(work)]
        return self.read | {"headers": pieces_digest(chunks)}

    def _join_headers(self, work: IngestWork, source: Folder | ZipArchive, key: bytes) -> Tables:
        """Return (header table, quarantine), both with `split`.

        Paths are relative to the source.
        """
        tables, quarantines, probes = [], [], read_json(work.source)["probes"]
        for split in ("train", "test"):
            chunks = [chunk for chunk in _chunks(work) if chunk[0] == split]
            headers = [read_table(work.header_chunk(*chunk)) for chunk in chunks]
            source.probes = tuple(source.select(probes[split]))
            table, quarantine = join_header_chunks(headers, source, key, self.processes)
            tables.append(table.assign(split=split))
            quarantines.append(quarantine.assign(split=split))
        return pd.concat(tables), pd.concat(quarantines, ignore_index=True)

    def _choose_series(
        self,
        run: Run,
        work: IngestWork,
        source: Folder | ZipArchive,
        slices: pd.DataFrame,
        own: OwnLabels | None,
    ) -> ChosenSeries:
        """Choose a series of each study of the user's own data."""
        check_sets_disjoint(slices)
        key, note = run.pseudonym_key(), read_json(work.source)
        discard(work.series)

        def named() -> set[str]:
            if own is not None:
                return set(own.table.index)
            names = read_sample(noted_file(note["sample"]))[1]
            labelled = [*read_table(work.labels).index, *pd.unique(pd.Series(names))]
            return {pseudonym(name, key, "slice") for name in labelled}

        if run.recipe.data.series == "all":
            return ChosenSeries(slices)
        return choose_own_series(slices, source, key, named, self.processes)


def _chunks(work: IngestWork) -> list[Chunk]:
    """Return all chunks of headers."""
    units = chunks_of_units(read_json(work.source)["files"])
    return [chunk for chunks in units for chunk in chunks]


def _select(
    run: Run,
    work: IngestWork,
    slices: pd.DataFrame,
    quarantine: pd.DataFrame,
    on_disk: set[str],
    own: OwnLabels | None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Select the slices of the run and join their labels. Returns (slices in order, counts).

    on_disk: ids of all train slices with a file, those of series that are passed over included;
    own: labels of the user's own studies
    """
    key, data, note = run.pseudonym_key(), run.recipe.data, read_json(work.source)
    slices, study_counts = separate_studies(slices, key, work.unclear)
    slices, patient_counts = take_patients(slices, data.train_slices)
    slices, label_counts = labelled_slices(run, work, slices, on_disk, own)
    if note["sample"] is not None:
        test = slices.index[slices["split"] == "test"]
        match_sample(noted_file(note["sample"]), key, test, quarantine, data.missing)
    counts = {
        "slices": len(slices),
        "labels": label_counts,
        "duplicate_label_rows": note["duplicate_label_rows"],
        "selection": patient_counts | study_counts,
    }
    return order_slices(slices), counts


def _write_lists(work: IngestWork, source: Folder | ZipArchive, slices: pd.DataFrame) -> None:
    """Write the list of files of each unit that reads pixels."""
    discard(work.pixel_lists)
    parts = shard_parts(slices)
    probes = file_table(source, probe_names(slices["path"].tolist()))
    probes = probes.assign(shard=PROBE, slice_id="", pixel_spacing_mm=np.float32("nan"))
    for number, shards in enumerate(shards_of_units(len(slices))):
        tables = [probes]
        for shard in shards:
            part = parts[shard].reset_index()
            files = file_table(source, part["path"].tolist()).assign(shard=shard)
            tables.append(files.join(part[["slice_id", "pixel_spacing_mm"]]))
        write_table(work.pixel_list(number), pd.concat(tables, ignore_index=True), lasting=False)
