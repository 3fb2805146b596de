"""The units of ingest that read headers: some chunks of files each."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ct.dicom.header_table import is_header_chunk, read_header_chunk
from ct.sources.file_list import NAME, PROBE, chosen_files, listed_source
from ct.storage.file_formats import read_json, read_table
from ct.storage.kept_pieces import is_damaged, is_kept, keep_piece
from pipeline.ingestion.file_listing import Chunk
from pipeline.ingestion.ingest_work import IngestWork
from pipeline.run_context import Run
from pipeline.units.unit import Log, MakeBar, Resources, Unit

MEMORY_MB = 250  # of a process, which takes 189


@dataclass(frozen=True)
class ReadHeaders(Unit):
    """Read the headers of some chunks of files, each into a table of its own."""

    inputs: str  # digest of the inputs of the ingest
    number: int
    chunks: tuple[Chunk, ...]
    quarantine_unreadable: bool  # as in ct.sources.source.Source
    since: float  # a time: of earlier chunks those count in which every file could be read

    @property
    def name(self) -> str:
        """Return "ingest/headers/<number>"."""
        return f"ingest/headers/{self.number}"

    @property
    def is_brief(self) -> bool:
        """Return True."""
        return True

    def takes(self) -> Resources:
        """Return a core, and the memory of a process."""
        return Resources(memory_mb=MEMORY_MB)

    def why_not_done(self, verify: bool = False) -> str:
        """Return why headers must be read, or "".

        verify: compare the names of the files, too
        """
        work = IngestWork(self.root)
        if work.inputs_digest() != self.inputs:
            return "of other inputs"
        paths = [work.header_chunk(*chunk) for chunk in self.chunks]
        if not all(is_kept(path, self.since) for path in paths):
            return "not read yet"
        if verify:
            files = read_table(work.header_list(self.number))
            for path, chunk in zip(paths, self.chunks, strict=True):
                if not is_header_chunk(path, _names(files, chunk)):
                    return "read by another version"
        return ""

    def run(self, log: Log, bar: MakeBar) -> None:
        """Read the chunks that are missing."""
        work = IngestWork(self.root)
        with work.held(self.inputs):
            files = read_table(work.header_list(self.number))
            source = listed_source(read_json(work.source)["source"], files)
            source.quarantine_unreadable = self.quarantine_unreadable
            key = Run(self.root).pseudonym_key()
            with bar(int((files["chunk"] != PROBE).sum()), "headers", "file") as shown:
                for chunk in self.chunks:
                    path, names = work.header_chunk(*chunk), _names(files, chunk)
                    if not self._is_read(path, names, log):
                        chosen = chosen_files(source, names, _names(files, (chunk[0], PROBE)))
                        keep_piece(path, *read_header_chunk(chosen, names, key))
                    shown.update(len(names))

    def _is_read(self, path: Path, names: list[str], log: Log) -> bool:
        """Return whether an earlier call read a chunk."""
        if is_damaged(path):
            log(f"  {path.parent.name}/{path.name} is damaged; it is made anew")
        return is_kept(path, self.since) and is_header_chunk(path, names)


def _names(files: pd.DataFrame, chunk: Chunk) -> list[str]:
    """Return the names of the files of a chunk, or of the probes of a split."""
    split, number = chunk
    return files.loc[(files["split"] == split) & (files["chunk"] == number), NAME].tolist()
