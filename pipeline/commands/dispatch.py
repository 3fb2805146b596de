"""What each verb does with its checked options."""

import importlib
import os
import time

from ct.errors import InputError
from ct.storage.file_formats import read_json
from pipeline.options import RunOptions
from pipeline.progress import no_bar
from pipeline.registry import STAGES
from pipeline.run_context import Run
from pipeline.run_lock import check_fresh, opened
from pipeline.stage_runner import run_stage

TOGETHER = ("train", "predict")  # the verbs that several processes can do


def execute(verb, options):
    """Do what the verb says, under torchrun in all its processes together."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _execute(verb, options)
        return
    if verb not in TOGETHER:
        raise InputError(f"torchrun is for {' and '.join(TOGETHER)}; run `{verb}` without it")
    from pipeline.training.cnn_jobs import worker_loop
    from stage1_cnn.distributed import broadcast, process_group

    with process_group() as process:
        if process.rank:
            worker_loop(lambda: Run(options.run, log=lambda line: None, bar=no_bar))
        else:
            _execute(verb, options)
            broadcast(None)


def _execute(verb, options):
    if verb in COMMANDS:
        module, function = COMMANDS[verb].split(":")
        getattr(importlib.import_module(module), function)(options)
    elif verb in VARIANTS:
        VARIANTS[verb](options)
    else:
        with opened(options) as run:
            run_stage(run, verb)


def features(options):
    """Build the features, and list them."""
    with opened(options) as run:
        run_stage(run, "features")
        for name, about in read_json(run.dir.stage2 / "features" / "names.json").items():
            print(f"  {name:32} {about}")


def submit(options):
    """Write the submission of stage two, or of stage one alone."""
    with opened(options) as run:
        if options.stage == "two":
            run_stage(run, "submit")
            return
        check_fresh(run, "submit --stage=one", ("ingest", "folds", "train", "predict"))
        from pipeline.stages.submit import submit_stage_one

        start = time.perf_counter()
        print("submit: the calibrated mean of the CNNs")
        submit_stage_one(run)
        print(f"  made {run.dir.stage_one_submission.name} in {time.perf_counter() - start:.1f} s")


def report(options):
    """Write the report, or the page of one study."""
    with opened(RunOptions(run=options.run)) as run:
        if options.study is None:
            run_stage(run, "report")
            return
        check_fresh(
            run, "report --study", [name for name in STAGES["report"].reads if name in STAGES]
        )
        from report import write_study

        print(f"report: {write_study(run.dir, options.study)}")


# verb that is no stage -> "module:function", imported when it runs: torch takes seconds
COMMANDS = {
    "demo": "pipeline.commands.demo:demo",
    "synth": "pipeline.commands.synth:synth",
    "new": "pipeline.commands.new:new",
    "import-predictions": "pipeline.commands.import_predictions:import_predictions",
    "search": "pipeline.commands.search:search",
    "explain": "pipeline.commands.explain:explain",
    "all": "pipeline.commands.all:run_all_stages",
    "export-model": "pipeline.commands.export_model:export_model",
    "score": "pipeline.commands.score:score",
    "status": "pipeline.commands.status:status",
}
# stages that do more as a verb
VARIANTS = {"features": features, "submit": submit, "report": report}
