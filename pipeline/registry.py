"""The table of stages: what each reads, which keys of the recipe it depends on, what it makes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline."""

    name: str  # also its verb
    reads: tuple[str, ...]  # stages whose files it reads, and keys of USER_INPUTS
    keys: tuple[str, ...]  # dotted keys of the recipe that its result depends on, or properties
    function: str  # "module:function", imported when it runs: torch and lightgbm take seconds
    makes: str  # its files, for messages
    # "module:function" that returns its units of work, (run, digests of what it reads) -> units;
    # then `function` only joins what they leave
    units: str = ""


USER_INPUTS = {  # what no stage makes -> its description; pipeline.input_digests digests each
    "source": "the DICOM files and the label csv, or the slice list",
    "key": "the key of the pseudonyms",
    "sample": "the sample submission",
    "weights": "local weights, if any",
    "predefined folds": "folds of the slice list or of an imported model, if any",
    "imports": "imported predictions, if any",
    "explanations": "Grad-CAM maps, if any",
}
SEARCH_KEYS = tuple(  # of the settings of stage two, those that the searches depend on
    f"stage2.{name}"
    for name in (
        "trials",
        "storage",
        "max_rounds",
        "positive_patients",
        "confidence",
        "has_tuned",
        "calibrate_by",
        "tail_bins",
    )
)
_CNN_KEYS = ("stage1.models", "stage1.tensorboard")

_TABLE = (
    Stage(
        name="ingest",
        reads=("source", "key"),
        keys=(
            "data.source",
            "data.format",
            "data.labels",
            "labels",
            "data.slices",
            "data.train_slices",
            "data.series",
            "data.allow_unlabelled",
            "pixels",
        ),
        function="pipeline.stages.ingest:ingest",
        makes="slices.parquet, quarantine.csv, pixels/",
        units="pipeline.stages.ingest:ingest_units",
    ),
    Stage(
        name="folds",
        reads=("ingest", "predefined folds"),
        keys=("seed", "folds"),
        function="pipeline.stages.folds:folds",
        makes="folds.parquet",
    ),
    Stage(
        name="train",
        reads=("ingest", "folds", "weights"),
        keys=("seed", "folds", *_CNN_KEYS, "stage1.all_data", "stage1.distilled"),
        function="pipeline.stages.train:train",
        makes="stage1/<model>/fold<k>/, stage1/<model>/oof.parquet",
        units="pipeline.training.training_unit:training_units",
    ),
    Stage(
        name="predict",
        reads=("ingest", "train"),
        keys=("folds", *_CNN_KEYS),
        function="pipeline.stages.predict:predict",
        makes="stage1/<model>/fold<k>/test.parquet",
        units="pipeline.stages.predict:prediction_units",
    ),
    Stage(
        name="features",
        reads=("ingest", "folds", "train", "predict", "imports"),
        keys=("folds.k", *_CNN_KEYS, "stage1.imports", "features"),
        function="pipeline.stages.features:features",
        makes="stage2/features/",
        units="pipeline.stage_data.probe_unit:probe_units",
    ),
    Stage(
        name="tune",
        reads=("ingest", "folds", "features"),
        keys=("seed", "folds.k", *SEARCH_KEYS),
        function="pipeline.stages.tune:tune",
        makes="stage2/configs.json, stage2/trials.parquet, stage2/tuning.json",
        units="pipeline.stages.tune:tuning_units",
    ),
    Stage(
        name="stack",
        reads=("ingest", "folds", "features", "tune"),
        keys=("seed", "folds.k", "stage2"),
        function="pipeline.stages.stack:stack",
        makes="stage2/boosters/, stage2/oof.parquet, stage2/test.parquet, stage2/scores.json",
        units="pipeline.stages.stack:stacking_units",
    ),
    Stage(
        name="submit",
        reads=("sample", "ingest", "stack"),
        keys=("data.sample", "data.missing"),
        function="pipeline.stages.submit:submit",
        makes="submission.csv",
    ),
    Stage(
        name="report",
        reads=("ingest", "folds", "train", "predict", "imports", "explanations", "tune", "stack"),
        keys=("name", "seed", "data", "folds", "pixels", "stage1", "features", "stage2", "report"),
        function="pipeline.stages.report:report",
        makes="report.html",
    ),
)
STAGES = {stage.name: stage for stage in _TABLE}  # in the order in which they run
# files of ingest that no other stage's result depends on: checksums of the pixel cache, which is
# digested itself, and, for all but submit and report, the counts and the quarantine
CHECKSUM_FILES = ("pixels/checksums.parquet",)
COUNT_FILES = ("ingest.json", "quarantine.csv")
# what the units of `features` leave: later stages read what it joins of them
PROBES = "stage2/probes/"
