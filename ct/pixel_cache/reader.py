"""The pixel cache: every slice as a small square of HU, compressed in shards
(ct/pixel_cache/writer.py writes them), read by threads.

shard-00000.blosc2 ...   the compressed slices of SHARD rows of the slice table, one after the other
index.parquet            slice_id -> shard, offset, length in bytes; an unreadable slice has length
0 checksums.parquet        slice_id -> crc32 of these bytes; caches of earlier versions have none.
Not a column of the index:
                         that would be another file than theirs, and what was made from it stale
pixels.json              the size, and the shards' digests
"""

import os
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from ct.errors import MachineFault
from ct.storage.file_formats import read_json, read_table
from ct.system.engine import cores
from ct.system.machine_faults import fault_of_source

SHARD_SLICES = 512  # slices
AIR_HU = -1000  # HU
# at most, of one cache: a system often allows a process 1,024 descriptors, and all of RSNA has
# 1,707 shards
OPEN_SHARDS = 256
MOST_THREADS = 8  # eight decode 256 px faster than any GPU trains on them


def shard_path(folder, number):
    """Return the path of a shard of the cache in `folder`."""
    return folder / f"shard-{number:05d}.blosc2"


def _checksums(folder, slice_ids):
    """Return the CRC-32 of each slice's bytes, int64 (n,); -1 where none was kept."""
    path = folder / "checksums.parquet"
    if not path.exists():
        return np.full(len(slice_ids), -1)
    return read_table(path)["crc32"].reindex(slice_ids).fillna(-1).to_numpy(np.int64)


class PixelCache:
    """The slices of one cache, by their row in the slice table. Several threads may read at once;
    it survives a fork.

    threads: that decode together, at most (the cores, up to MOST_THREADS, if None); what is read
    never depends on them. size: pixels a side; slice_ids: (n,) in the order of the slice table.
    """

    def __init__(self, folder, threads=None):
        import blosc2

        blosc2.set_releasegil(True)  # so that threads decode side by side
        self.folder = Path(folder)
        self.size = read_json(self.folder / "pixels.json")["size"]
        index = read_table(self.folder / "index.parquet")
        self.slice_ids = index.index.to_numpy()
        self._shard, self._offset, self._length = (
            index[name].to_numpy() for name in ("shard", "offset", "length")
        )
        self._crc32 = _checksums(self.folder, index.index)
        self._threads = threads or min(cores(), MOST_THREADS)
        self._pool = None, None  # the process that it belongs to, and the ThreadPoolExecutor
        self._open = lru_cache(OPEN_SHARDS)(partial(_Shard, self.folder))
        self._scratch = threading.local()

    def __len__(self):
        return len(self._length)

    def read(self, slice_numbers, out=None):
        """Read slices into `out`, or a new array.

        slice_numbers: int (n,), rows of the slice table; out: int16 (n, size, size), C-contiguous

        Returns int16 (n, size, size) in HU; AIR everywhere in an unreadable slice. Raises
        IndexError for a number out of range (negative ones too), ValueError for an unfit `out`,
        MachineFault for a cache that is damaged or cannot be read; nothing writes to `out` any more
        then.
        """
        numbers = np.asarray(slice_numbers, np.int64)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(
                f"slice numbers {numbers.min()} to {numbers.max()} of a cache of {len(self)}"
            )
        shape = (len(numbers), self.size, self.size)
        if out is None:
            out = np.empty(shape, np.int16)
        if out.shape != shape or out.dtype != np.int16 or not out.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous int16 {shape}, not {out.dtype} {out.shape}")
        if self._threads == 1 or len(numbers) < 2:
            self._decode(numbers, out)
            return out
        step = -(-len(numbers) // self._threads)
        pool = self._pool_here()
        futures = [
            pool.submit(self._decode, numbers[i : i + step], out[i : i + step])
            for i in range(0, len(numbers), step)
        ]
        # waits for all: they write to `out`
        failed = [error for future in futures if (error := future.exception())]
        if failed:
            raise failed[0]
        return out

    def close(self):
        """End the threads and close the shards; a later read opens them again. An unused cache does
        so by itself.
        """
        (_, pool), self._pool = self._pool, (None, None)
        if pool:
            pool.shutdown()
        self._open.cache_clear()

    def _pool_here(self):
        """Return the threads of this process; those of the process that forked it did not come
        along.
        """
        process, pool = self._pool
        if process != os.getpid():
            pool = ThreadPoolExecutor(self._threads)
            self._pool = os.getpid(), pool
        return pool

    def _decode(self, numbers, out):
        """Decode the slices `numbers` into `out`, one after the other."""
        import blosc2

        scratch = self._scratch_here()
        places = (
            column[numbers].tolist()
            for column in (self._shard, self._offset, self._length, self._crc32)
        )
        for shard, offset, length, checksum, target in zip(*places, out, strict=True):
            if not length:
                target[:] = AIR_HU
                continue
            blob = scratch[:length]
            try:
                self._open(shard).read_into(blob, offset)
                if blosc2.get_cbuffer_sizes(blob)[:2] != (target.nbytes, length):
                    # blosc2 would write as many bytes as the blob claims to hold
                    raise ValueError("not a slice")
                # isal's is quicker alone, and slows the decoding beside it
                if checksum >= 0 and zlib.crc32(blob) != checksum:
                    raise ValueError("its checksum is another")
                blosc2.decompress2(blob, dst=target, nthreads=1)
            except (FileNotFoundError, RuntimeError, ValueError) as error:
                path = shard_path(self.folder, shard)
                raise MachineFault(
                    f"{path} is damaged or gone ({error}); put it back from a copy of the run, or remove it and run ingest, "
                    "which makes it again"
                ) from error
            except OSError as error:
                where = f"is the disk of {shard_path(self.folder, shard)} still there, and may you read it?"
                raise fault_of_source(error, where) from error

    def _scratch_here(self):
        """Return this thread's memory for one compressed slice."""
        if not hasattr(self._scratch, "memory"):
            self._scratch.memory = memoryview(bytearray(int(self._length.max(initial=0))))
        return self._scratch.memory


class _Shard:
    """An open shard. It closes with its last holder: others may push it out of the open ones while
    a thread reads it.
    """

    def __init__(self, folder, number):
        self.file = os.open(shard_path(folder, number), os.O_RDONLY)

    def read_into(self, memory, offset):
        """Fill `memory` with the bytes from `offset` on. Raises ValueError where there are too
        few.
        """
        if os.preadv(self.file, [memory], offset) < len(memory):
            raise ValueError("it ends too early")

    def __del__(self):
        if hasattr(self, "file"):
            os.close(self.file)
