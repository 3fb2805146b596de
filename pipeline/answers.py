"""What the verbs do that read a run's work: submissions, pages, maps, packed models and scores of other studies."""

import time

from pipeline.bars import progress_bar, say
from pipeline.opening import check_fresh, opened
from pipeline.plan import RunOptions
from pipeline.stages import STAGES, run_stage


def submit(options):
    """Write the submission of stage two, or of stage one alone."""
    with opened(options) as run:
        if options.stage == "two":
            run_stage(run, "submit")
            return
        check_fresh(run, "submit --stage=one", ("ingest", "folds", "train", "predict"))
        from pipeline.outputs import submit_stage_one

        start = time.perf_counter()
        print("submit: the calibrated mean of the CNNs")
        submit_stage_one(run)
        print(f"  made {run.dir.submission_one.name} in {time.perf_counter() - start:.1f} s")


def report(options):
    """Write the report, or the page of one study."""
    with opened(RunOptions(run=options.run)) as run:
        if options.study is None:
            run_stage(run, "report")
            return
        check_fresh(run, "report --study", [name for name in STAGES["report"].reads if name in STAGES])
        from report import write_study

        print(f"report: {write_study(run.dir, options.study)}")


def explain(options):
    """Write Grad-CAM maps of some studies."""
    with opened(RunOptions(run=options.run)) as run:
        check_fresh(run, "explain", ("ingest", "folds", "train"))
        from pipeline.explaining import explain_studies

        start = time.perf_counter()
        print("explain:")
        explain_studies(run, options.studies.split(",") if options.studies else None, options.model)
        print(f"  made in {time.perf_counter() - start:.1f} s; `report` shows it")


def export_model(options):
    """Pack what `score` needs of a run in one folder."""
    from pipeline.export import export_model
    from pipeline.model import STAGES as NEEDED

    with opened(options) as run:
        check_fresh(run, "export-model", NEEDED)
        print("export-model:")
        export_model(run, options.to)


def score(options):
    """Score the studies of a folder or zip by the models of a run, or of a packed folder."""
    from pipeline.model import STAGES as NEEDED
    from pipeline.model import model_of_run
    from pipeline.packed_model import model_of_folder
    from pipeline.score import score

    if options.model:
        print(f"score: by the model {options.model}")
        score(model_of_folder(options.model), options, say, progress_bar)
        return
    with opened(options) as run:
        check_fresh(run, "score", NEEDED)
        print(f"score: by the models of {options.run}")
        score(model_of_run(run), options, run.say, run.bar)
