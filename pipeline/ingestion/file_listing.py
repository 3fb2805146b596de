"""The first unit of ingest: list the files of the source, and read the labels.

A zip archive's directory is read once; each later unit gets a list of its own files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ct.dicom.header_table import CHUNK_FILES
from ct.errors import InputError
from ct.kaggle_layout import Competition
from ct.label_tables.public_data import is_image_of, read_label_table
from ct.labels import read_labels
from ct.privacy.pseudonyms import EXACT_LENGTHS, LegacyKey
from ct.sources.file_list import PROBE, file_note, file_table, source_note
from ct.sources.file_reader import probe_names
from ct.sources.folder import Folder
from ct.sources.own_files import OwnStudies
from ct.sources.zip_archive import ZipArchive
from ct.storage.atomic_write import discard
from ct.storage.file_formats import write_json, write_table
from pipeline.ingestion.ingest_work import IngestWork, inputs_digest, pieces_of_units
from pipeline.receipt import Receipt, versions
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.units.unit import Log, MakeBar, Unit
from pipeline.units.unit_lock import join_lock

UNIT_CHUNKS = 16  # chunks of one unit: a few seconds from a local disk
NOT_FILES = ("label csv", "key")  # inputs of the stage that do not decide the headers and pixels
KEYS = ("data.source", "data.format", "data.labels", "labels", "data.sample")  # of the recipe

Chunk = tuple[str, int]  # split, number


def ingest_inputs(run: Run, read: Mapping[str, str]) -> dict[str, Any]:
    """Return the inputs that decide the content of the work folder, as plain values.

    read: digests of what the stage reads
    """
    files = {name: digest for name, digest in read.items() if name not in NOT_FILES}
    inputs = {"source": run.recipe.data.source, "files": files, "versions": versions()}
    return inputs | identifier_rule(run.pseudonym_key())


def identifier_rule(key: bytes) -> dict[str, str]:
    """Return what ingest.json notes of the rule for identifiers; {} for the earlier rule."""
    return {} if isinstance(key, LegacyKey) else {"identifiers": EXACT_LENGTHS}


def chunks_of_units(counts: Mapping[str, int]) -> list[list[Chunk]]:
    """Return the chunks of headers that each unit reads. counts: {split: number of files}"""
    chunks = [
        (split, number)
        for split, count in counts.items()
        for number in range(-(-count // CHUNK_FILES))
    ]
    return [
        chunks[pieces.start : pieces.stop] for pieces in pieces_of_units(len(chunks), UNIT_CHUNKS)
    ]


@dataclass(frozen=True)
class ListFiles(Unit):
    """Check the labels, list the files, and make the work folder."""

    read: dict[str, str]  # digests of what the stage reads

    @property
    def name(self) -> str:
        """Return "ingest/files"."""
        return "ingest/files"

    @property
    def extends_plan(self) -> bool:
        """Return True: the units that read headers are planned from the list."""
        return True

    @property
    def is_brief(self) -> bool:
        """Return True."""
        return True

    def why_not_done(self, verify: bool = False) -> str:
        """Return why the files must be listed, or ""."""
        run, work = Run(self.root), IngestWork(self.root)
        if work.inputs_digest() != inputs_digest(ingest_inputs(run, self.read)):
            return "" if self._is_stage_fresh(run) else "not made yet"
        return run.why_unit_is_stale(work.listing, self._part(run), self.read, verify)

    def run(self, log: Log, bar: MakeBar) -> None:
        """Read the labels, whose faults show in seconds, then list the files."""
        run, work = Run(self.root), IngestWork(self.root)
        found = run.find_source()
        labels, duplicates = _read_labels(run, found)
        with join_lock(run.dir.root, "ingest"):  # another shard may be finishing the stage
            if self._is_stage_fresh(run):
                return
        self._begin(run, work, log)
        work.check_key_digest(self.read["key"])
        receipt = Receipt(run.dir.root, work.listing, "ingest", self._part(run), self.read)
        receipt.made = [work.source, work.labels, work.header_lists]
        with receipt:
            write_table(work.labels, labels)
            names = _names(run, found)
            _write_lists(work, found.source, names)
            note = {
                "source": source_note(found.source),
                "files": {split: len(files) for split, files in names.items()},
                "probes": {split: probe_names(files) for split, files in names.items()},
                "labels": file_note(found.labels_csv),
                "sample": None if isinstance(found, OwnStudies) else file_note(found.sample_csv),
                "duplicate_label_rows": duplicates,
            }
            write_json(work.source, note)

    def _is_stage_fresh(self, run: Run) -> bool:
        """Return whether the stage is finished, and its work folder removed."""
        receipt, part = run.dir.receipt("ingest"), run.recipe_part(STAGES["ingest"].keys)
        return not run.why_unit_is_stale(receipt, part, self.read, verify=False)

    def _part(self, run: Run) -> dict[str, Any]:
        return run.recipe_part(KEYS) | {"chunk_files": CHUNK_FILES}

    def _begin(self, run: Run, work: IngestWork, log: Log) -> None:
        """Make the work folder anew, unless it is of the same inputs.

        Raises InputError where units of another ingest run.
        """
        inputs = ingest_inputs(run, self.read)
        if work.inputs_digest() == inputs_digest(inputs):
            return
        if work.inputs.exists():
            log(
                f"  {work.folder.name} was made from other inputs, or is damaged; "
                "the interrupted work starts again"
            )
        with work.held_alone(wait=False) as alone:
            if not alone:
                raise InputError(
                    "another process reads the files of this run as they were before they changed; "
                    "wait for it, or stop it"
                )
            work.begin(inputs)


def _read_labels(run: Run, found: Competition | OwnStudies) -> tuple[pd.DataFrame, int]:
    """Return (labels, number of identical rows that were dropped).

    The labels of own studies keep their keys: which slices they are of is known from the headers.
    """
    if not isinstance(found, OwnStudies):
        return read_labels(found.labels_csv)
    names, layout = run.recipe.labels.given(), run.recipe.data.format
    return read_label_table(found.labels_csv, layout, names), 0


def _names(run: Run, found: Competition | OwnStudies) -> dict[str, list[str]]:
    """Return {split: names of its files in the source, sorted}."""
    if not isinstance(found, OwnStudies):
        return found.files()
    layout = run.recipe.data.format
    return {"train": [name for name in found.names() if is_image_of(layout, name)], "test": []}


def _write_lists(
    work: IngestWork, source: Folder | ZipArchive, names: Mapping[str, list[str]]
) -> None:
    """Write the list of files of each unit that reads headers."""
    discard(work.header_lists)
    counts = {split: len(files) for split, files in names.items()}
    for number, chunks in enumerate(chunks_of_units(counts)):
        tables = []
        for split, chunk in chunks:
            first = chunk * CHUNK_FILES
            files = file_table(source, names[split][first : first + CHUNK_FILES])
            tables.append(files.assign(split=split, chunk=chunk))
        for split in dict(chunks):
            probes = file_table(source, probe_names(names[split]))
            tables.append(probes.assign(split=split, chunk=PROBE))
        write_table(work.header_list(number), pd.concat(tables, ignore_index=True), lasting=False)
