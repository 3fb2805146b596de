"""Writes the pixel cache: decodes every slice once, measures it, shrinks it and packs it into shards."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd

from ct.dicom import read_hu
from ct.engine import run_jobs
from ct.header import Unreadable
from ct.pixels import AIR, SHARD, shard_path
from ct.rundir import replacing, write_json, write_table
from ct.slices import PIXEL_COLUMNS

LOWEST, HIGHEST = -1024, 3071  # HU: twelve bits, all that a CT scanner tells apart
BLOCK_BYTES = 32768  # fixed: left to blosc2 it would follow the processor's cache, and the bytes with it


def write_cache(folder, root, slices, size, workers=None, progress=None):
    """Decode all slices once: write them at `size` x `size` to `folder`, and measure them at full resolution.

    folder: made if needed; root: the folder that the paths are relative to; slices: the slice table, with path and
    pixel_spacing_mm; progress: called with the number of slices done

    Returns a DataFrame indexed like `slices` with PIXEL_COLUMNS and `reason`, empty where the slice is readable.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    jobs, facts, digests = [], [], []
    for first in range(0, len(slices), SHARD):
        part = slices.iloc[first : first + SHARD]
        files = [os.path.join(root, path) for path in part["path"]]
        jobs.append((shard_path(folder, len(jobs)), files, part["pixel_spacing_mm"].tolist(), size))
    lengths = []
    for shard_lengths, shard_facts, digest in run_jobs(_write_shard, jobs, workers):
        lengths += shard_lengths
        facts += shard_facts
        digests.append(digest)
        if progress:
            progress(len(lengths))
    write_table(folder / "index.parquet", _index(slices.index, lengths))
    write_json(folder / "pixels.json", {"size": size, "slices": len(slices), "blake2b": digests})
    return _facts_table(facts, slices.index)


def _index(slice_ids, lengths):
    """Return the table that says where each slice lies."""
    length = np.array(lengths, np.int32)
    shard = np.arange(len(length)) // SHARD
    end = np.cumsum(length, dtype=np.int64)
    before = np.concatenate([[0], end])[shard * SHARD]  # bytes in all the shards before
    table = {"shard": shard.astype(np.int32), "offset": end - length - before, "length": length}
    return pd.DataFrame(table, index=slice_ids)


def _facts_table(facts, slice_ids):
    table = pd.DataFrame(facts, columns=[*PIXEL_COLUMNS, "reason"], index=slice_ids)
    flags = dict.fromkeys(["readable", "repaired_intercept"], bool)
    return table.astype({**dict.fromkeys(PIXEL_COLUMNS, np.float32), **flags, "reason": str})


def _write_shard(path, files, spacings, size):
    """Write one shard. Returns the slices' lengths in bytes, their facts, and the shard's digest."""
    import blosc2

    params = blosc2.CParams(
        codec=blosc2.Codec.LZ4,
        filters=[blosc2.Filter.BITSHUFFLE],
        filters_meta=[0],
        typesize=2,
        blocksize=BLOCK_BYTES,
        nthreads=1,
    )
    lengths, facts, digest = [], [], hashlib.blake2b(digest_size=16)
    with replacing(path) as part, open(part, "wb") as shard:
        for file, spacing in zip(files, spacings, strict=True):
            try:
                hu, repaired = read_hu(file)
            except Unreadable as error:
                lengths.append(0)
                facts.append((False, False, *[np.nan] * (len(PIXEL_COLUMNS) - 2), str(error)))
                continue
            blob = blosc2.compress2(shrink(hu, size), cparams=params)
            shard.write(blob)
            digest.update(blob)
            lengths.append(len(blob))
            facts.append((True, repaired, *measure(hu, spacing), ""))
    return lengths, facts, digest.hexdigest()


def measure(hu, spacing):
    """Measure a slice, on every second pixel of every second row where it is large.

    hu: int16 (rows, cols); spacing: mm, or NaN

    Returns padding_hu, brain_cm2, skull_cm2, brain_mean_hu, brain_std_hu, blood_share (see PIXEL_COLUMNS).
    """
    step = 2 if min(hu.shape) >= 256 else 1
    seen = hu[::step, ::step]
    pixel = step**2 * (1.0 if np.isnan(spacing) else (spacing / 10) ** 2)
    brain = seen[(seen >= 0) & (seen <= 80)]
    tissue = [brain.mean(), brain.std(), (brain >= 50).mean()] if brain.size else [np.nan] * 3
    return hu.min(), brain.size * pixel, np.count_nonzero(seen > 300) * pixel, *tissue


def shrink(hu, size):
    """Return a slice as int16 (size, size), clipped to what a scanner tells apart, padded with air to a square, resampled.

    hu: int16 (rows, cols). Smaller by means over areas (where `size` does not divide the side, weighted: Pillow's BOX would
    take one pixel here and two there), larger by bilinear interpolation.
    """
    square = pad_to_square(np.clip(hu, LOWEST, HIGHEST))
    side = len(square)
    if side % size == 0:
        return _block_mean(square, side // size)
    from PIL import Image

    how = Image.Resampling.HAMMING if size < side else Image.Resampling.BILINEAR
    image = Image.fromarray(square.astype(np.float32)).resize((size, size), how)
    return np.rint(np.asarray(image)).astype(np.int16)


def pad_to_square(hu):
    """Return `hu` (rows, cols) in the middle of a square of air."""
    rows, cols = hu.shape
    if rows == cols:
        return hu
    side = max(rows, cols)
    square = np.full((side, side), AIR, hu.dtype)
    top, left = (side - rows) // 2, (side - cols) // 2
    square[top : top + rows, left : left + cols] = hu
    return square


def _block_mean(square, factor):
    """Return the means of blocks of factor x factor pixels, rounded; summing slices is far quicker than numpy's mean."""
    if factor == 1:
        return np.ascontiguousarray(square)
    rows = square[::factor].astype(np.int32)
    for i in range(1, factor):
        rows += square[i::factor]
    total = rows[:, ::factor].astype(np.float32)  # exact: whole numbers below 2**24
    for i in range(1, factor):
        total += rows[:, i::factor]
    return np.rint(total / factor**2).astype(np.int16)
