"""The receipt of a job: what it read and made, part of the recipe, versions, time, memory."""

import datetime
import functools
import importlib.metadata
import resource
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ct.privacy.redaction import mask_passwords
from ct.storage.file_formats import write_json
from ct.storage.receipt_reader import read_receipt
from pipeline.freshness import changed_file, stamp_files

PACKAGES = ("torch", "timm", "pydicom", "lightgbm", "optuna", "scikit-learn", "pandas", "numpy")
OPTIONAL = ("xgboost", "xgboost-cpu", "catboost")  # if they are installed


class Receipt:
    """Times a job and writes its receipt: `with Receipt(...) as receipt: receipt.made = [paths]`.

    root: run folder; path: of the receipt; stage: name of the job's stage; part: its part of the
    recipe, plain values; read: {name: digest} of its inputs
    """

    def __init__(
        self, root: Path, path: Path, stage: str, part: dict[str, Any], read: dict[str, str]
    ) -> None:
        self.root, self.path = root, path
        self.values: dict[str, Any] = {
            "stage": stage,
            "recipe": mask_passwords(part),
            "read": read,
        }
        self.made: list[Path] = []  # files and folders
        self.seconds = 0.0  # from now until it is written
        self._start = time.perf_counter()

    def __enter__(self) -> "Receipt":
        self._before = read_receipt(self.path)
        # a job that is killed must leave no receipt: its files may be half written
        self.path.unlink(missing_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            # a job that failed before it changed a file keeps its earlier receipt
            if self._before and not changed_file(self.root, self._before["made"]):
                write_json(self.path, self._before)
            return
        self.seconds = time.perf_counter() - self._start
        self.values |= {
            "made": stamp_files(self.root, self.made),
            "seconds": round(self.seconds, 2),
            "peak_memory_mb": peak_memory_mb(),
            "versions": versions(),
            "commit": commit(),
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        write_json(self.path, self.values)


def peak_memory_mb() -> int:
    """Return the largest memory of this process or one of its finished children so far, MB."""
    processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in processes) // 1024


@functools.cache
def versions() -> dict[str, str]:
    """Return {package: version} of the packages that decide the numbers."""
    installed = {name: importlib.metadata.version(name) for name in PACKAGES}
    for name in OPTIONAL:
        with suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed


@functools.cache
def commit() -> str:
    """Return the checkout's git commit, with "+" if files were changed since; "" outside git."""
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=10,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return text.strip()
