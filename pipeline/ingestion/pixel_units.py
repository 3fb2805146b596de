"""The units of ingest that decode pixels: some shards of the pixel cache each."""

from dataclasses import dataclass

import pandas as pd

from ct.pixel_cache.shards import shard_path
from ct.pixel_cache.writer import is_whole_shard, matching_record, shard_count, write_shard
from ct.sources.file_list import NAME, PROBE, chosen_files, listed_source
from ct.storage.file_formats import read_json, read_table
from ct.storage.kept_pieces import is_damaged, is_kept, keep_piece
from pipeline.ingestion.ingest_work import IngestWork, pieces_of_units
from pipeline.units.unit import Log, MakeBar, Resources, Unit

UNIT_SHARDS = 4  # shards of one unit; of the competition's files they take a few seconds
MEMORY_MB = 400  # of a process: 194 with slices of 512 x 512, more with larger ones


def shards_of_units(slices: int) -> list[range]:
    """Return the numbers of the shards that each unit writes. slices: of the slice table"""
    return pieces_of_units(shard_count(slices), UNIT_SHARDS)


@dataclass(frozen=True)
class WriteShards(Unit):
    """Decode the slices of some shards, measure them and write them to the pixel cache."""

    inputs: str  # digest of the inputs of the ingest
    number: int
    size: int  # of a slice in the cache
    quarantine_unreadable: bool  # as in ct.sources.source.Source
    since: float  # a time: of earlier shards those count in which every file could be read

    @property
    def name(self) -> str:
        """Return "ingest/pixels/<number>"."""
        return f"ingest/pixels/{self.number}"

    @property
    def is_brief(self) -> bool:
        """Return True."""
        return True

    def takes(self) -> Resources:
        """Return a core, and the memory of a process."""
        return Resources(memory_mb=MEMORY_MB)

    def why_not_done(self, verify: bool = False) -> str:
        """Return why shards must be written, or ""."""
        work = IngestWork(self.root)
        if work.inputs_digest() != self.inputs:
            return "of other inputs"
        files = read_table(work.pixel_list(self.number))
        for shard in _shards(files):
            if not self._is_written(work, shard, part_of_shard(files, shard), verify):
                return "not written yet"
        return ""

    def run(self, log: Log, bar: MakeBar) -> None:
        """Write the shards that are missing."""
        work = IngestWork(self.root)
        with work.held(self.inputs):
            work.take_back_pixels()
            work.pixels.mkdir(exist_ok=True)
            files = read_table(work.pixel_list(self.number))
            source = listed_source(read_json(work.source)["source"], files)
            source.quarantine_unreadable = self.quarantine_unreadable
            probes = files.loc[files["shard"] == PROBE, NAME].tolist()
            with bar(int((files["shard"] != PROBE).sum()), "pixels", "slice") as shown:
                for shard in _shards(files):
                    part = part_of_shard(files, shard)
                    if not self._is_written(work, shard, part, verify=True):
                        if damaged := self._damaged_file(work, shard, part):
                            log(f"  {damaged} is damaged; it is made anew")
                        chosen = chosen_files(source, part["path"].tolist(), probes)
                        path = shard_path(work.pixels, shard)
                        written = write_shard(path, chosen, part, self.size)
                        keep_piece(work.shard_record(shard), *written)
                    shown.update(len(part))

    def _is_written(self, work: IngestWork, shard: int, part: pd.DataFrame, verify: bool) -> bool:
        """Return whether a shard is there, made of these slices; verify: read its bytes"""
        path, record_path = shard_path(work.pixels, shard), work.shard_record(shard)
        if not path.is_file() or not is_kept(record_path, self.since):
            return False
        record = matching_record(record_path, part, self.size)
        return record is not None and (not verify or is_whole_shard(path, record))

    def _damaged_file(self, work: IngestWork, shard: int, part: pd.DataFrame) -> str:
        """Return the name of the damaged file of a shard that is not written, or ""."""
        path, record_path = shard_path(work.pixels, shard), work.shard_record(shard)
        if is_damaged(record_path):
            return f"{record_path.parent.name}/{record_path.name}"
        whole_record = record_path.is_file() and matching_record(record_path, part, self.size)
        damaged = isinstance(whole_record, pd.DataFrame) and path.is_file()
        return path.name if damaged and not is_whole_shard(path, whole_record) else ""


def _shards(files: pd.DataFrame) -> list[int]:
    """Return the numbers of the shards of a list of files."""
    return [shard for shard in files["shard"].unique().tolist() if shard != PROBE]


def part_of_shard(files: pd.DataFrame, shard: int) -> pd.DataFrame:
    """Return the rows of a shard as `ct.pixel_cache.writer.shard_parts` returns them."""
    rows = files[files["shard"] == shard].set_index("slice_id")
    return rows[[NAME, "pixel_spacing_mm"]].rename(columns={NAME: "path"})
