"""Images per second from the pixel cache to training batches in HU on the device.

    python -m benchmarks.loader [--quick]

256 px, two cores. Compared with the usual loop over the DICOM files, with worker processes on the
same cache, and with bare decoding. Prints one table; exits with 1 where a bar is missed. The
contenders take turns for several rounds; a speed is the median over the rounds, and so is a ratio.
The slices are real ones where $ICH_REAL_DATA or ../shared/data has them, else made up, and the
cache holds each several times. All files are in the system's file cache by then.
"""

import os
import statistics
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.command_line import REAL_SLICES, flag_parser
from ct.pixel_cache.reader import PixelCache  # noqa: E402
from ct.pixel_cache.shards import shard_path
from ct.pixel_cache.writer import write_cache
from ct.synthetic.example_competition import write_competition
from ct.windows import window_bounds
from stage1_cnn.batches.batch_reader import read_ahead
from stage1_cnn.batches.dataset import neighbour_rows

SIZE, BATCH, CORES, COPIES, STUDY = 256, 64, 2, 8, 35
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
USUAL, WORKERS, BARE, OURS, THREE = (
    "usual loop",
    "worker processes",
    "bare decode",
    "ours",
    "ours, 3 slices",
)
WHAT = {
    USUAL: "DataLoader, 2 workers: dcmread, pixel_array, rescale, 3 numpy windows, cv2.resize",
    WORKERS: "DataLoader, 2 workers, each decoding whole batches from the same cache",
    BARE: "two threads decoding the same shards into ready buffers, nothing else",
    OURS: "read_ahead over PixelCache.read",
    THREE: "the same, each slice with its two neighbours",
}
BARS = {USUAL: 8.0, WORKERS: 2.0, BARE: 0.7}  # ours through theirs


def main():
    options = flag_parser(__doc__, "fewer rounds")
    rounds = 5 if options.parse_args().quick else 15
    # before any library counts the cores
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    torch.set_num_threads(1)  # nothing computes here
    with tempfile.TemporaryDirectory(prefix="ich-loader-") as folder:
        kind, files, cache, readable = make_data(Path(folder))
        contenders = contend(files, cache, readable)
        speeds = {name: [] for name in contenders}
        for turn in range(rounds + 1):
            for name, (slices, batches) in contenders.items():
                speed = images_per_second(batches(shuffled(readable, slices, turn)))
                if turn:  # the first round warms up
                    speeds[name].append(speed)
    print(
        f"pixels to a training batch: {kind}; HU on {DEVICE.type}, {SIZE} px, batches of "
        f"{BATCH}, shuffled, {CORES} cores, "
        f"{rounds} rounds"
    )
    return report(speeds)


def contend(files, cache, readable):
    """Return {name: (slices per round, function)}.

    The function takes the order and returns an iterator over the number of images of each batch.
    """
    place = pd.DataFrame({"split": "train", "readable": np.isin(np.arange(len(cache)), readable)})
    place["study_id"] = place["series_id"] = place.index // STUDY
    place["place"] = place.index % STUDY
    alone, three = neighbour_rows(place, 0), neighbour_rows(place, 1)
    return {
        USUAL: (8 * BATCH, lambda order: from_workers(UsualSlices(files), order)),
        WORKERS: (100 * BATCH, lambda order: from_workers(CachedSlices(cache.folder), order)),
        OURS: (
            200 * BATCH,
            lambda order: (len(hu) for _, hu in read_ahead(cache.read, alone, order, DEVICE)),
        ),
        BARE: (200 * BATCH, lambda order: bare_decode(cache, order)),
        THREE: (
            80 * BATCH,
            lambda order: (len(hu) for _, hu in read_ahead(cache.read, three, order, DEVICE)),
        ),
    }


def make_data(folder):
    """Write slices and their cache.

    Returns (what they are, paths, PixelCache, row numbers of the readable ones).
    """
    if REAL_SLICES.is_file():
        with tarfile.open(REAL_SLICES) as archive:
            archive.extractall(
                folder / "data", [m for m in archive if m.name.endswith(".dcm")], filter="data"
            )
    else:
        write_competition(folder / "data", studies=8, seed=0, size=512, slices=(STUDY, STUDY))
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.dcm"))
    names = pd.Index(
        [f"{copy}-{path}" for copy in range(COPIES) for path in paths], name="slice_id"
    )
    table = pd.DataFrame({"path": paths * COPIES, "pixel_spacing_mm": 0.5}, index=names)
    facts = write_cache(folder / "cache", folder, table, SIZE, workers=CORES)
    kind = (
        f"{len(paths)} {'real' if REAL_SLICES.is_file() else 'made-up'} slices of 512 px x {COPIES}"
    )
    return (
        kind,
        [folder / path for path in table["path"]],
        PixelCache(folder / "cache"),
        np.flatnonzero(facts["readable"]),
    )


def shuffled(rows, slices, seed):
    """Cut `slices` row numbers into batches; each of `rows` comes once before any comes again."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(rows) for _ in range(-(-slices // len(rows)))])
    return list(order[:slices].reshape(-1, BATCH))


def images_per_second(batches):
    """The speed after the first batch: the start of processes and threads is not counted."""
    next(batches)
    start = time.perf_counter()
    images = sum(batches)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return images / (time.perf_counter() - start)


class UsualSlices(Dataset):
    """One slice at a time, from its DICOM file to three windows."""

    def __init__(self, files):
        self.files = files
        self.bounds = [window_bounds(name) for name in ("brain", "subdural", "bone")]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, number):
        dataset = pydicom.dcmread(self.files[number])
        hu = dataset.pixel_array.astype(np.float32) * float(dataset.RescaleSlope) + float(
            dataset.RescaleIntercept
        )
        windows = [(np.clip(hu, low, high) - low) / (high - low) for low, high in self.bounds]
        image = cv2.resize(np.stack(windows, axis=-1), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(image.transpose(2, 0, 1))


class CachedSlices(Dataset):
    """Whole batches, decoded from the cache by the worker process that is asked.

    That is the fastest way with processes.
    """

    def __init__(self, folder):
        self.cache = PixelCache(folder, threads=1)

    def __len__(self):
        return len(self.cache)

    def __getitems__(self, numbers):
        return torch.from_numpy(self.cache.read(np.asarray(numbers))[:, None])


def from_workers(dataset, order):
    """The number of images of each batch that a DataLoader brings to the device, in `order`."""
    cv2.setNumThreads(0)  # the workers are the parallelism
    whole = hasattr(dataset, "__getitems__")
    loader = DataLoader(
        dataset,
        batch_sampler=[batch.tolist() for batch in order],
        num_workers=CORES,
        pin_memory=DEVICE.type == "cuda",
        collate_fn=(lambda batch: batch) if whole else None,
    )
    for batch in loader:
        yield len(batch.to(DEVICE, non_blocking=True))


def bare_decode(cache, order):
    """Yield the number of images that two threads decode in turns.

    Shards are open, memory is ready, nothing is checked, there are no batches.
    """
    import blosc2

    index = pd.read_parquet(cache.folder / "index.parquet")
    shard, offset, length = (index[name].tolist() for name in ("shard", "offset", "length"))
    files = [
        os.open(shard_path(cache.folder, number), os.O_RDONLY) for number in range(max(shard) + 1)
    ]
    numbers = np.concatenate(order).tolist()

    def decode(numbers):
        out, memory = np.empty((BATCH, SIZE, SIZE), np.int16), memoryview(bytearray(max(length)))
        for turn, number in enumerate(numbers):
            blob = memory[: length[number]]
            os.preadv(files[shard[number]], [blob], offset[number])
            blosc2.decompress2(blob, dst=out[turn % BATCH], nthreads=1)
        return len(numbers)

    with ThreadPoolExecutor(CORES) as pool:
        yield sum(pool.map(decode, [numbers[thread:BATCH:CORES] for thread in range(CORES)]))
        yield sum(pool.map(decode, [numbers[BATCH + thread :: CORES] for thread in range(CORES)]))
    for file in files:
        os.close(file)


def report(speeds):
    """Print the table and the missed bars. Returns the exit status."""
    missed = []
    print(f"{'':16}  images/s  ours / it    bar")
    for name, mine in speeds.items():
        line = f"{name:16}  {statistics.median(mine):8,.0f}"
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(speeds[OURS], mine, strict=True)
        )
        if name in BARS:
            line += f"  {ratio:9.2f}  {BARS[name]:5.1f}"
            if ratio < BARS[name]:
                missed.append(f"ours is {ratio:.2f} of the {name}, the bar is {BARS[name]:g}")
        else:
            line += " " * 18
        print(f"{line}   {WHAT[name]}")
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
