"""Bins of the features in files, so that each set of columns is binned once for all processes.

Binning gold's 945 columns takes a minute or more and gigabytes of memory; reading the bins back
takes a second or two and the memory of the bins. The files are LightGBM's own binary format. Its
parser may crash on damaged bytes, so that each file has a seal, which is verified before a process
first reads it.
"""

import errno
import functools
import json
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightgbm as lgb

from ct.run_dir import RunDir
from ct.storage.atomic_write import discard, replacing
from ct.storage.digests import text_digest
from ct.storage.file_lock import file_lock
from ct.storage.sealed_files import is_whole, seal, seal_path
from pipeline.freshness import file_digest

FEATURES = "stage2/features/train.npy"  # in the digests of what a stage reads


class BinnedFiles:
    """The folder stage2/binned/ of a run, as the store of a BinnedFeatures of its train slices."""

    def __init__(self, run: RunDir, read: Mapping[str, str], threads: int) -> None:
        """read: {name: digest} of what the stage reads; threads: as in BinnedFeatures."""
        digest = read.get(FEATURES) or file_digest(run.root / FEATURES)
        self.folder, self.threads = run.binned / digest, threads

    def __call__(self, key: Mapping[str, Any], make: Callable[[], lgb.Dataset]) -> lgb.Dataset:
        """Return the Dataset of a file; it is made where there is no whole file.

        key: plain values that the bins depend on, beside the features; make: returns the Dataset

        Others that need the same file wait until it is there. Raises OSError where the disk is
        full.
        """
        path = self._path(key)
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(path.with_suffix(".lock"), wait=True):
            if not _is_sealed(path):
                self._discard_others()
                write_bins(path, make, key["parameters"])
        return self._read(path, key)

    def has(self, key: Mapping[str, Any], verify: bool) -> bool:
        """Return whether there is a file with these bins. verify: read it, once a process"""
        path = self._path(key)
        return _is_sealed(path) if verify else path.is_file() and seal_path(path).is_file()

    def _path(self, key: Mapping[str, Any]) -> Path:
        depends_on = [key, lgb.__version__, platform.machine()]
        return self.folder / f"{text_digest(json.dumps(depends_on, sort_keys=True))}.bin"

    def _discard_others(self) -> None:
        """Remove bins of other features: those of an earlier state of the run."""
        for folder in self.folder.parent.iterdir():
            if folder != self.folder:
                discard(folder)

    def _read(self, path: Path, key: Mapping[str, Any]) -> lgb.Dataset:
        parameters = {**key["parameters"], "num_threads": self.threads}
        return lgb.Dataset(path, params=parameters).construct()


def _is_sealed(path: Path) -> bool:
    """Return whether a file is there with its seal and undamaged; it is read once a process."""
    if not (path.is_file() and seal_path(path).is_file()):
        return False
    stat = os.stat(path)
    return _is_whole(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1000)
def _is_whole(path: Path, size: int, mtime_ns: int) -> bool:
    return is_whole(path)


def write_bins(path: Path, make: Callable[[], lgb.Dataset], parameters: Mapping[str, Any]) -> None:
    """Write what `make` returns, and its seal. Raises OSError where the disk is full.

    parameters: LightGBM's, that it is made with
    """
    discard(seal_path(path))
    data = make()
    with replacing(path, lasting=False) as part:
        _require_room(part, data.num_data() * (data.num_feature() + 4))
        try:
            data.save_binary(part)
            del data  # two of them would not fit into the memory that is planned
            # LightGBM does not report when the last bytes could not be written: read it back
            lgb.Dataset(part, params=dict(parameters)).construct()
        except lgb.basic.LightGBMError:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
    seal(path)


def _require_room(part: Path, size: int) -> None:
    """Raise OSError where a file of `size` bytes has no room: LightGBM would print its own line."""
    if hasattr(os, "posix_fallocate"):
        with open(part, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        part.unlink()
