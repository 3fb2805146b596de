"""Where a fault hits: stages of a run, unfinished work, one file of each kind, a full disk."""

import contextlib
import os
import re
import shutil
import subprocess
from typing import NamedTuple

MADE = {  # stage -> its files, beside its receipt
    "ingest": ("slices.parquet", "quarantine.csv", "ingest.json", "pixels"),
    "folds": ("folds.parquet",),
    "train": ("stage1",),
    "predict": (
        "stage1/*/fold*/test.parquet",
        "stage1/*/fold*/test_embeddings.npy",
        "stage1/*/fold*/predict.json",
    ),
    "features": ("stage2/features",),
    "tune": ("stage2/tune", "stage2/configs.json"),
    "stack": ("stage2/boosters", "stage2/blend.json", "stage2/test.parquet"),
    "submit": ("submission.csv",),
    "report": ("report.html",),
}
STAGES = tuple(MADE)
# unfinished work of a run
WORK = ("checkpoint.safetensors", "*.part/**/*", "*.journal", "*.journal.seal", "*.inputs.json")
GIVEN = ("key", "recipe.yaml")  # files of a run that no stage can make again
LEFT_OUT = (
    ".lock",
    ".journal",
    ".seal",
    ".inputs.json",
    "train.json",
    "predict.json",
    ".receipt.json",
)


class Kept(NamedTuple):
    """A file as it was."""

    content: bytes
    times: tuple


def before_stage(run, stage):
    """Remove the files of `stage` and of later stages from a run. Returns the run."""
    for name in STAGES[STAGES.index(stage) :]:
        for path in [
            run / "receipts" / f"{name}.json",
            *(p for pattern in MADE[name] for p in run.glob(pattern)),
        ]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    return run


def flip(path, rng):
    """Flip one bit of a file and keep its times. Returns the file as it was."""
    content, stat = path.read_bytes(), path.stat()
    kept = Kept(content, (stat.st_atime_ns, stat.st_mtime_ns))
    if content:
        at = rng.randrange(len(content))
        path.write_bytes(
            content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
        )
        os.utime(path, ns=kept.times)
    return kept


def kinds_of_files(run):
    """Return one file of each kind that the stages of a run made.

    Names that differ only in numbers and labels are one kind.
    """
    files = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = path.relative_to(run).as_posix()
        if not name.endswith(LEFT_OUT) and not name.startswith("receipts/") and path.stat().st_size:
            files.setdefault(
                re.sub(
                    r"\d+|any|epidural|intra\w+ular|intraparenchymal|sub\w+al|subarachnoid",
                    "#",
                    name,
                ),
                path,
            )
    # the user may change that
    return [path for name, path in files.items() if name != "recipe.yaml"]


@contextlib.contextmanager
def room(folder, megabytes=24):
    """Yield a small file system of its own, or None where this process may not mount one."""
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(words, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
