"""A run as the function of a stage gets it: folder, recipe, log, progress bars, receipts."""

import functools
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from ct.errors import InputError
from ct.kaggle_layout import Competition, find_competition, find_csv, find_folders, require_csv
from ct.run_dir import RunDir
from ct.sources.own_files import OwnStudies, find_own_studies
from ct.sources.zip_archive import ZipMember
from ct.storage.file_formats import read_json
from ct.storage.receipt_reader import read_receipt
from pipeline.command_line.printed_commands import with_flags
from pipeline.engines.local_engine import LocalEngine
from pipeline.freshness import file_digest, first_difference, why_stale
from pipeline.older_versions import older_recipe, shared_names, weight_files
from pipeline.progress import log, progress_bar
from pipeline.recipe import Recipe, load_recipe, save_recipe, with_changes
from pipeline.units.unit import Engine, Log, MakeBar

KEY_BYTES = 32  # length of the key of the pseudonyms


class Run:
    """A run folder with its recipe, its log and its progress bars.

    log: called with each line; bar: called with (total, text, unit), returns a progress bar

    Raises InputError where there is no such folder, or its recipe is not valid.
    """

    def __init__(
        self,
        root: str | Path,
        log: Log = log,
        bar: MakeBar = progress_bar,
    ) -> None:
        self.dir = RunDir(root)
        if not self.dir.root.is_dir():
            command = with_flags("new", run=root, recipe="NAME", data="DIR")
            raise InputError(f"--run={root}: no such run; make one with `{command}`")
        self.log = log
        self.bar = bar
        self.engine: Engine = LocalEngine()  # runs the units of the stages
        self.workers: int | None = None  # processes; None: one per core
        self.quarantine_unreadable = False  # files that the system cannot read
        self.started = time.time()  # what could not be read before may be readable now
        self.timeout: int | None = None  # seconds of tuning; None: no limit
        self.recipe: Recipe = load_recipe(self.dir.recipe, older_recipe)
        self.recipe_time = self._recipe_time()
        self.source_digests: dict[str, str] | None = None  # once the source is digested

    def change_recipe(self, changes: dict[str, Any]) -> None:
        """Change fields of the run's recipe and save it; log the first change.

        changes: {dotted key: value}, such as {"stage2.trials": 30}; equal values change nothing
        """
        before = self.recipe.model_dump(mode="json")
        changed = with_changes(self.recipe, changes)
        if changed != self.recipe:
            save_recipe(self.dir.recipe, changed)
            self.log(f"recipe.yaml: {first_difference(before, changed.model_dump(mode='json'))}")
            self.recipe, self.recipe_time = changed, self._recipe_time()

    def recipe_is_rewritten(self) -> bool:
        """Return whether recipe.yaml was written since this run was opened, as by an editor."""
        return self.recipe_time != self._recipe_time()

    def _recipe_time(self) -> int:
        with suppress(FileNotFoundError):  # an editor replaces it at this moment
            return self.dir.recipe.stat().st_mtime_ns
        return 0

    def recipe_part(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return {dotted key: plain value} of the recipe. keys: of fields, and of properties"""
        part = {}
        for dotted in keys:
            value = functools.reduce(getattr, dotted.split("."), self.recipe)
            part[dotted] = to_jsonable_python(value)
        return part

    def why_unit_is_stale(
        self, path: Path, part: dict[str, Any], read: dict[str, str], verify: bool
    ) -> str:
        """Return why a unit of a stage must run; "" where it is done.

        path: the unit's receipt; part: its part of the recipe; read: {name: digest} of its inputs;
        verify: read its files and compare them with the receipt, whatever their sizes and times
        """
        files = weight_files(self.recipe_part(("stage1.models",))["stage1.models"])
        return why_stale(self.dir.root, path, part, read, verify, shared_names(files))

    def pseudonym_key(self) -> bytes:
        """Return the key of the pseudonyms; a LegacyKey where the run keeps the earlier rule.

        Raises InputError where it is gone, or is not the key that ingest used.
        """
        receipt = read_receipt(self.dir.receipt("ingest")) or {"read": {}}
        known = receipt["read"].get("key")
        exists = self.dir.key.is_file()
        whole = exists and self.dir.key.stat().st_size == KEY_BYTES
        if not whole or known not in (None, file_digest(self.dir.key)):
            fault = "damaged: pseudonyms would change" if exists else "gone"
            raise InputError(
                f"{self.dir.key} is {fault}; put it back from a copy of the run, or make a new run"
            )
        # imports pydicom, a third of the time that `status` takes
        from ct.privacy.pseudonyms import LegacyKey

        key = self.dir.key.read_bytes()
        return key if self._exact_identifiers() else LegacyKey(key)

    def _exact_identifiers(self) -> bool:
        """Return whether only identifiers of exactly the competition's form are kept.

        An ingest of an earlier version, finished or interrupted, kept others.
        """
        from ct.privacy.pseudonyms import EXACT_LENGTHS

        for path in (self.dir.ingest, self.dir.ingest_work / "inputs.json"):
            # a missing or damaged file is made again by `ingest`
            with suppress(InputError, IsADirectoryError, ValueError):
                counts = read_json(path)
                return not isinstance(counts, dict) or counts.get("identifiers") == EXACT_LENGTHS
        return True

    def find_source(self) -> Competition | OwnStudies:
        """Return the parts of the recipe's competition, or the user's own studies."""
        data = self.recipe.data
        if data.format != "kaggle":
            assert data.labels is not None  # `new` sets it
            return find_own_studies(data.source, data.labels)
        return find_competition(data.source, data.labels, data.sample)

    def find_sample(self) -> Path | ZipMember:
        """Return the sample submission: a file, or a member of the zip archive."""
        data = self.recipe.data
        if data.sample:
            return require_csv(data.sample, "sample")
        source, stage = find_folders(data.source)
        return find_csv(data.source, source, f"{stage}_sample_submission.csv", None, "sample")
