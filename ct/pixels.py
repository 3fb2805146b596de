"""The pixel cache: every slice as a small square of HU, compressed in shards (ct/shards.py writes them), read by threads.

shard-00000.blosc2 ...   the compressed slices of SHARD rows of the slice table, one after the other
index.parquet            slice_id -> shard, offset, length in bytes; an unreadable slice has length 0
pixels.json              the size, and the shards' digests
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ct.errors import InputError
from ct.rundir import read_json, read_table

SHARD = 512  # slices
AIR = -1000  # HU


def shard_path(folder, number):
    """Return the path of a shard of the cache in `folder`."""
    return folder / f"shard-{number:05d}.blosc2"


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
            path = shard_path(self.folder, self._shard[number])
            try:
                file = os.open(path, os.O_RDONLY)
                try:
                    blob = os.pread(file, self._length[number], self._offset[number])
                finally:
                    os.close(file)
                blosc2.decompress2(blob, dst=target, dparams=params)
            except (OSError, RuntimeError, ValueError) as error:
                raise InputError(f"{path} is damaged or gone ({error}); remove {self.folder} and run ingest") from error
