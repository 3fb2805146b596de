"""Seconds, memory and megabytes of the report of a run of 20,000 slices.

    python -m benchmarks.report [--quick] [--run=DIR]

The verb runs in a process of its own. Prints one table; exits with 1 where a bar is missed. The run
has everything that a report can show: learning curves of two CNNs in three folds, trials of stage
two, a test set, a quarantine, a pixel cache of 256 px, a full browser, and Grad-CAM maps of every
study in it. Its slices are those of a small example competition, repeated under new names, so its
scores mean nothing. Drawn heads may compress better than real ones: where the real mini competition
is present (ICH_REAL_DATA, or ../shared/data), the size is also computed with pictures of its
slices. --quick: 2,000 slices, the same bars; --run: a finished run, instead of making one.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.command_line import REAL_SLICES, ROOT, RUN, flag_parser
from benchmarks.large_tables.repeated_slices import example_run, repeated
from ct.labels import KAGGLE_ORDER
from ct.pixel_cache.reader import PixelCache
from ct.run_dir import RunDir
from ct.storage.atomic_write import discard
from ct.storage.file_formats import read_json, read_table, write_json, write_table
from ct.submission import write_submission
from pipeline.input_digests import input_digests
from pipeline.receipt import Receipt
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.stage_data.ingest_counts import summary
from report.hu_png import slice_png

SECONDS, MEGABYTES = 60.0, 25.0  # the start of Python included; of 10^6 bytes
SLICES, QUICK = 20_000, 2_000
TEST = 0.2  # share of the slices
STUDIES = 18
BROWSER = 600  # slices, the recipe's default
RECIPE = f"""name: report
folds: {{k: 3}}
pixels: {{size: 256}}
stage1:
  models:
    - {{name: brain, backbone: test_resnet, windows: [brain], image_size: 32, epochs: 2,
       batch: 64, lr: 0.003}}
    - {{name: narrow, backbone: test_resnet, windows: ["40/40"], image_size: 32, epochs: 2,
       batch: 64, lr: 0.003}}
features: {{chain: true}}
stage2: {{trials: 12, max_rounds: 30}}
report: {{browser_slices: {BROWSER}}}
"""
DATA = re.compile(rb'<script type="application/json" id="browser-data">(.*?)</script>', re.DOTALL)
DRAWING = re.compile(rb"<svg.*?</svg>|data:image/[^\"')\s]+", re.DOTALL)


def main():
    options = flag_parser(__doc__)
    options.add_argument("--run", type=Path)
    options = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="ich-report-") as folder:
        start = time.perf_counter()
        run = options.run or make_run(Path(folder), QUICK if options.quick else SLICES)
        made = "" if options.run else f"; made in {time.perf_counter() - start:.0f} s"
        print(
            f"a run of {len(read_table(run / 'slices.parquet')):,} "
            f"slices{' (--quick)' * options.quick}{made}"
        )
        missed = measure(Path(folder), run)
    print("\n".join(missed) if missed else "every bar is met")
    return 1 if missed else 0


def make_run(folder, slices):
    """Return a finished run of about so many slices, with Grad-CAM maps of the shown studies."""
    run = example_run(folder, RECIPE, damage, studies=STUDIES, size=256, slices=(30, 36))
    grow(run, slices)
    print("set-up: ", end="")
    for verb in ("folds", "train", "predict", "features", "tune", "stack", "submit", "explain"):
        print(
            f"{verb} {call(verb, f'--run={run}')['seconds']:.0f} s",
            end=", " if verb != "explain" else "\n",
            flush=True,
        )
    return run


def damage(data):
    """Add files that are no DICOM files."""
    for split, count in (("train", 4), ("test", 1)):
        for number in range(count):
            (data / f"stage_2_{split}" / f"ID_{0xBAD00 + number:09x}.dcm").write_bytes(
                b"no picture"
            )


def grow(folder, total):
    """Repeat whole studies of an ingested run until there are `total` slices, TEST of them test.

    This is done as another function of the stage `ingest`: its receipt records that the grown files
    follow from the source, and all later stages accept them as the output of `ingest`. The sample
    submission is no input of `ingest`, so it may be written again.
    """
    run = Run(folder, log=lambda line: None)
    stage, home, tables = STAGES["ingest"], run.dir, []
    slices, index = read_table(home.slices), read_table(home.pixels / "index.parquet")
    for split, share in (("train", 1 - TEST), ("test", TEST)):
        rows = np.flatnonzero(slices["split"] == split)
        copies = -(-round(total * share) // len(rows))
        tables.append(
            repeated(
                slices,
                index,
                np.tile(rows, copies),
                np.repeat(np.arange(copies), len(rows)),
                sum(len(table) for table, _ in tables),
            )
        )
    slices, index = (pd.concat(parts) for parts in zip(*tables, strict=True))
    slices["path"] = "stage_2_" + slices["split"].astype(str) + "/" + slices.index + ".dcm"
    old = pd.read_csv(home.quarantine, dtype=str, keep_default_na=False)
    unreadable = slices.loc[~slices["readable"], ["path", "split"]].reset_index()
    reason = old.loc[old["kind"] == "pixels", "reason"].iloc[0]
    quarantine = pd.concat(
        [old[old["kind"] == "header"], unreadable.assign(kind="pixels", reason=reason)]
    )
    with Receipt(
        home.root,
        home.receipt("ingest"),
        "ingest",
        run.recipe_part(stage.keys),
        input_digests(run, stage),
    ) as receipt:
        write_table(home.slices, slices)
        write_table(home.pixels / "index.parquet", index)
        quarantine.to_csv(home.quarantine, index=False)
        write_json(home.ingest, read_json(home.ingest) | summary(slices, quarantine))
        receipt.made = [home.slices, home.quarantine, home.ingest, home.pixels]
    ids = [
        f"{name}_{label}"
        for name in slices.index[slices["split"] == "test"]
        for label in KAGGLE_ORDER
    ]
    write_submission(run.find_sample(), ids, np.full(len(ids), 0.5))


def measure(folder, run):
    """Print the table. Returns a line for each bar that is missed."""
    home, missed = RunDir(run), []
    discard(home.receipt("report"))  # else it would be fresh

    def line(what, value, unit, bar=None):
        print(f"{what:44} {value:9.2f} {unit:3}{'' if bar is None else f'{bar:8g}'}", flush=True)
        if bar is not None and value > bar:
            missed.append(f"{what.strip()}: {value:.2f} {unit}, the bar is {bar:g}")

    print(f"{'what':44} {'measured':>9} {'bar':>11}")
    used = call("report", f"--run={run}")
    for what, key, unit, bar in COSTS:
        line(what.format("report"), used[key], unit, bar)
    page, size = parts(home.report), home.report.stat().st_size
    line("report.html", size / 1e6, "MB", MEGABYTES)
    for what, count in page["bytes"].items():
        line(f"  {what}", count / 1e6, "MB")
    pictures = page["bytes"]["slice pictures"]
    line("  slice pictures, share of the page", 100 * pictures / size, "%")
    line(
        f"  a slice picture, mean of {page['pictures']}",
        pictures / max(1, page["pictures"]) / 1e3,
        "KB",
    )
    # one that is not on the page
    study = min(set(read_table(home.slices)["study_id"]) - page["studies"] or page["studies"])
    used = call("report", f"--run={run}", f"--study={study}")
    for what, key, unit, _ in COSTS:
        line(what.format("report --study"), used[key], unit)
    line("  its page", home.study_page(study).stat().st_size / 1e6, "MB")
    if REAL_SLICES.is_file():
        sizes = real_pictures(folder)
        line(f"a real slice's picture, mean of {len(sizes)}", np.mean(sizes) / 1e3, "KB")
        expected = size - pictures + np.mean(sizes) * BROWSER
        line(f"report.html with {BROWSER} real slices, reckoned", expected / 1e6, "MB", MEGABYTES)
    else:
        print(
            "a page of real slices: skipped, the real mini competition is not there "
            f"({REAL_SLICES.name})"
        )
    return missed


COSTS = (
    ("{}", "seconds", "s", SECONDS),
    ("  of the processor", "processor", "s", None),
    ("  memory at the peak", "memory", "GB", None),
)


def parts(path):
    """Return the parts of a page: "bytes" {part: bytes}, "pictures" of slices, "studies".

    The studies are those in its browser.
    """
    page = path.read_bytes()
    found = DATA.search(page)
    studies = json.loads(found[1])["studies"]
    pictures = [len(picture) for study in studies for picture in study["pictures"] if picture]
    maps = sum(len(known["data"]) for study in studies for known in study["maps"])
    drawn = sum(len(each) for each in DRAWING.findall(page[: found.start()] + page[found.end() :]))
    split = {
        "slice pictures": sum(pictures),
        "Grad-CAM maps": maps,
        "numbers and names of the browser": len(found[1]) - sum(pictures) - maps,
        "drawings": drawn,
    }
    split["text, tables, style, script"] = len(page) - sum(split.values())
    return {
        "bytes": split,
        "pictures": len(pictures),
        "studies": {study["id"] for study in studies},
    }


def real_pictures(folder):
    """Return the bytes (n,) that each real slice's picture takes on the page.

    Its pixels are resampled as `ingest` does.
    """
    home = folder / "real"
    with tarfile.open(REAL_SLICES) as archive:
        archive.extractall(home / "data", filter="data")
    (home / "recipe.yaml").write_text(RECIPE)
    call(
        "new",
        f"--run={home / 'run'}",
        f"--recipe={home / 'recipe.yaml'}",
        f"--data={home / 'data'}",
    )
    call("ingest", f"--run={home / 'run'}")
    slices, cache = read_table(home / "run/slices.parquet"), PixelCache(home / "run/pixels")
    return np.array(
        [len(slice_png(cache.read([number])[0])) for number in np.flatnonzero(slices["readable"])]
    )


def call(*words):
    """Run the command line.

    Returns the "seconds", those of the "processor", and the peak "memory" in GB.
    """
    start, peak, pid = time.perf_counter(), 0, 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen([*RUN, *words], cwd=ROOT, stdout=log, stderr=log)
        while not pid:
            time.sleep(0.05)
            peak = max(peak, high_water(process.pid))
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(words)}: {log.read()[-2000:]}")
    return {
        "seconds": time.perf_counter() - start,
        "processor": used.ru_utime + used.ru_stime,
        "memory": peak / 1e6,
    }


def high_water(pid):
    """Return the largest KB that a process has held so far.

    Its ru_maxrss would start at what this process holds.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return next(
        (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0
    )


if __name__ == "__main__":
    sys.exit(main())
