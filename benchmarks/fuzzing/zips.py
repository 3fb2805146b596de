"""Damaged zip archives in the competition's layout: opened, listed, every file of them read."""

import io
import os
import struct
import zipfile

import numpy as np
from tiny_dicom import slice_bytes

from benchmarks.fuzzing.byte_damage import damaged, nasty
from ct.errors import InputError
from ct.kaggle_layout import find_competition
from ct.labels import LABELS, read_labels
from ct.sources.source import Unreadable
from ct.sources.zip_archive import open_zip
from ct.submission import read_sample

CENTRAL, END = b"PK\x01\x02", b"PK\x05\x06"
FIELDS = {
    "flags": (8, 2),
    "method": (10, 2),
    "crc": (16, 4),
    "packed": (20, 4),
    "size": (24, 4),
    "name": (28, 2),
    "extra": (30, 2),
    "comment": (32, 2),
    "offset": (42, 4),
}
END_FIELDS = {
    "disk": (4, 2),
    "entries": (8, 2),
    "all entries": (10, 2),
    "directory": (12, 4),
    "begin": (16, 4),
    "comment": (20, 2),
}


def make_seeds(folder):
    """Return the bytes of archives: deflated, stored, with zip64 fields, with packed csv files."""
    rng = np.random.default_rng(0)
    rows = "".join(f"ID_00000000{number}_{label},0\n" for number in range(3) for label in LABELS)
    files = {}
    for part, number in ((part, number) for part in ("train", "test") for number in range(3)):
        raw = slice_bytes(rng.integers(0, 2000, (16, 16)), name=f"ID_00000000{number}")
        files[f"data/stage_2_{part}/ID_00000000{number}.dcm"] = raw
    files |= {
        f"data/stage_2_{name}.csv": f"ID,Label\n{rows}".encode()
        for name in ("train", "sample_submission")
    }
    seeds = [_archive(files, method) for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)]
    limit, zipfile.ZIP64_LIMIT = zipfile.ZIP64_LIMIT, 100
    seeds.append(_archive(files, zipfile.ZIP_STORED))
    zipfile.ZIP64_LIMIT = limit
    return seeds


def _archive(files, method):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, raw in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), raw, method)
    return out.getvalue()


def mutate(rng, seeds, folder):
    """Write one damaged archive."""
    raw, kind = bytearray(seeds[int(rng.integers(len(seeds)))]), int(rng.integers(5))
    if kind < 2:
        what = ", ".join(_other_field(rng, raw) for _ in range(int(rng.choice([1, 1, 2, 4]))))
    elif kind == 2:
        raw, what = _grown(rng)
    else:
        raw, what = damaged(rng, raw, tail=0.6)
    (folder / "z.zip").write_bytes(raw)
    return what


def _other_field(rng, raw):
    """Overwrite a field of an entry of the directory, of its end, or of zip64's extra fields."""
    mark = END if rng.random() < 0.2 else CENTRAL
    fields = END_FIELDS if mark == END else FIELDS
    places = [at for at in range(len(raw)) if raw.startswith(mark, at)]
    name = str(rng.choice(list(fields)))
    place, size = fields[name]
    if mark == CENTRAL and rng.random() < 0.2:
        name, place, size = "extra's bytes", 46 + int(rng.integers(0, 80)), 8
    at = places[int(rng.integers(len(places)))] + place
    most = 2 ** (8 * size)
    values = [
        0,
        1,
        most // 2 - 1,
        most // 2,
        most - 2,
        most - 1,
        int(rng.integers(0, min(most, 2**62))),
    ]
    value = values[int(rng.integers(len(values)))]
    raw[at : at + size] = value.to_bytes(size, "little")
    return f"{name} = {value}"


def _grown(rng):
    """Return an archive with odd names, a huge member, a name twice, or a packed csv."""
    files = {"stage_2_test/a.dcm": b"x", "stage_2_train/b.dcm": b"y"}
    kind = int(rng.integers(4))
    if kind == 0:
        files |= {
            str(rng.choice(["", "stage_2_train/", "/", "../"]))
            + nasty(rng)[:60000].encode("utf-8", "replace").decode(): b"z"
        }
    elif kind == 1:
        files |= {
            str(rng.choice(["stage_2_train/c.dcm", "stage_2_train.csv"])): bytes(
                int(rng.choice([65, 70])) << 20
            )
        }
    elif kind == 2:
        files |= {
            "stage_2_train.csv.zip": _archive(
                {nasty(rng)[:100].encode("utf-8", "replace").decode(): b"ID,Label\n"}, 8
            )
        }
    files.setdefault("stage_2_train.csv", b"ID,Label\na_any,1\n")
    raw = bytearray(_archive(files, zipfile.ZIP_DEFLATED))
    if kind == 3:
        struct.pack_into("<L", raw, raw.index(CENTRAL) + 42, 2**32 - 2)
    return raw, f"growth {kind}"


def attempt(folder):
    """Open the archive as `ingest` and `score` do, and read whatever is in it."""
    os.chdir(folder)
    try:
        whole = open_zip("z.zip")
        for file in whole.select(whole.all_files()):
            try:
                file.head(2048)
                file.open().close()
            except Unreadable as error:
                if not str(error).isprintable():
                    return str(error)
        found = find_competition("z.zip")
        read_labels(found.labels_csv)
        read_sample(found.sample_csv)
    except InputError as error:
        return str(error)
    return ""
