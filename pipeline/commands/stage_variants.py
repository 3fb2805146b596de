"""Stages that do more as a verb: `features` lists them, `submit --stage=one`, `report --study`."""

import time

from ct.storage.file_formats import read_json
from pipeline.checked_options import ReportOptions, RunOptions, SubmitOptions
from pipeline.registry import STAGES
from pipeline.run_lock import check_fresh, opened, opened_for_stage
from pipeline.stage_runner import run_stage, stage_states


def features(options: RunOptions) -> None:
    """Build the features, and list them."""
    with opened_for_stage(options, "features") as run:
        run_stage(run, "features")
        if stage_states(run)["features"][0] != "fresh":
            return  # units are left to other shards
        names = read_json(run.dir.stage2 / "features" / "names.json")
        for name, description in names.items():
            print(f"  {name:32} {description}")


def submit(options: SubmitOptions) -> None:
    """Write the submission of stage two, or of stage one alone."""
    with opened(options) as run:
        if options.stage == "two":
            run_stage(run, "submit")
            return
        check_fresh(run, "submit --stage=one", ("ingest", "folds", "train", "predict"))
        from pipeline.stages.submit import submit_stage_one

        start = time.perf_counter()
        print("submit: the calibrated mean of the CNNs")
        submit_stage_one(run, is_stacked=stage_states(run)["stack"][0] == "fresh")
        print(f"  made {run.dir.stage_one_submission.name} in {time.perf_counter() - start:.1f} s")


def report(options: ReportOptions) -> None:
    """Write the report, or the page of one study."""
    with opened(options) as run:
        if options.study is None:
            run_stage(run, "report")
            return
        stages = [name for name in STAGES["report"].reads if name in STAGES]
        check_fresh(run, "report --study", stages)
        from report import write_study

        print(f"report: {write_study(run.dir, options.study)}")
