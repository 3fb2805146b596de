"""The files of a pixel cache.

shard-00000.blosc2, ...  compressed slices of SHARD_SLICES rows of the slice table, in their order
index.parquet            slice_id -> shard, offset, length in bytes; length 0: an unreadable slice
checksums.parquet        slice_id -> CRC-32 of these bytes; caches of older versions lack the file.
                         It is not a column of the index: that would change the index of finished
                         runs, and make their later stages stale
pixels.json              size of a slice, number of slices, digests of the shards
"""

from pathlib import Path

SHARD_SLICES = 512
AIR_HU = -1000  # fills unreadable slices and the margin of slices that are not square


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard of the cache in `folder`."""
    return folder / f"shard-{number:05d}.blosc2"
