"""Write the pixel cache: decode every slice once, measure, resample and compress it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from isal import isal_zlib
from numpy.typing import NDArray

from ct.dicom.hounsfield import read_hu
from ct.pixel_cache.resampling import resample_to_square
from ct.pixel_cache.shards import SHARD_SLICES, shard_path
from ct.pixel_cache.slice_measures import measure_slice
from ct.slices import PIXEL_COLUMNS
from ct.sources.file_reader import read_each, with_probes
from ct.sources.folder import Folder
from ct.sources.source import Source
from ct.storage.atomic_write import discard, replacing
from ct.storage.digests import bytes_digest, new_digest, text_digest
from ct.storage.file_formats import read_table, write_json, write_table
from ct.storage.sealed_files import seal
from ct.system.parallel_jobs import run_jobs, run_missing_jobs

# of blosc2; its default depends on the processor's cache, so the bytes would, too
BLOCK_BYTES = 32768


def write_cache(
    folder: str | Path,
    source: str | Path | Source,
    slices: pd.DataFrame,
    size: int,
    workers: int | None = None,
    progress: Callable[..., None] | None = None,
    record_folder: str | Path | None = None,
    log: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Decode all slices once; write them at `size` x `size`, and measure them at full resolution.

    folder: of the cache, created if needed; source: a source or a folder's path; slices: slice
    table, with path (a name in the source) and pixel_spacing_mm; progress: called with the number
    of slices done, and `kept=True` for those of an earlier call; record_folder: for a record of
    each shard, so that a second call keeps the whole shards (the caller checks that the source is
    the same); log: called with a line about a damaged shard

    Returns a DataFrame indexed like `slices`: PIXEL_COLUMNS, and `reason`, "" where the slice is
    readable. Raises MachineFault.
    """
    folder, source = Path(folder), Folder(source) if isinstance(source, str | Path) else source
    source = with_probes(source, slices["path"].tolist())
    parts = [
        slices[["path", "pixel_spacing_mm"]].iloc[first : first + SHARD_SLICES]
        for first in range(0, len(slices), SHARD_SLICES)
    ]
    paths = [shard_path(folder, number) for number in range(len(parts))]
    record_paths: list[Path | None] = [None] * len(parts)
    if record_folder:
        record_paths = [Path(record_folder) / f"{path.stem}.parquet" for path in paths]
    _remove_other_files(folder, paths)

    def job(number: int) -> tuple[Any, ...]:
        part = parts[number]
        files = source.select(part["path"].tolist())
        return paths[number], files, part, size, record_paths[number]

    kept_records = _kept_shards(paths, parts, size, record_paths, workers, log)
    records = run_missing_jobs(_write_shard, kept_records, job, workers, progress)
    record = pd.concat(records) if records else _record([], slices.index[:0], "", "")
    write_table(folder / "index.parquet", _index(slices.index, record["length"]))
    checksums = pd.DataFrame({"crc32": record["crc32"].to_numpy(np.uint32)}, index=slices.index)
    write_table(folder / "checksums.parquet", checksums)
    digests = [record["blake2b"].iloc[0] for record in records]
    write_json(folder / "pixels.json", {"size": size, "slices": len(slices), "blake2b": digests})
    return record[[*PIXEL_COLUMNS, "reason"]].set_axis(slices.index)


def _remove_other_files(folder: Path, paths: list[Path]) -> None:
    """Create `folder`, and remove all files but the shards `paths` from it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in set(folder.iterdir()) - set(paths):
        discard(path)


def _kept_shards(
    paths: list[Path],
    parts: list[pd.DataFrame],
    size: int,
    record_paths: list[Path | None],
    workers: int | None,
    log: Callable[[str], None],
) -> list[pd.DataFrame | None]:
    """Return the record of each shard that is there and whole, None for the others."""
    records: list[pd.DataFrame | None] = [None] * len(paths)
    there, jobs = [], []
    for number, (path, record_path) in enumerate(zip(paths, record_paths, strict=True)):
        if record_path and record_path.is_file() and path.is_file():
            there.append(number)
            jobs.append((path, _job_digest(parts[number], size), record_path))
    for number, record in zip(there, run_jobs(_kept_shard, jobs, workers), strict=True):
        if record is not None and record.empty:
            log(f"  {paths[number].name} is damaged; it is made anew")
        else:
            records[number] = record
    return records


def _kept_shard(path: Path, job: str, record_path: Path) -> pd.DataFrame | None:
    """Return the record of a shard, without rows where the shard is damaged.

    Returns None where the record is damaged or of another job.
    """
    try:
        record = read_table(record_path)
    except (OSError, ValueError):  # damaged
        return None
    if record["job"].iloc[0] != job:
        return None
    if bytes_digest(path) != record["blake2b"].iloc[0]:
        return record.iloc[:0]
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


def _write_shard(
    path: Path, files: Source, part: pd.DataFrame, size: int, record_path: Path | None
) -> pd.DataFrame:
    """Write one shard. Returns its record, and writes it to `record_path`.

    It is not written where a file was unreadable for a transient reason.
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
        slices = read_each(read_hu, files)
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
            rows.append((len(compressed), crc32, True, repaired, *measures, ""))
    record = _record(rows, part.index, _job_digest(part, size), digest.hexdigest())
    if record_path and lasting:
        write_table(record_path, record, lasting=False)
        seal(record_path)
    return record
