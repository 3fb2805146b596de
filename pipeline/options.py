"""The options of each verb, checked before any work."""

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from ct.config import Config, validate
from ct.run_dir import MODEL_NAME


def _clean(path):
    return os.path.normpath(os.path.expanduser(path))


# without ~ and a "/" at its end
Folder = Annotated[str, Field(min_length=1), AfterValidator(_clean)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # numpy's and scikit-learn's range


class SynthOptions(Config):
    """`synth`."""

    out: Folder
    studies: int = Field(60, ge=2)
    seed: Seed = 0


class RunOptions(Config):
    """Every verb that works on a run folder."""

    run: Folder


class StatusOptions(RunOptions):
    """`status`."""

    as_json: bool = False
    verify: bool = False  # read all that is there


class DemoOptions(RunOptions):
    """`demo`. None: as the run was made, or the defaults of `synth` for a new one."""

    run: Folder = "runs/demo"
    studies: int | None = Field(None, ge=2)
    seed: Seed | None = None


class NewOptions(RunOptions):
    """`new`. None: as the recipe says."""

    recipe: str = Field(min_length=1)
    data: str | None = Field(None, min_length=1)
    labels: str | None = None
    sample: str | None = None
    slices: str | None = Field(None, min_length=1, validate_default=True)
    train_slices: int | None = Field(None, ge=1)
    seed: Seed | None = None
    allow_unlabelled: bool | None = None
    missing: Literal["refuse", "prior"] | None = None

    @field_validator("slices")
    @classmethod
    def _one_source(cls, slices, info):
        if (slices is None) == (info.data.get("data") is None):
            raise ValueError(
                "give one of --data (the images) and --slices (a table of slices, for stage two alone)"
            )
        if slices is not None and info.data.get("labels") is not None:
            raise ValueError(
                "--labels is for --data; a slice list has its labels in its own columns"
            )
        return slices


class IngestOptions(RunOptions):
    """`ingest`. An option of None leaves the recipe as it is."""

    allow_unlabelled: bool | None = None
    missing: Literal["refuse", "prior"] | None = None
    workers: int | None = Field(None, ge=1)
    quarantine_unreadable: bool = False


class TuneOptions(RunOptions):
    """`tune`. None: as the recipe says, without an end of time."""

    trials: int | None = Field(None, ge=1)
    timeout: int | None = Field(None, ge=1)
    workers: int | None = Field(None, ge=1)


class SearchOptions(RunOptions):
    """`search`. None: the recipe's only CNN, fold 0, 20 trials, no end of time; with stage two as
    for `tune`.
    """

    stage: Literal["one", "two"] = "one"
    model: str | None = None
    fold: int | None = Field(None, ge=0)
    trials: int | None = Field(None, ge=1)
    timeout: int | None = Field(None, ge=1)

    @field_validator("model", "fold", "timeout")
    @classmethod
    def _of_stage_one(cls, value, info):
        if info.data.get("stage") == "two":
            raise ValueError(
                "only for --stage=one; --stage=two is `tune`, which searches every label and fold"
            )
        return value


class ReportOptions(RunOptions):
    """`report`. None: report.html; else the page of one study."""

    study: str | None = Field(None, min_length=1)


class ExplainOptions(RunOptions):
    """`explain`. None: the studies that the report shows, every CNN."""

    studies: str | None = Field(None, min_length=1)
    model: str | None = None


class SubmitOptions(RunOptions):
    """`submit`."""

    stage: Literal["one", "two"] = "two"
    missing: Literal["refuse", "prior"] | None = None


class ImportOptions(RunOptions):
    """`import-predictions`."""

    name: str = Field(pattern=MODEL_NAME)
    remove: bool = False
    test: str | None = None
    trust_oof: bool = False
    oof: str | None = Field(None, validate_default=True)

    @field_validator("oof")
    @classmethod
    def _import_or_remove(cls, oof, info):
        given = [flag for flag in ("test", "trust_oof") if info.data.get(flag)] + ["oof"] * (
            oof is not None
        )
        if info.data.get("remove") and given:
            raise ValueError(f"--remove goes without --{given[0].replace('_', '-')}")
        if oof is None and not info.data.get("remove"):
            raise ValueError(
                "import-predictions needs --oof, a table of out-of-fold predictions (or --remove)"
            )
        return oof


class AllOptions(IngestOptions):
    """`all`."""

    trials: int | None = Field(None, ge=1)


class ExportOptions(RunOptions):
    """`export-model`."""

    to: Folder


class ScoreOptions(Config):
    """`score`: the models are those of a run, or of a folder that `export-model` made."""

    data: Folder
    to: Folder
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = Field(None, ge=1)
    anyway: bool = False
    quarantine_unreadable: bool = False
    model: Folder | None = None
    run: Folder | None = Field(None, validate_default=True)

    @field_validator("run")
    @classmethod
    def _one_model(cls, run, info):
        if (run is None) == (info.data.get("model") is None):
            raise ValueError(
                "give one of --run (a finished run) and --model (a folder that `export-model` made)"
            )
        return run


OPTIONS = {
    "completion": Config,
    "status": StatusOptions,
    "demo": DemoOptions,
    "synth": SynthOptions,
    "new": NewOptions,
    "ingest": IngestOptions,
    "tune": TuneOptions,
    "search": SearchOptions,
    "submit": SubmitOptions,
    "report": ReportOptions,
    "explain": ExplainOptions,
    "import-predictions": ImportOptions,
    "all": AllOptions,
    "export-model": ExportOptions,
    "score": ScoreOptions,
}
# options that are fields of the recipe: given to a later verb, they change the run's recipe for
# good
IN_RECIPE = {
    "allow_unlabelled": "data.allow_unlabelled",
    "missing": "data.missing",
    "trials": "stage2.trials",
}


class Plan:
    """A verb with its checked options. Opaque on purpose: python-fire builds it and must find
    nothing in it to call.
    """

    def __init__(self, verb, options):
        given = {name: value for name, value in options.items() if value is not None}
        self._verb, self._options = verb, validate(OPTIONS.get(verb, RunOptions), given, verb)


def unpack(plan):
    """Return (verb, options) of a plan."""
    return plan._verb, plan._options
