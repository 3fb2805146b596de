"""Writes the pixel cache: decodes every slice once, measures it, shrinks it and packs it into
shards.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
from isal import isal_zlib

from ct.dicom.hounsfield import read_hu
from ct.pixel_cache.reader import SHARD_SLICES, shard_path
from ct.pixel_cache.resampling import shrink
from ct.pixel_cache.slice_measures import measure
from ct.slices import PIXEL_COLUMNS
from ct.sources.file_reader import read_each, with_probes
from ct.sources.folder import Folder
from ct.storage.atomic_write import discard, replacing
from ct.storage.file_formats import read_table, write_json, write_table
from ct.storage.sealed_files import bytes_digest, seal
from ct.system.engine import run_jobs

# fixed: left to blosc2 it would follow the processor's cache, and the bytes with it
BLOCK_BYTES = 32768


def write_cache(folder, source, slices, size, workers=None, progress=None, records=None, log=print):
    """Decode all slices once: write them at `size` x `size` to `folder`, and measure them at full
    resolution.

    folder: made if needed; source: a folder's path or a source; slices: the slice table, with path,
    a name in the source, and pixel_spacing_mm; progress: called with the number of slices done, and
    `kept=True` for those that were done before; records: folder for what is known of each shard, so
    that a second call keeps those that are whole (that the source is the same is the caller's to
    see to), or None; log: called with a line about a shard that is damaged

    Returns a DataFrame indexed like `slices` with PIXEL_COLUMNS and `reason`, empty where the slice
    is readable.
    """
    folder, source = Path(folder), Folder(source) if isinstance(source, str | Path) else source
    source = with_probes(source, slices["path"].tolist())
    parts = [
        slices[["path", "pixel_spacing_mm"]].iloc[first : first + SHARD_SLICES]
        for first in range(0, len(slices), SHARD_SLICES)
    ]
    paths = [shard_path(folder, number) for number in range(len(parts))]
    notes = [records and Path(records) / f"{path.stem}.parquet" for path in paths]
    _clear(folder, paths)
    known = _kept_shards(paths, parts, size, notes, workers, log)
    missing = [number for number, record in enumerate(known) if record is None]
    done = len(slices) - sum(len(parts[number]) for number in missing)
    if progress and done:
        progress(done, kept=True)
    jobs = (
        (paths[n], source.select(parts[n]["path"].tolist()), parts[n], size, notes[n])
        for n in missing
    )
    for number, record in zip(missing, run_jobs(_write_shard, jobs, workers), strict=True):
        known[number] = record
        done += len(record)
        if progress:
            progress(done)
    record = pd.concat(known) if known else _record([], slices.iloc[:0], "", "")
    write_table(folder / "index.parquet", _index(slices.index, record["length"]))
    checksums = pd.DataFrame({"crc32": record["crc32"].to_numpy(np.uint32)}, index=slices.index)
    write_table(folder / "checksums.parquet", checksums)
    digests = [record["blake2b"].iloc[0] for record in known]
    write_json(folder / "pixels.json", {"size": size, "slices": len(slices), "blake2b": digests})
    return record[[*PIXEL_COLUMNS, "reason"]].set_axis(slices.index)


def _clear(folder, paths):
    """Make `folder`, or remove from it what is none of the shards `paths`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in set(folder.iterdir()) - set(paths):
        discard(path)


def _kept_shards(paths, parts, size, notes, workers, log):
    """Return the record of each shard that is there and whole, None for the others."""
    known = [None] * len(paths)
    there = [
        number
        for number, note in enumerate(notes)
        if note and note.is_file() and paths[number].is_file()
    ]
    jobs = ((paths[number], _job_digest(parts[number], size), notes[number]) for number in there)
    for number, record in zip(there, run_jobs(_kept_shard, jobs, workers), strict=True):
        if record is not None and record.empty:
            log(f"  {paths[number].name} is damaged; it is made anew")
        else:
            known[number] = record
    return known


def _kept_shard(path, job, note):
    """Return the record of a shard; without rows where the shard holds other bytes, None where it
    is of another job.
    """
    try:
        record = read_table(note)
    except (OSError, ValueError):  # damaged
        return None
    if record["job"].iloc[0] != job:
        return None
    if bytes_digest(path) != record["blake2b"].iloc[0]:
        return record.iloc[:0]
    return record if "crc32" in record else record.assign(crc32=_checksums(path, record["length"]))


def _checksums(path, lengths):
    """Return the CRC-32 of the slices of a shard, for the record of a version that kept none."""
    with open(path, "rb") as shard:
        return np.array(
            [isal_zlib.crc32(shard.read(length)) if length else 0 for length in lengths], np.uint32
        )


def _job_digest(part, size):
    """Return a digest of all that a shard depends on but the files themselves."""
    text = json.dumps(
        [
            size,
            BLOCK_BYTES,
            part.index.tolist(),
            part["path"].tolist(),
            part["pixel_spacing_mm"].tolist(),
        ]
    )
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _index(slice_ids, lengths):
    """Return the table that says where each slice lies."""
    length = np.array(lengths, np.int32)
    shard = np.arange(len(length)) // SHARD_SLICES
    end = np.cumsum(length, dtype=np.int64)
    before = np.concatenate([[0], end])[shard * SHARD_SLICES]  # bytes in all the shards before
    table = {"shard": shard.astype(np.int32), "offset": end - length - before, "length": length}
    return pd.DataFrame(table, index=slice_ids)


def _record(rows, slice_ids, job, digest):
    """Return what is known of a shard: one row a slice (bytes, CRC-32, facts); digests of job and
    shard.
    """
    table = pd.DataFrame(
        rows, columns=["length", "crc32", *PIXEL_COLUMNS, "reason"], index=slice_ids
    )
    kinds = dict.fromkeys(PIXEL_COLUMNS, np.float32) | dict.fromkeys(
        ["readable", "repaired_intercept"], bool
    )
    table = table.assign(job=job, blake2b=digest)
    return table.astype(
        {
            "length": np.int32,
            "crc32": np.uint32,
            **kinds,
            **dict.fromkeys(["reason", "job", "blake2b"], str),
        }
    )


def _write_shard(path, files, part, size, note):
    """Write one shard. Returns its record, which is kept at `note`."""
    import blosc2

    params = blosc2.CParams(
        codec=blosc2.Codec.LZ4,
        filters=[blosc2.Filter.BITSHUFFLE],
        filters_meta=[0],
        typesize=2,
        blocksize=BLOCK_BYTES,
        nthreads=1,
    )
    rows, digest, lasts = [], hashlib.blake2b(digest_size=16), True
    with replacing(path, lasting=False) as unfinished, open(unfinished, "wb") as shard:
        slices = read_each(lambda file: read_hu(file), files)
        for (decoded, reason, may_pass), spacing in zip(
            slices, part["pixel_spacing_mm"].tolist(), strict=True
        ):
            lasts &= not may_pass
            if reason:
                rows.append((0, 0, False, False, *[np.nan] * (len(PIXEL_COLUMNS) - 2), reason))
                continue
            hu, repaired = decoded
            blob = blosc2.compress2(shrink(hu, size), cparams=params)
            shard.write(blob)
            digest.update(blob)
            rows.append(
                (len(blob), isal_zlib.crc32(blob), True, repaired, *measure(hu, spacing), "")
            )
    record = _record(rows, part.index, _job_digest(part, size), digest.hexdigest())
    if note and lasts:
        write_table(note, record, lasting=False)
        seal(note)
    return record
