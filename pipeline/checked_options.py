"""The options of each verb, checked before any work."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from ct.config import Config, validate
from ct.label_tables.public_data import LABEL_FILES, DataFormat
from ct.run_dir import MODEL_NAME


def _normalized(path: str) -> str:
    return os.path.normpath(os.path.expanduser(path))


def _devices(text: str) -> str:
    if not re.fullmatch(r"(\d+|cpu)(,(\d+|cpu))*", text):
        raise ValueError("numbers of GPUs, or cpu, separated by commas: --gpus=0,2")
    return text


# normalized: without ~ and a trailing "/"
Folder = Annotated[str, Field(min_length=1), AfterValidator(_normalized)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # numpy's and scikit-learn's range


# numbers of GPUs; "cpu" is a place for one CNN on the CPU
Gpus = Annotated[str, AfterValidator(_devices)]


def _numbered_from_1(shard: str) -> str:
    number, slash, count = shard.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ValueError("the shards of eight are 1/8 to 8/8")
    return shard


Shard = Annotated[str, AfterValidator(_numbered_from_1)]  # number and count, such as 2/8


def _host_and_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16) or "/" in host:
        raise ValueError("the host and port that `ray start` printed, such as 10.0.0.1:6379")
    return address


Address = Annotated[str, AfterValidator(_host_and_port)]  # of a Ray cluster


class SynthOptions(Config):
    """Options of `synth`."""

    out: Folder
    studies: int = Field(60, ge=2)
    seed: Seed = 0


class RunOptions(Config):
    """Options of every verb that works on a run folder."""

    run: Folder


class StatusOptions(RunOptions):
    """Options of `status`."""

    as_json: bool = False
    verify: bool = False  # read every file
    units: bool = False  # list the units of work


class DemoOptions(RunOptions):
    """Options of `demo`. None: the values of an existing run, or the defaults of `synth`."""

    run: Folder = "runs/demo"
    studies: int | None = Field(None, ge=2)
    seed: Seed | None = None


class NewOptions(RunOptions):
    """Options of `new`. None: as in the recipe."""

    recipe: str = Field(min_length=1)
    data: str | None = Field(None, min_length=1)
    labels: str | None = None
    sample: str | None = None
    format: DataFormat | None = None
    slices: str | None = Field(None, min_length=1, validate_default=True)
    train_slices: int | None = Field(None, ge=1)
    seed: Seed | None = None
    series: Literal["best", "all"] | None = None
    allow_unlabelled: bool | None = None
    missing: Literal["refuse", "prior"] | None = None

    @field_validator("slices")
    @classmethod
    def _one_source(cls, slices: str | None, info: ValidationInfo) -> str | None:
        if (slices is None) == (info.data.get("data") is None):
            raise ValueError(
                "give one of --data (the images) and --slices (a table of slices, for stage two)"
            )
        if slices is not None and info.data.get("labels") is not None:
            raise ValueError(
                "--labels is for --data; a slice list has its labels in its own columns"
            )
        return slices


class UnitOptions(RunOptions):
    """Options of every verb that runs units of work.

    None: as many at once as cores and memory allow, and all of them.
    """

    workers: int | None = Field(None, ge=1)
    shard: Shard | None = None
    engine: Literal["local", "ray"] = "local"
    address: Address | None = None  # None: a Ray of its own on this machine

    @field_validator("engine")
    @classmethod
    def _ray_without_shards(cls, engine: str, info: ValidationInfo) -> str:
        if engine == "ray" and info.data.get("shard"):
            raise ValueError("give one of --engine=ray and --shard: Ray divides the units itself")
        return engine

    @field_validator("address")
    @classmethod
    def _of_ray(cls, address: str | None, info: ValidationInfo) -> str | None:
        if address is not None and info.data.get("engine") != "ray":
            raise ValueError("--address is for --engine=ray")
        return address


class CnnOptions(UnitOptions):
    """Options of `train` and `predict`. None: all visible GPUs."""

    gpus: Gpus | None = None

    @field_validator("gpus")
    @classmethod
    def _of_this_machine(cls, gpus: str | None, info: ValidationInfo) -> str | None:
        if gpus is not None and info.data.get("address") is not None:
            raise ValueError("--gpus is for this machine; a cluster uses what `ray start` gave it")
        if gpus is not None and "cpu" in gpus and info.data.get("engine") == "ray":
            raise ValueError("with --engine=ray a CNN without a GPU takes cores; leave out cpu")
        return gpus


class IngestOptions(UnitOptions):
    """Options of `ingest`. None leaves the recipe as it is."""

    allow_unlabelled: bool | None = None
    missing: Literal["refuse", "prior"] | None = None
    quarantine_unreadable: bool = False


class TuneOptions(UnitOptions):
    """Options of `tune`. None: as in the recipe, and no time limit."""

    trials: int | None = Field(None, ge=1)
    timeout: int | None = Field(None, ge=1)


class SearchOptions(RunOptions):
    """Options of `search`.

    None: the only CNN, fold 0, 20 trials, no time limit; for stage two as in TuneOptions.
    """

    stage: Literal["one", "two"] = "one"
    model: str | None = None
    fold: int | None = Field(None, ge=0)
    trials: int | None = Field(None, ge=1)
    timeout: int | None = Field(None, ge=1)

    @field_validator("model", "fold", "timeout")
    @classmethod
    def _of_stage_one(cls, value: object, info: ValidationInfo) -> object:
        if info.data.get("stage") == "two":
            raise ValueError(
                "only for --stage=one; --stage=two is `tune`, which searches every label and fold"
            )
        return value


class ReportOptions(RunOptions):
    """Options of `report`. None: report.html, else the page of that study."""

    study: str | None = Field(None, min_length=1)


class ExplainOptions(RunOptions):
    """Options of `explain`. None: the studies of the report, every CNN."""

    studies: str | None = Field(None, min_length=1)
    model: str | None = None


class SubmitOptions(RunOptions):
    """Options of `submit`."""

    stage: Literal["one", "two"] = "two"
    missing: Literal["refuse", "prior"] | None = None


class ImportOptions(RunOptions):
    """Options of `import-predictions`."""

    name: str = Field(pattern=MODEL_NAME)
    remove: bool = False
    test: str | None = None
    trust_oof: bool = False
    oof: str | None = Field(None, validate_default=True)

    @field_validator("oof")
    @classmethod
    def _import_or_remove(cls, oof: str | None, info: ValidationInfo) -> str | None:
        flags = [flag for flag in ("test", "trust_oof") if info.data.get(flag)]
        if oof is not None:
            flags.append("oof")
        if info.data.get("remove") and flags:
            raise ValueError(f"--remove goes without --{flags[0].replace('_', '-')}")
        if oof is None and not info.data.get("remove"):
            raise ValueError(
                "import-predictions needs --oof, a table of out-of-fold predictions (or --remove)"
            )
        return oof


class AllOptions(IngestOptions, CnnOptions):
    """Options of `all`."""

    trials: int | None = Field(None, ge=1)

    @field_validator("shard")
    @classmethod
    def _of_one_stage(cls, shard: str | None) -> str | None:
        if shard is not None:
            raise ValueError(
                "shards are of one stage: ingest, train, predict, features, tune, stack"
            )
        return shard


class ExportOptions(RunOptions):
    """Options of `export-model`."""

    to: Folder


class StudyOptions(Config):
    """Options of the verbs that predict studies of one's own."""

    to: Folder
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int | None = Field(None, ge=1)
    anyway: bool = False
    # one series of each study is chosen (None), each is a study ("all"), or a UID or name of one
    series: str | None = Field(None, min_length=1, max_length=64)
    quarantine_unreadable: bool = False
    fast: bool = False  # by the distilled CNN


class ScoreOptions(StudyOptions):
    """Options of `score`, with the models of a run or of a folder that `export-model` wrote."""

    data: Folder
    dicom_sr: bool = False
    model: Folder | None = None
    run: Folder | None = Field(None, validate_default=True)

    @field_validator("run")
    @classmethod
    def _one_model(cls, run: str | None, info: ValidationInfo) -> str | None:
        if (run is None) == (info.data.get("model") is None):
            raise ValueError(
                "give one of --run (a finished run) and --model (a folder of `export-model`)"
            )
        return run


class EvaluateOptions(StudyOptions):
    """Options of `evaluate`: a run or a model on studies, or a table of predictions."""

    data: Folder | None = None
    format: DataFormat | None = None  # of the labels; None: by the columns
    labels: str = Field("", validate_default=True)  # "": the file of a public data set in --data
    known_patients: bool = False
    predictions: Folder | None = None
    model: Folder | None = None
    run: Folder | None = Field(None, validate_default=True)

    @field_validator("labels")
    @classmethod
    def _labels_of_format(cls, labels: str, info: ValidationInfo) -> str:
        data, layout = info.data.get("data"), info.data.get("format")
        if not labels and data is not None and layout in LABEL_FILES:
            labels = os.path.join(data, LABEL_FILES[layout])
        if not labels:
            raise ValueError("give --labels, a table of labels by slice, series or study")
        return _normalized(labels)

    @field_validator("run")
    @classmethod
    def _one_source(cls, run: str | None, info: ValidationInfo) -> str | None:
        data, predictions, model = (info.data.get(n) for n in ("data", "predictions", "model"))
        if sum(value is not None for value in (run, model, predictions)) != 1:
            raise ValueError(
                "give one of --run (a finished run), --model (a folder of `export-model`) and "
                "--predictions (a table)"
            )
        if (data is None) == (predictions is None):
            raise ValueError(
                "--run and --model need --data, the labelled studies; --predictions goes without"
            )
        of_images = ("fast", "anyway", "series", "known_patients")
        if predictions is not None and (given := [n for n in of_images if info.data.get(n)]):
            raise ValueError(
                f"--predictions has no images to score: leave out --{given[0].replace('_', '-')}"
            )
        return run


OPTIONS: dict[str, type[Config]] = {  # verb -> its options; any other verb: RunOptions
    "completion": Config,
    "status": StatusOptions,
    "demo": DemoOptions,
    "synth": SynthOptions,
    "new": NewOptions,
    "ingest": IngestOptions,
    "train": CnnOptions,
    "predict": CnnOptions,
    "features": UnitOptions,
    "stack": UnitOptions,
    "tune": TuneOptions,
    "search": SearchOptions,
    "submit": SubmitOptions,
    "report": ReportOptions,
    "explain": ExplainOptions,
    "import-predictions": ImportOptions,
    "all": AllOptions,
    "export-model": ExportOptions,
    "score": ScoreOptions,
    "evaluate": EvaluateOptions,
}
# options that are fields of the recipe: given to a verb, they are saved in the run's recipe
IN_RECIPE = {
    "allow_unlabelled": "data.allow_unlabelled",
    "missing": "data.missing",
    "trials": "stage2.trials",
}


class Plan:
    """A verb with its checked options.

    It has no public attributes: python-fire would take the next word of the command line as one.
    """

    def __init__(self, verb: str, options: Mapping[str, object]) -> None:
        values = {name: value for name, value in options.items() if value is not None}
        self._verb, self._options = verb, validate(OPTIONS.get(verb, RunOptions), values, verb)


def unpack(plan: Plan) -> tuple[str, Config]:
    """Return (verb, options) of a plan."""
    return plan._verb, plan._options
