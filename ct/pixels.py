"""The pixel cache: every slice as a small square of HU, compressed in shards, read by threads.

shard-00000.blosc2 ...   the compressed slices of SHARD rows of the slice table, one after the other
index.parquet            slice_id -> shard, offset, length in bytes; an unreadable slice has length 0
pixels.json              the size, and the shards' digests
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from ct.dicom import read_hu
from ct.engine import run_jobs
from ct.errors import InputError
from ct.header import Unreadable
from ct.rundir import read_json, read_table, replacing, write_json, write_table
from ct.slices import PIXEL_COLUMNS

SHARD = 512  # slices
AIR = -1000  # HU
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
        jobs.append((_shard_path(folder, len(jobs)), files, part["pixel_spacing_mm"].tolist(), size))
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


def _shard_path(folder, number):
    return folder / f"shard-{number:05d}.blosc2"


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


class PixelCache:
    """The slices of one cache, by their row in the slice table.

    size: pixels a side; slice_ids: (n,) in the order of the slice table.
    """

    def __init__(self, folder):
        import blosc2

        blosc2.set_releasegil(True)  # so that threads decode side by side
        self.folder = Path(folder)
        self.size = read_json(self.folder / "pixels.json")["size"]
        index = read_table(self.folder / "index.parquet")
        self.slice_ids = index.index.to_numpy()
        self._shard, self._offset, self._length = (index[name].to_numpy() for name in ("shard", "offset", "length"))

    def __len__(self):
        return len(self._length)

    def read(self, slice_numbers, out=None, threads=2):
        """Read slices into `out`, or a new array.

        slice_numbers: int (n,), rows of the slice table; out: int16 (n, size, size), C-contiguous

        Returns int16 (n, size, size) in HU; AIR everywhere in an unreadable slice. Raises IndexError for a number out of
        range (negative ones too), InputError for a damaged cache.
        """
        numbers = np.asarray(slice_numbers, np.int64)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(f"slice numbers {numbers.min()} to {numbers.max()} of a cache of {len(self)}")
        shape = (len(numbers), self.size, self.size)
        if out is None:
            out = np.empty(shape, np.int16)
        if out.shape != shape or out.dtype != np.int16 or not out.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous int16 {shape}, not {out.dtype} {out.shape}")
        shares = [slice(i, None, threads) for i in range(min(threads, len(numbers)))]
        if len(shares) > 1:
            with ThreadPoolExecutor(len(shares)) as pool:
                list(pool.map(lambda share: self._decode(numbers[share], out[share]), shares))
        else:
            self._decode(numbers, out)
        return out

    def _decode(self, numbers, out):
        """Decode the slices `numbers` into `out`, one after the other."""
        import blosc2

        params = blosc2.DParams(nthreads=1)
        for number, target in zip(numbers, out, strict=True):
            if not self._length[number]:
                target[:] = AIR
                continue
            path = _shard_path(self.folder, self._shard[number])
            try:
                file = os.open(path, os.O_RDONLY)
                try:
                    blob = os.pread(file, self._length[number], self._offset[number])
                finally:
                    os.close(file)
                blosc2.decompress2(blob, dst=target, dparams=params)
            except (OSError, RuntimeError, ValueError) as error:
                raise InputError(f"{path} is damaged or gone ({error}); remove {self.folder} and run ingest") from error
