"""Write the pixel cache: decode every slice once, measure, resample and compress it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from isal import isal_zlib
from numpy.typing import NDArray

from ct.dicom.hounsfield import read_hu
from ct.pixel_cache.resampling import resample_to_square
from ct.pixel_cache.shards import SHARD_SLICES, shard_path
from ct.pixel_cache.slab_pixels import member_paths, read_slabs
from ct.pixel_cache.slice_measures import measure_slice
from ct.slices import PIXEL_COLUMNS
from ct.sources.file_reader import read_each, with_probes
from ct.sources.folder import Folder
from ct.sources.source import Source
from ct.storage.atomic_write import replacing
from ct.storage.digests import bytes_digest, new_digest, text_digest
from ct.storage.file_formats import read_table, write_json, write_table
from ct.system.parallel_jobs import run_jobs

# of blosc2; its default depends on the processor's cache, so the bytes would, too
BLOCK_BYTES = 32768
PART_COLUMNS = ("path", "pixel_spacing_mm", "members")  # of the slice table, for one shard


def write_cache(
    folder: str | Path,
    source: str | Path | Source,
    slices: pd.DataFrame,
    size: int,
    workers: int | None = None,
    progress: Callable[..., None] | None = None,
) -> pd.DataFrame:
    """Decode all slices once; write them at `size` x `size`, and measure them at full resolution.

    folder: of the cache, new; source: a source or a folder's path; slices: slice table, with path
    (a name in the source) and pixel_spacing_mm, and where slabs are among the rows with `members`,
    a tuple of ct.pixel_cache.slab_plan.Member; progress: called with the number of slices done

    Returns a DataFrame indexed like `slices`: PIXEL_COLUMNS, and `reason`, "" where the slice is
    readable; that of a slab is of a member that is not. Raises MachineFault.
    """
    folder, source = Path(folder), Folder(source) if isinstance(source, str | Path) else source
    source = with_probes(source, slices["path"].tolist())
    folder.mkdir(parents=True, exist_ok=True)
    jobs = (
        (shard_path(folder, number), source.select(_files(part)), part, size)
        for number, part in enumerate(shard_parts(slices))
    )
    records, done = [], 0
    for shard in run_jobs(write_shard, jobs, workers):
        records.append(shard.record)
        done += len(shard.record)
        if progress:
            progress(done)
    return finish_cache(folder, slices.index, records, size)


def shard_parts(slices: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of each shard: path and pixel_spacing_mm of its slices, `members` if any."""
    columns = [name for name in PART_COLUMNS if name in slices]
    return [
        slices[columns].iloc[first : first + SHARD_SLICES]
        for first in range(0, len(slices), SHARD_SLICES)
    ]


def _files(part: pd.DataFrame) -> list[str]:
    """Return the files of the rows of a shard, in the order in which they are read."""
    return member_paths(part["members"]) if "members" in part else part["path"].tolist()


def shard_count(slices: int) -> int:
    """Return the number of shards of so many slices."""
    return -(-slices // SHARD_SLICES)


def finish_cache(
    folder: Path, slice_ids: pd.Index, records: Sequence[pd.DataFrame], size: int
) -> pd.DataFrame:
    """Write the tables of a cache whose shards are complete.

    folder: of the cache; slice_ids: of all slices, in order; records: of the shards, in order

    Returns what `write_cache` returns.
    """
    record = pd.concat(records) if records else _record([], slice_ids[:0], "", "")
    write_table(folder / "index.parquet", _index(slice_ids, record["length"]))
    checksums = pd.DataFrame({"crc32": record["crc32"].to_numpy(np.uint32)}, index=slice_ids)
    write_table(folder / "checksums.parquet", checksums)
    digests = [record["blake2b"].iloc[0] for record in records]
    write_json(folder / "pixels.json", {"size": size, "slices": len(slice_ids), "blake2b": digests})
    return record[[*PIXEL_COLUMNS, "reason"]].set_axis(slice_ids)


def matching_record(path: Path, part: pd.DataFrame, size: int) -> pd.DataFrame | None:
    """Read the record of a shard. Returns None where it is gone, damaged or of other slices.

    path: of the record; part: the shard's rows, as `shard_parts` returns them
    """
    if not path.is_file():
        return None
    try:
        record = read_table(path)
    except (OSError, ValueError):  # damaged
        return None
    return record if record["job"].iloc[0] == _job_digest(part, size) else None


def is_whole_shard(path: Path, record: pd.DataFrame) -> bool:
    """Return whether a shard has the bytes that its record tells of."""
    return path.is_file() and bytes_digest(path) == record["blake2b"].iloc[0]


def with_checksums(record: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Return a shard's record with the column crc32, which records of older versions lack.

    path: of the shard
    """
    return record if "crc32" in record else record.assign(crc32=_checksums(path, record["length"]))


def _checksums(path: Path, lengths: pd.Series) -> NDArray[np.uint32]:
    """Return the CRC-32 of the slices of a shard, for the record of an older version."""
    checksums = []
    with open(path, "rb") as shard:
        for length in lengths:
            checksums.append(isal_zlib.crc32(shard.read(length)) if length else 0)
    return np.array(checksums, np.uint32)


def _job_digest(part: pd.DataFrame, size: int) -> str:
    """Return a digest of everything that decides a shard's bytes, except the DICOM files."""
    settings = [
        size,
        BLOCK_BYTES,
        part.index.tolist(),
        part["path"].tolist(),
        part["pixel_spacing_mm"].tolist(),
        *([part["members"].tolist()] if "members" in part else []),
    ]
    return text_digest(json.dumps(settings))


def _index(slice_ids: pd.Index, lengths: pd.Series) -> pd.DataFrame:
    """Return index.parquet: shard, offset and length of each slice."""
    length = np.array(lengths, np.int32)
    shard = np.arange(len(length)) // SHARD_SLICES
    end = np.cumsum(length, dtype=np.int64)
    before = np.concatenate([[0], end])[shard * SHARD_SLICES]  # bytes in all earlier shards
    table = {"shard": shard.astype(np.int32), "offset": end - length - before, "length": length}
    return pd.DataFrame(table, index=slice_ids)


def _record(
    rows: Sequence[tuple[Any, ...]], slice_ids: pd.Index, job: str, digest: str
) -> pd.DataFrame:
    """Return the record of a shard: length, crc32, PIXEL_COLUMNS, reason, and two digests.

    job: as returned by `_job_digest`; digest: BLAKE2b of the shard's bytes
    """
    columns = ["length", "crc32", *PIXEL_COLUMNS, "reason"]
    table = pd.DataFrame(rows, columns=columns, index=slice_ids).assign(job=job, blake2b=digest)
    dtypes: dict[str, type] = {"length": np.int32, "crc32": np.uint32}
    dtypes |= dict.fromkeys(PIXEL_COLUMNS, np.float32)
    dtypes |= {"readable": bool, "repaired_intercept": bool}
    dtypes |= {"reason": str, "job": str, "blake2b": str}
    return table.astype(dtypes)


class Shard(NamedTuple):
    """What is known of a shard that was written."""

    record: pd.DataFrame  # as returned by `_record`
    lasting: bool  # no file was unreadable for a transient reason


def write_shard(path: Path, files: Source, part: pd.DataFrame, size: int) -> Shard:
    """Write one shard of `size` x `size`.

    files: the selected files; part: their rows, as `shard_parts` returns them

    Raises MachineFault.
    """
    import blosc2

    settings = blosc2.CParams(
        codec=blosc2.Codec.LZ4,
        filters=[blosc2.Filter.BITSHUFFLE],
        filters_meta=[0],
        typesize=2,
        blocksize=BLOCK_BYTES,
        nthreads=1,
    )
    unreadable = (0, 0, False, False, *[np.nan] * (len(PIXEL_COLUMNS) - 2))
    rows: list[tuple[Any, ...]] = []
    digest, lasting = new_digest(), True
    with replacing(path, lasting=False) as unfinished, open(unfinished, "wb") as shard:
        slabs = part["members"].tolist() if "members" in part else None
        slices = read_slabs(files, slabs) if slabs else read_each(read_hu, files)
        spacings = part["pixel_spacing_mm"].tolist()
        for (decoded, reason, transient), spacing in zip(slices, spacings, strict=True):
            lasting &= not transient
            if decoded is None:
                rows.append((*unreadable, reason))
                continue
            hu, repaired = decoded
            compressed = blosc2.compress2(resample_to_square(hu, size), cparams=settings)
            shard.write(compressed)
            digest.update(compressed)
            measures = measure_slice(hu, spacing)
            crc32 = isal_zlib.crc32(compressed)
            rows.append((len(compressed), crc32, True, repaired, *measures, reason))
    record = _record(rows, part.index, _job_digest(part, size), digest.hexdigest())
    return Shard(record, lasting)
