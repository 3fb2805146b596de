"""A run is a folder: where each thing lies in it and in which format. The only module that knows.

    recipe.yaml  key                                  the resolved recipe; the key of the pseudonyms
    (never exported) slices.parquet  quarantine.csv  pixels/           ingest folds.parquet
    folds stage1/<model>/fold<k>/  stage1/<model>/oof.parquet   train, predict given_folds.parquet
    ingest, from a slice list with folds of its own imports/<name>/  imports/folds.parquet
    import-predictions; the folds that came with the first of them stage2/...
    features, tune, stack stage1/<model>/explain/<study>.npy, .json         explain submission.csv
    report.html  studies/<study>.html submit, report, report --study search/<model>-fold<k>.journal
    search receipts/<stage>.json                             what each stage read and made, with
    which part of the recipe

Every write goes to a `.part` name first, is flushed and renamed (ct/storage/atomic_write.py), so
nothing that looks finished is not. What an interrupted ingest has done so far waits in
`ingest.part/` for the next.
"""

import json
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from safetensors.numpy import load_file, save_file

from ct.errors import InputError
from ct.storage.atomic_write import discard, replacing

NAME = r"^[A-Za-z0-9_-]+$"  # of a model: it is a folder's name


@contextmanager
def resuming(path, inputs, log=None):
    """Give the work folder `path`, for pieces of work that are worth keeping when the rest is
    interrupted.

    inputs: plain values that decide what the pieces hold. What a killed or failed process left in
    the folder is there again where its inputs were the same, and else thrown away. The folder goes
    when the block ends without an error. log: called with a line where work is thrown away
    """
    path = Path(path)
    marker = path / "inputs.json"
    try:
        same = read_json(marker) == json.loads(json.dumps(_plain(inputs)))
    except (
        InputError,
        IsADirectoryError,
        ValueError,
        RecursionError,
    ):  # there is none, or a damaged one
        same = False
    if not same:
        if log and marker.exists():
            log(
                f"  {path.name} is of other inputs, or damaged; the work that was interrupted is begun anew"
            )
        discard(path)
        # what ingest has read so far holds paths, which may be people's names
        path.mkdir(mode=0o700, parents=True)
        write_json(marker, inputs)
    yield path
    discard(path)


def write_table(path, table, lasting=True):
    """Write a DataFrame as parquet, with its index. lasting: as in `replacing`"""
    with replacing(path, lasting) as part:
        table.to_parquet(part, compression="zstd")


def read_table(path):
    """Read a parquet table."""
    return pd.read_parquet(needed(path))


def write_array(path, array):
    """Write an array as .npy."""
    with replacing(path) as part, open(part, "wb") as file:
        np.save(file, array, allow_pickle=False)


def read_array(path):
    """Open a .npy array as a read-only memory map."""
    return np.load(needed(path), mmap_mode="r", allow_pickle=False)


def new_memory_map(path, dtype, shape, fortran_order=False):
    """Return a new .npy file as a memory map to fill. Raises OSError where the disk has no room for
    it.

    The room is taken before anything is written: a map of a file with holes ends the process by
    SIGBUS on a full disk.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape, fortran_order)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return array


def join_arrays(path, parts):
    """Write the arrays of the .npy files `parts`, one after the other along the first axis, as one
    .npy file.

    Memory holds one of them at a time.
    """
    shapes = [read_array(part) for part in parts]
    rows = sum(len(array) for array in shapes)
    with replacing(path) as target:
        whole = new_memory_map(target, shapes[0].dtype, (rows, *shapes[0].shape[1:]))
        at = 0
        for part in parts:
            array = read_array(part)
            whole[at : at + len(array)] = array
            at += len(array)
        whole.flush()
        del whole


def write_arrays(path, arrays):
    """Write a dict of arrays as safetensors."""
    with replacing(path) as part:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, part)


def read_arrays(path):
    """Read a dict of arrays that `write_arrays` wrote."""
    return load_file(needed(path))


def write_json(path, value):
    """Write plain values as JSON, keys in their order; NaN becomes null."""
    with replacing(path) as part:
        part.write_text(
            json.dumps(_plain(value), indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )


def read_json(path):
    """Read a JSON file."""
    return json.loads(needed(path).read_text(encoding="utf-8"))


def write_yaml(path, value):
    """Write plain values as YAML, keys in their order."""
    with replacing(path) as part:
        part.write_text(yaml.safe_dump(value, sort_keys=False, width=120), encoding="utf-8")


def write_text(path, text, lasting=True):
    """Write a text file. lasting: as in `replacing`"""
    with replacing(path, lasting) as part:
        part.write_text(text, encoding="utf-8")


def needed(path):
    """Return `path`, or raise InputError where it is not there yet."""
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path} is not there; run the stage that makes it first (`status` shows which)"
        )
    return path


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value


class RunDir:
    """The paths of one run folder."""

    def __init__(self, root):
        self.root = Path(root)
        self.recipe = self.root / "recipe.yaml"
        self.key = self.root / "key"
        self.slices = self.root / "slices.parquet"
        self.quarantine = self.root / "quarantine.csv"
        self.ingest = self.root / "ingest.json"
        self.pixels = self.root / "pixels"
        self.ingest_work = self.root / "ingest.part"
        self.folds = self.root / "folds.parquet"
        self.given_folds = self.root / "given_folds.parquet"
        self.imports = self.root / "imports"
        self.imported_folds = self.imports / "folds.parquet"
        self.stage1 = self.root / "stage1"
        self.stage2 = self.root / "stage2"
        self.probes = self.stage2 / "features" / "probes.safetensors"
        self.chain = self.stage2 / "features" / "chain.json"
        # (fold, part) of each patient of train; older runs lack it
        self.parts = self.stage2 / "features" / "parts.parquet"
        self.submission = self.root / "submission.csv"
        self.submission_one = self.root / "submission-stage-one.csv"
        self.report = self.root / "report.html"

    def receipt(self, stage):
        """Return the path of a stage's receipt."""
        return self.root / "receipts" / f"{stage}.json"

    def fold(self, model, k):
        """Return the folder of one CNN and fold."""
        return self.stage1 / model / f"fold{k}"

    def oof(self, model):
        """Return the path of one CNN's out-of-fold probabilities, (n, 6) indexed by slice id."""
        return self.stage1 / model / "oof.parquet"

    def explained(self, model, study):
        """Return the paths of one CNN's Grad-CAM maps of a study: facts (.json, written last) and
        maps (.npy).
        """
        folder = self.explain(model)
        return folder / f"{study}.json", folder / f"{study}.npy"

    def explain(self, model):
        """Return the folder of one CNN's Grad-CAM maps."""
        return self.stage1 / model / "explain"

    def study_page(self, study):
        """Return the path of the page of one study."""
        return self.root / "studies" / f"{study}.html"

    def imported(self, name):
        """Return the folder of an imported model."""
        return self.imports / name

    def imported_oof(self, name):
        """Return the path of an imported model's out-of-fold probabilities, (n, 6) indexed by slice
        id.
        """
        return self.imported(name) / "oof.parquet"

    def imported_tests(self, name, count):
        """Return the paths of an imported model's opinions of the test slices, one a fold, or, of
        1, all folds'.
        """
        names = ["test.parquet"] if count == 1 else [f"test-fold{k}.parquet" for k in range(count)]
        return [self.imported(name) / file for file in names]

    def imported_test(self, name, k):
        """Return the path of the imported model's opinion of the test slices that stacker `k`
        reads.
        """
        shared, own = self.imported_tests(name, 1)[0], self.imported_tests(name, k + 2)[k]
        return shared if shared.exists() else own

    def imported_notes(self, name):
        """Return the path of what there is to know of an imported model."""
        return self.imported(name) / "import.json"

    def search(self, model, k):
        """Return the folder of the search of one CNN's settings without fold `k`; its journal lies
        beside it.
        """
        return self.root / "search" / f"{model}-fold{k}"
