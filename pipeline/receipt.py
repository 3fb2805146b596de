"""The receipt of a job: what it read and made, its part of the recipe, versions, and what it cost."""

import datetime
import functools
import importlib.metadata
import resource
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from ct.privacy.redaction import mask_passwords
from ct.storage.file_formats import write_json
from ct.storage.receipts import read_receipt
from pipeline.freshness import changed_file, stamp_files

PACKAGES = ("torch", "timm", "pydicom", "lightgbm", "optuna", "scikit-learn", "pandas", "numpy")
OPTIONAL = ("xgboost", "xgboost-cpu", "catboost")  # where they are installed


class Receipt:
    """Takes the time of a job and writes its receipt: `with Receipt(...) as r: ...; r.made =
    [paths]`.
    """

    def __init__(self, root, path, stage, part, read):
        self.root, self.path = root, path
        self.values = {"stage": stage, "recipe": mask_passwords(part), "read": read}
        self.made = []

    def __enter__(self):
        self.start = time.perf_counter()
        self.before = read_receipt(self.path)
        self.path.unlink(missing_ok=True)  # from here on what it made is in doubt: it may be killed
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None:
            # it failed before it touched anything
            if self.before and not changed_file(self.root, self.before["made"]):
                write_json(self.path, self.before)
            return
        self.seconds = time.perf_counter() - self.start
        self.values |= {
            "made": stamp_files(self.root, self.made),
            "seconds": round(self.seconds, 2),
            "peak_memory_mb": peak_memory_mb(),
            "versions": versions(),
            "commit": commit(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_json(self.path, self.values)


def peak_memory_mb():
    """Return the largest memory that this process or one of its finished children has held so far,
    MB.
    """
    return (
        max(
            resource.getrusage(who).ru_maxrss
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        // 1024
    )


@functools.cache
def versions():
    """Return {package: version} of what decides the numbers."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    for name in OPTIONAL:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def commit():
    """Return the git commit of the checkout, with "+" where files were changed since; "" outside
    git.
    """
    here = Path(__file__).resolve().parent
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=10,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return text.strip()
