"""Read slices from a pixel cache, in threads."""

import os
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.errors import MachineFault
from ct.pixel_cache.shards import AIR_HU, shard_path
from ct.storage.file_formats import read_json, read_table
from ct.system.machine_faults import fault_of_source
from ct.system.parallel_jobs import cores

# of one cache, at most: many systems allow a process 1,024 open files, and the competition's cache
# has 1,707 shards
OPEN_SHARDS = 256
MAX_THREADS = 8  # they decode slices of 256 px faster than any GPU trains on them


class PixelCache:
    """The slices of one cache, by their row in the slice table.

    Several threads may read at once, also after a fork.

    size: pixels a side; slice_ids: (n,), in the order of the slice table; threads: how many decode
    at the same time, at most (None: one per core, up to MAX_THREADS)
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        import blosc2

        blosc2.set_releasegil(True)  # so that threads decode at the same time
        self.folder = Path(folder)
        self.size: int = read_json(self.folder / "pixels.json")["size"]
        index = read_table(self.folder / "index.parquet")
        self.slice_ids: NDArray[np.object_] = index.index.to_numpy()
        self._shard: NDArray[np.int32] = index["shard"].to_numpy()
        self._offset: NDArray[np.int64] = index["offset"].to_numpy()
        self._length: NDArray[np.int32] = index["length"].to_numpy()
        self._crc32 = _checksums(self.folder, index.index)
        self._threads = threads or min(cores(), MAX_THREADS)
        # the id of the process that started the threads, and the threads
        self._pool: tuple[int | None, ThreadPoolExecutor | None] = None, None
        self._open_shard = lru_cache(OPEN_SHARDS)(partial(_Shard, self.folder))
        self._scratch = threading.local()

    def __len__(self) -> int:
        return len(self._length)

    def read(
        self,
        slice_numbers: Sequence[int] | NDArray[np.integer],
        out: NDArray[np.int16] | None = None,
    ) -> NDArray[np.int16]:
        """Return slices in HU (n, size, size); an unreadable slice is AIR_HU everywhere.

        slice_numbers: (n,), rows of the slice table; out: filled and returned, (n, size, size),
        C-contiguous; None for a new array

        Raises IndexError for a number out of range, negative ones included, ValueError for an `out`
        of another kind, MachineFault for a cache that is damaged or cannot be read. After an error
        no thread writes to `out`.
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
        pool = self._pool_of_this_process()
        futures = [
            pool.submit(self._decode, numbers[i : i + step], out[i : i + step])
            for i in range(0, len(numbers), step)
        ]
        # `exception` waits for the thread: no thread may write to `out` after this
        errors = [error for future in futures if (error := future.exception())]
        if errors:
            raise errors[0]
        return out

    def close(self) -> None:
        """End the threads and close the shards; a later read opens them again.

        They also end when the cache is no longer referenced.
        """
        (_, pool), self._pool = self._pool, (None, None)
        if pool:
            pool.shutdown()
        self._open_shard.cache_clear()

    def _pool_of_this_process(self) -> ThreadPoolExecutor:
        """Return the threads; a process that was forked does not have those of its parent."""
        process, pool = self._pool
        if pool is None or process != os.getpid():
            pool = ThreadPoolExecutor(self._threads)
            self._pool = os.getpid(), pool
        return pool

    def _decode(self, numbers: NDArray[np.int64], out: NDArray[np.int16]) -> None:
        """Decode the slices `numbers` into `out`, one after the other."""
        import blosc2

        scratch = self._scratch_of_this_thread()
        columns = (self._shard, self._offset, self._length, self._crc32)
        places = (column[numbers].tolist() for column in columns)
        for shard, offset, length, checksum, target in zip(*places, out, strict=True):
            if not length:
                target[:] = AIR_HU
                continue
            compressed = scratch[:length]
            try:
                self._open_shard(shard).read_into(compressed, offset)
                if blosc2.get_cbuffer_sizes(compressed)[:2] != (target.nbytes, length):
                    # blosc2 would write as many bytes as the compressed slice claims to hold
                    raise ValueError("not a slice")
                # zlib's crc32: isal's is faster, but slows down the decoding in other threads
                if checksum >= 0 and zlib.crc32(compressed) != checksum:
                    raise ValueError("its checksum is another")
                blosc2.decompress2(compressed, dst=target, nthreads=1)
            except (FileNotFoundError, RuntimeError, ValueError) as error:
                raise MachineFault(
                    f"{shard_path(self.folder, shard)} is damaged or gone ({error}); put it back "
                    "from a copy of the run, or remove it and run ingest, which makes it again"
                ) from error
            except OSError as error:
                path = shard_path(self.folder, shard)
                remedy = f"is the disk of {path} still there, and may you read it?"
                raise fault_of_source(error, remedy) from error

    def _scratch_of_this_thread(self) -> memoryview:
        """Return this thread's memory for one compressed slice."""
        if not hasattr(self._scratch, "memory"):
            self._scratch.memory = memoryview(bytearray(int(self._length.max(initial=0))))
        return self._scratch.memory


def _checksums(folder: Path, slice_ids: pd.Index) -> NDArray[np.int64]:
    """Return the CRC-32 of each slice's compressed bytes, (n,); -1 where there is none."""
    path = folder / "checksums.parquet"
    if not path.exists():
        return np.full(len(slice_ids), -1)
    return read_table(path)["crc32"].reindex(slice_ids).fillna(-1).to_numpy(np.int64)


class _Shard:
    """An open shard.

    It closes with its last reference: a thread may read it when others push it out of the cache of
    open shards.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.file = os.open(shard_path(folder, number), os.O_RDONLY)

    def read_into(self, memory: memoryview, offset: int) -> None:
        """Fill `memory` with the bytes from `offset` on. Raises ValueError for too few, OSError."""
        if os.preadv(self.file, [memory], offset) < len(memory):
            raise ValueError("it ends too early")

    def __del__(self) -> None:
        if hasattr(self, "file"):
            os.close(self.file)
