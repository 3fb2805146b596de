"""Speed and memory of `ingest`: headers of a folder and of a zip, pixels, the index.

    python -m benchmarks.ingest [--quick]      --quick: fewer repetitions

Prints one table; exits with 1 where a bar is missed. The slices are those of the mini competition
(ICH_REAL_DATA, or ../shared/data), or made-up ones of 512 px where it is missing. The index has the
size of the competition. Each row runs in one process; our loop and the other take turns, and the
figures are medians.
"""

import argparse
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom

from benchmarks.command_line import REAL_SLICES, flag_parser, module_command
from ct.dicom.header_table import CHUNK_FILES, join_header_chunks, read_headers
from ct.kaggle_layout import find_competition
from ct.labels import LABELS
from ct.pixel_cache.writer import write_cache
from ct.slices import PIXEL_COLUMNS, order_slices
from ct.sources.folder import Folder
from ct.storage.file_formats import read_table, write_table

FOLDER, ZIP, MEMORY_GB = 1.4, 3.0, 2.0  # the bars
TRAIN, TEST = 752_803, 121_232  # slices of the competition
# of each real slice, under other ids: enough that the fixed cost of a call does not count
COPIES = 6


def main():
    options = flag_parser(__doc__)
    # the child process
    options.add_argument("--index", type=Path, help=argparse.SUPPRESS)
    options = options.parse_args()
    if options.index:
        return index(options.index)
    # warnings about ids that are no UIDs; the time to print them is not counted
    warnings.filterwarnings("ignore", module="pydicom")
    times = 3 if options.quick else 9
    with tempfile.TemporaryDirectory(prefix="ich-ingest-") as folder:
        data, what = slices(Path(folder))
        print(f"{what}; medians of {times} turns, one process")
        rows = [
            *headers(data, Path(folder), times),
            *pixels(data, 1 if options.quick else 3),
            memory(Path(folder)),
        ]
    print(f"{'':58}{'ours':>12}{'the other':>12}{'ratio':>8}{'bar':>8}")
    for name, ours, other, value, bar, _ in rows:
        print(f"{name:58}{ours:>12}{other:>12}{value:>8}{bar:>8}")
    missed = [name for name, *_, met in rows if not met]
    print(f"missed: {'; '.join(missed)}" if missed else "every bar is met")
    return 1 if missed else 0


def slices(folder):
    """Lay out the slices, in COPIES, as a competition. Returns (its folder, what they are)."""
    archive = REAL_SLICES
    if archive.is_file():
        with tarfile.open(archive) as tar:
            tar.extractall(folder / "one", filter="data")
        what = "slices of the real mini competition"
    else:
        from ct.synthetic.example_competition import write_competition

        write_competition(folder / "one", studies=12, seed=0, size=512)
        what = "made slices of 512 px"
    source = find_competition(folder / "one").root
    for path in sorted(source.glob("stage_2_*/*.dcm")):
        whole = path.read_bytes()
        for copy in range(COPIES):
            name = f"ID_{copy}{path.stem[4:]}"
            target = folder / "data" / path.parent.name / f"{name}.dcm"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(whole.replace(path.stem.encode(), name.encode()))
    for path in source.glob("*.csv"):
        path.rename(folder / "data" / path.name)
    return (
        folder / "data",
        f"{sum(1 for _ in (folder / 'data').glob('*/*'))} files, {COPIES} copies of the {what}",
    )


def headers(data, folder, times):
    """Rows of the headers, from the folder and from a zip of a sixth of it."""
    source = find_competition(data).source
    names = source.files("stage_2_train") + source.files("stage_2_test")
    paths = [str(data / name) for name in names]

    def plain():
        for path in paths:
            pydicom.dcmread(path, stop_before_pixels=True)

    name = "headers of a folder, files/s; dcmread, no pixels"
    yield ratio(name, lambda: ours(source, names), plain, len(names), times, FOLDER)
    some = names[::COPIES]
    with zipfile.ZipFile(folder / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [*some, *(path.name for path in data.glob("*.csv"))]:
            archive.write(data / name, f"rsna/{name}")
    packed = find_competition(folder / "data.zip").source

    def whole():
        with zipfile.ZipFile(folder / "data.zip") as archive:
            for name in some:
                pydicom.dcmread(BytesIO(archive.read(f"rsna/{name}")))

    yield ratio(
        "headers of a zip, files/s; zipfile and dcmread",
        lambda: ours(packed, some),
        whole,
        len(some),
        times,
        ZIP,
    )


def ours(source, names):
    table, refused = read_headers(source, names, b"key", workers=1)
    if len(table) != len(names) or len(refused):
        raise RuntimeError(
            f"{len(refused)} headers were refused, the first: {refused['reason'].iloc[0]}"
        )


def ratio(name, ours, other, count, times, bar):
    """A row of two functions that do the same `count` files, taking turns."""
    seconds = []
    for _ in range(times + 1):
        turn = []
        for function in (ours, other):
            start = time.perf_counter()
            function()
            turn.append(time.perf_counter() - start)
        seconds.append(turn)
    a, b = np.median(seconds[1:], axis=0)  # the first turn warms the caches
    return (
        name,
        f"{count / a:,.0f}",
        f"{count / b:,.0f}",
        f"{b / a:.2f}",
        f"{bar:.1f}",
        b / a >= bar,
    )


def pixels(data, times):
    """Rows of the pixel cache: decoded, measured, shrunk, compressed and written."""
    source = find_competition(data).source
    table, _ = read_headers(source, source.files("stage_2_test"), b"key", workers=1)
    for size in (256, 512):
        seconds = []
        for turn in range(times + 1):
            start = time.perf_counter()
            write_cache(data.parent / f"cache-{size}-{turn}", source, table, size, workers=1)
            seconds.append(time.perf_counter() - start)
        yield (
            f"pixels into the cache at {size} px, slices/s",
            f"{len(table) / np.median(seconds[1:]):,.0f}",
            "",
            "",
            "",
            True,
        )


def memory(folder):
    """The row of an index of the competition's size, in a process of its own."""
    simulate(folder / "chunks")
    done = subprocess.run(
        module_command(__spec__.name, f"--index={folder / 'chunks'}"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    peak, seconds = map(float, re.findall(r"[\d.]+", done.stdout))
    name = f"index of {TRAIN + TEST:,} made rows, GB at its peak ({seconds:.0f} s)"
    return name, f"{peak:.2f}", "", "", f"{MEMORY_GB:.1f}", peak <= MEMORY_GB


def simulate(folder):
    """Write the headers of a competition of made slices as the units of ingest keep them."""
    from ct.dicom.header_table import build_header_table

    rng = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for number, first in enumerate(range(0, count, CHUNK_FILES)):
            rows = [
                header(split, row, rng) for row in range(first, min(first + CHUNK_FILES, count))
            ]
            write_table(
                folder / split / f"{number:05d}.parquet", build_header_table(rows, [""] * len(rows))
            )


def header(split, row, rng):
    """The header of one made-up slice: 34 slices per study, one study per patient."""
    study = f"{split == 'test':d}{row // 34:08x}"
    return {
        "slice_id": f"ID_{split == 'test':d}{row:08x}",
        "patient_id": f"ID_{study}",
        "study_id": f"ID_{study}0",
        "series_id": f"ID_{study}1",
        "path": file_name(split, row),
        "rows": 512,
        "cols": 512,
        "ipp": [-125.0, float(rng.normal(-110, 20)), 5.0 * (row % 34)],
        "iop": [1.0, 0.0, 0.0, 0.0, 0.97, -0.24],
        **dict.fromkeys(("pixel_spacing_mm", "slope", "bits_stored", "pixel_representation"), 1.0),
        **dict.fromkeys(("intercept", "window_center", "window_width"), 40.0),
        "transfer_syntax": "1.2.840.10008.1.2.1",
    }


def file_name(split, row):
    return f"stage_2_{split}/ID_{split == 'test':d}{row:08x}.dcm"


def index(chunks):
    """Hold and write the index as `ingest` does, but for reading files. Prints GB and seconds."""
    import pandas as pd

    from ct.privacy.pseudonyms import public_paths

    start, tables = time.perf_counter(), []
    for split, count in (("train", TRAIN), ("test", TEST)):
        source = Folder(chunks, [file_name(split, row) for row in range(count)])
        headers = [read_table(path) for path in sorted((chunks / split).glob("*.parquet"))]
        table, refused = join_header_chunks(headers, source, b"key", workers=1)
        assert len(table) == count and refused.empty
        tables.append(table.assign(split=split))
    table = pd.concat(tables)
    train = table.index[table["split"] == "train"]
    table = table.join(pd.DataFrame(0, index=train, columns=list(LABELS), dtype=np.float32))
    table = order_slices(table)
    facts = pd.DataFrame(1, index=table.index, columns=list(PIXEL_COLUMNS), dtype=np.float32)
    table = table.join(facts.astype({"readable": bool, "repaired_intercept": bool}))
    write_table(
        chunks / "slices.parquet", table.assign(path=public_paths(table["path"], table.index))
    )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, time.perf_counter() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())
