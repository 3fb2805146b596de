"""A run as a stage's function gets it: folder, recipe, log, progress bars, and what makes a stage
stale.
"""

from contextlib import suppress

from ct.errors import InputError
from ct.run_dir import RunDir
from ct.storage.file_formats import read_json
from ct.storage.receipts import read_receipt
from pipeline.command_line.printed_commands import with_flags
from pipeline.freshness import file_digest, first_difference, why_stale
from pipeline.input_digests import DIGESTS
from pipeline.older_versions import older_recipe, shared_names, weight_files
from pipeline.progress import log, progress_bar
from pipeline.receipt import Receipt
from pipeline.recipe import Recipe, load_recipe, save_recipe, with_changes
from pipeline.registry import CHECKS, COUNTS

KEY_BYTES = 32


class Run:
    """A run folder with its recipe, and a voice: what a stage's function gets."""

    def __init__(self, root, log=log, bar=None):
        self.dir = RunDir(root)
        if not self.dir.root.is_dir():
            raise InputError(
                f"--run={root}: no such run; make one with `{with_flags('new', run=root, recipe='NAME', data='DIR')}`"
            )
        self.log = log
        self.bar = bar or progress_bar
        self.workers = None  # processes; None: one a core
        # files that the system cannot read, while it reads others
        self.quarantine_unreadable = False
        self.timeout = None  # seconds of tuning; None: as long as it takes
        self.recipe: Recipe = load_recipe(self.dir.recipe, older_recipe)
        self.source_digests = None  # {name: digest} once the source has been digested

    def change_recipe(self, changes):
        """Change fields of the run's recipe ({"stage2.trials": 30}) for good, and say so; unchanged
        values do nothing.
        """
        values = self.recipe.model_dump(mode="json")
        changed = with_changes(self.recipe, changes)
        if changed != self.recipe:
            save_recipe(self.dir.recipe, changed)
            self.log(f"recipe.yaml: {first_difference(values, changed.model_dump(mode='json'))}")
            self.recipe = changed

    def part(self, keys):
        """Return the part of the recipe that lies under dotted `keys`, as plain values."""
        values, part = self.recipe.model_dump(mode="json"), {}
        for dotted in keys:
            value = values
            for key in dotted.split("."):
                value = value[key]
            part[dotted] = value
        return part

    def read(self, stage):
        """Return {name: digest} of everything that a stage reads, as it is now."""
        digests = {}
        for name in stage.reads:
            if name in DIGESTS:
                digests |= DIGESTS[name](self)
            elif known := read_receipt(self.dir.receipt(name)):
                skip = CHECKS if stage.name in ("submit", "report") else COUNTS + CHECKS
                digests |= {
                    path: made["digest"] for path, made in known["made"].items() if path not in skip
                }
        return digests

    def why_stale(self, stage):
        """Return why a stage must run, or "" where its work still holds."""
        why = why_stale(
            self.dir.root, self.dir.receipt(stage.name), self.part(stage.keys), self.read(stage)
        )
        return (
            "the key is damaged or gone, put it back from a copy of the run"
            if why == "key changed"
            else why
        )

    def job(self, path, stage, part, read):
        """Return (why, receipt) of one job of a stage, such as one CNN and fold: "" where its work
        still holds.
        """
        shared = shared_names(weight_files(self.part(("stage1.models",))["stage1.models"]))
        # kept work enters the stage's receipt
        why = why_stale(self.dir.root, path, part, read, verify=True, shared=shared)
        return why, Receipt(self.dir.root, path, stage, part, read)

    def pseudonym_key(self):
        """Return the key of the pseudonyms, bytes, a LegacyKey where the run keeps the earlier
        rule of identifiers.

        Raises InputError where it is not the one that ingest gave them under.
        """
        known = (read_receipt(self.dir.receipt("ingest")) or {"read": {}})["read"].get("key")
        whole = self.dir.key.is_file() and self.dir.key.stat().st_size == KEY_BYTES
        if not whole or known not in (None, file_digest(self.dir.key)):
            what = (
                "damaged: patients and slices would get other pseudonyms"
                if self.dir.key.is_file()
                else "gone"
            )
            raise InputError(
                f"{self.dir.key} is {what}; put it back from a copy of the run, or make a new run"
            )
        # with pydicom, which takes `status` a third of its time
        from ct.privacy.pseudonyms import LegacyKey

        key = self.dir.key.read_bytes()
        return key if self._exact_identifiers() else LegacyKey(key)

    def _exact_identifiers(self):
        """Tell whether identifiers are kept of the competition's exact lengths alone: not where an
        ingest, or one that was interrupted, has kept others.
        """
        from ct.privacy.pseudonyms import EXACT_LENGTHS

        for path in (self.dir.ingest, self.dir.ingest_work / "inputs.json"):
            # not there, or damaged: `ingest` makes it anew
            with suppress(InputError, IsADirectoryError, ValueError):
                kept = read_json(path)
                return not isinstance(kept, dict) or kept.get("identifiers") == EXACT_LENGTHS
        return True

    def find_source(self):
        """Return the competition.Competition of the recipe's data section."""
        from ct.kaggle_layout import find_competition

        data = self.recipe.data
        return find_competition(data.source, data.labels, data.sample)

    def find_sample(self):
        """Return the sample submission, a path or a file of a zip; it may lie elsewhere than the
        slices.
        """
        from ct.kaggle_layout import find_csv, find_elsewhere, find_folders

        data = self.recipe.data
        if data.sample:
            return find_elsewhere(data.sample, "sample")
        source, stage = find_folders(data.source)
        return find_csv(data.source, source, f"{stage}_sample_submission.csv", None, "sample")
