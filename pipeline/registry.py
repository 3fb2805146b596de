"""The stages: one table, name -> reads, makes, function; what is stale among them, and running them
in order.
"""

from dataclasses import dataclass


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
# of ingest; nothing depends on them that does not depend on what they are of
CHECKS = ("pixels/checksums.parquet",)
# of ingest, for people: only submit and report depend on them
COUNTS = ("ingest.json", "quarantine.csv")
