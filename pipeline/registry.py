"""The stages: one table, name -> reads, makes, function; what is stale among them, and running them
in order.
"""

import importlib
from contextlib import suppress
from dataclasses import dataclass

from ct.errors import InputError
from ct.run_dir import RunDir, read_json
from ct.system.engine import cores
from pipeline.command_lines import with_flags
from pipeline.freshness import Receipt, file_digest, first_difference, read_receipt, why_stale
from pipeline.input_digests import DIGESTS
from pipeline.integrity import check_content
from pipeline.older_versions import older_recipe, shared_names, weight_files
from pipeline.progress import log, progress_bar
from pipeline.recipe import Recipe, load_recipe, save_recipe, with_changes


@dataclass(frozen=True)
class Stage:
    """One stage: what it reads of other stages, which keys of the recipe it depends on, and where
    its function lies.
    """

    name: str
    # stages whose files it reads; "source" and "sample" are what the user gave
    reads: tuple[str, ...]
    keys: tuple[str, ...]  # dotted keys of the recipe
    function: str  # "module:function", imported when it runs: torch and lightgbm take seconds
    makes: str  # for people


CNNS = ("stage1.models", "stage1.tensorboard")
STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "ingest",
            ("source", "key"),
            (
                "data.source",
                "data.labels",
                "data.slices",
                "data.train_slices",
                "data.allow_unlabelled",
                "pixels",
            ),
            "pipeline.stages.ingest:ingest",
            "slices.parquet, quarantine.csv, pixels/",
        ),
        Stage(
            "folds",
            ("ingest", "given folds"),
            ("seed", "folds"),
            "pipeline.stages.folds:folds",
            "folds.parquet",
        ),
        Stage(
            "train",
            ("ingest", "folds", "weights"),
            ("seed", "folds", *CNNS),
            "pipeline.stages.train:train",
            "stage1/<model>/fold<k>/, stage1/<model>/oof.parquet",
        ),
        Stage(
            "predict",
            ("ingest", "train"),
            ("folds", *CNNS),
            "pipeline.stages.predict:predict",
            "stage1/<model>/fold<k>/test.parquet",
        ),
        Stage(
            "features",
            ("ingest", "folds", "train", "predict", "imports"),
            ("folds.k", *CNNS, "stage1.imports", "features"),
            "pipeline.stages.features:features",
            "stage2/features/",
        ),
        Stage(
            "tune",
            ("ingest", "folds", "features"),
            ("seed", "folds.k", "stage2"),
            "pipeline.stages.tune:tune",
            "stage2/configs.json, stage2/trials.parquet, stage2/tuning.json",
        ),
        Stage(
            "stack",
            ("ingest", "folds", "features", "tune"),
            ("seed", "folds.k", "stage2"),
            "pipeline.stages.stack:stack",
            "stage2/boosters/, stage2/oof.parquet, stage2/test.parquet, stage2/scores.json",
        ),
        Stage(
            "submit",
            ("sample", "ingest", "stack"),
            ("data.sample", "data.missing"),
            "pipeline.stages.submit:submit",
            "submission.csv",
        ),
        Stage(
            "report",
            ("ingest", "folds", "train", "predict", "imports", "explanations", "tune", "stack"),
            ("name", "seed", "data", "folds", "pixels", "stage1", "features", "stage2", "report"),
            "pipeline.stages.report:report",
            "report.html",
        ),
    )
}


PARALLEL = ("ingest", "tune")  # stages that work in several processes
GIVEN = {
    "source": "the DICOM files and the label csv, or the slice list",
    "key": "the key of the pseudonyms",
    "sample": "the sample submission",
    "weights": "local weights, if any",
    "given folds": "folds that were given, if any",
    "imports": "imported predictions, if any",
    "explanations": "Grad-CAM maps, if any",
}
KEY_BYTES = 32
# of ingest; nothing depends on them that does not depend on what they are of
CHECKS = ("pixels/checksums.parquet",)
# of ingest, for people: only submit and report depend on them
COUNTS = ("ingest.json", "quarantine.csv")


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
        """Return the key of the pseudonyms, bytes, an EarlierKey where the run keeps the earlier
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
        from ct.privacy.pseudonyms import EarlierKey

        key = self.dir.key.read_bytes()
        return key if self._exact_identifiers() else EarlierKey(key)

    def _exact_identifiers(self):
        """Tell whether identifiers are kept of the competition's exact lengths alone: not where an
        ingest, or one that was interrupted, has kept others.
        """
        from ct.privacy.pseudonyms import EXACT

        for path in (self.dir.ingest, self.dir.ingest_work / "inputs.json"):
            # not there, or damaged: `ingest` makes it anew
            with suppress(InputError, IsADirectoryError, ValueError):
                kept = read_json(path)
                return not isinstance(kept, dict) or kept.get("identifiers") == EXACT
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


def state(run):
    """Return {stage: (state, why)} with the states fresh, stale and missing; a stage after a stale
    one is stale, too.
    """
    states, upstream = {}, {}
    for name, stage in STAGES.items():
        why = run.why_stale(stage)
        waits = next((read for read in stage.reads if upstream.get(read)), None)
        if why == "not made yet":
            states[name] = ("missing", why)
        elif why or waits:
            states[name] = ("stale", why or f"{waits} is to be made again")
        else:
            states[name] = ("fresh", "")
        upstream[name] = states[name][0] != "fresh"
    return states


def run_stage(run, name):
    """Bring one stage up to date. Returns whether it had to work.

    Raises InputError where a stage that it reads is not fresh.
    """
    stage = STAGES[name]
    states = state(run)
    for read in stage.reads:
        if read in STAGES and states[read][0] != "fresh":
            run.pseudonym_key()  # with a damaged one `ingest` and `all` would end as this does
            raise InputError(
                f"{name} reads what {read} makes, and {read} is {_phrase(states[read])}; run `{read}` or `all`"
            )
    why = run.why_stale(stage)
    if not why:
        run.log(f"{name}: fresh, nothing to do")
        return False
    check_content(run.dir, name, [read for read in stage.reads if read in STAGES])
    if "key" in stage.reads:
        run.pseudonym_key()  # before the receipt that knows its digest goes
    run.log(f"{name}: {why}" if why != "not made yet" else f"{name}:")
    run.log(
        f"  reads {'; '.join(STAGES[read].makes if read in STAGES else GIVEN[read] for read in stage.reads)}"
    )
    module, function = stage.function.split(":")
    receipt = Receipt(
        run.dir.root, run.dir.receipt(name), name, run.part(stage.keys), run.read(stage)
    )
    receipt.values |= {
        "processes": (run.workers or cores()) if name in PARALLEL else 1,
        "device": "cpu",
    }
    with receipt:
        # nor is there a need of torch
        if name in ("train", "predict") and not run.recipe.stage1.models:
            run.log("  the recipe has no CNNs")
        else:
            getattr(importlib.import_module(module), function)(run, receipt)
    run.log(f"  made {stage.makes if receipt.made else 'nothing'} in {receipt.seconds:.1f} s")
    return True


def run_all(run):
    """Bring every stage up to date, in order. Returns the names of those that had to work."""
    return [name for name in STAGES if run_stage(run, name)]


def _phrase(state_and_why):
    kind, why = state_and_why
    return "missing" if kind == "missing" else f"stale ({why})"
