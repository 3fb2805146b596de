"""The options of each verb, checked before any work."""

from typing import Literal

from pydantic import Field

from ct.config import Config, check


class SynthOptions(Config):
    """`synth`."""

    out: str = Field(min_length=1)
    studies: int = Field(60, ge=2)
    seed: int = Field(0, ge=0)


class RunOptions(Config):
    """Every verb that works on a run folder."""

    run: str = Field(min_length=1)


class DemoOptions(RunOptions):
    """`demo`. None: as the run was made, or the defaults of `synth` for a new one."""

    run: str = "runs/demo"
    studies: int | None = Field(None, ge=2)
    seed: int | None = Field(None, ge=0)


class NewOptions(RunOptions):
    """`new`."""

    recipe: str = Field(min_length=1)
    data: str = Field(min_length=1)
    labels: str | None = None
    sample: str | None = None
    seed: int | None = Field(None, ge=0)
    allow_unlabelled: bool = False
    missing: Literal["refuse", "prior"] = "refuse"


class IngestOptions(RunOptions):
    """`ingest`. An option of None leaves the recipe as it is."""

    allow_unlabelled: bool | None = None
    workers: int | None = Field(None, ge=1)


class TuneOptions(RunOptions):
    """`tune`."""

    trials: int | None = Field(None, ge=1)
    workers: int | None = Field(None, ge=1)


class SubmitOptions(RunOptions):
    """`submit`."""

    stage: Literal["one", "two"] = "two"
    missing: Literal["refuse", "prior"] | None = None


class AllOptions(IngestOptions, TuneOptions):
    """`all`."""

    missing: Literal["refuse", "prior"] | None = None


OPTIONS = {
    "demo": DemoOptions,
    "synth": SynthOptions,
    "new": NewOptions,
    "ingest": IngestOptions,
    "tune": TuneOptions,
    "submit": SubmitOptions,
    "all": AllOptions,
}
IN_RECIPE = {  # options that are fields of the recipe: given to a later verb, they change the run's recipe for good
    "allow_unlabelled": "data.allow_unlabelled",
    "missing": "data.missing",
    "trials": "stage2.trials",
}


class Plan:
    """A verb with its checked options. Opaque on purpose: python-fire builds it and must find nothing in it to call."""

    def __init__(self, verb, options):
        given = {name: value for name, value in options.items() if value is not None}
        self._verb, self._options = verb, check(OPTIONS.get(verb, RunOptions), given, verb)


def unpack(plan):
    """Return (verb, options) of a plan."""
    return plan._verb, plan._options
