"""Runs and a packed model of an older version of the code, which this version must be able to use.

data/older_version.tar.xz, made at commit fcf6187 from 8 example studies (seed 6, 64 px, 5 slices
each) with one small CNN in two folds, a chain and a probe; its identifiers and keys are invented:

    run/       finished by `all`, with a `search` of two trials; its source, /gone/example, was
               moved away
    half/      `train` was killed in the second epoch of fold 1; fold 0 is done
    model/     packed by export-model from run/
    dicom/     the one test study, whose patient is in fold 0 of train
    expected/  slices.csv of `score` on dicom/: score-run.csv by run/, score-model.csv by model/
"""

import os
import tarfile
from decimal import Decimal
from pathlib import Path

ARCHIVE = Path(__file__).resolve().parent / "data" / "older_version.tar.xz"


def unpack(folder):
    """Unpack the archive in `folder` and return it; times are kept to the nanosecond."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
        for member in archive.getmembers():
            time_ns = int(Decimal(member.pax_headers.get("mtime", member.mtime)) * 10**9)
            os.utime(folder / member.name, ns=(time_ns, time_ns))
    return folder


def names(folder):
    """Return the names of the files of one folder of the archive, relative to it."""
    with tarfile.open(ARCHIVE) as archive:
        files = [
            member.name.removeprefix("./") for member in archive.getmembers() if member.isfile()
        ]
    return sorted(
        name.removeprefix(f"{folder}/") for name in files if name.startswith(f"{folder}/")
    )
