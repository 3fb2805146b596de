"""The table of verbs: which function carries out a verb with its checked options."""

import importlib
import os

from ct.config import Config
from ct.errors import InputError
from pipeline.checked_options import RunOptions
from pipeline.progress import no_bar
from pipeline.run_context import Run
from pipeline.run_lock import opened_for_stage
from pipeline.stage_runner import run_stage

# verb -> "module:function" that takes its options, imported when it runs: torch takes seconds.
# Any other verb is a stage: it opens the run and runs the stage.
COMMANDS = {
    "demo": "pipeline.commands.demo:demo",
    "synth": "pipeline.commands.synth:synth",
    "new": "pipeline.commands.new:new",
    "import-predictions": "pipeline.commands.import_predictions:import_predictions",
    "features": "pipeline.commands.stage_variants:features",
    "search": "pipeline.commands.search:search",
    "submit": "pipeline.commands.stage_variants:submit",
    "report": "pipeline.commands.stage_variants:report",
    "explain": "pipeline.commands.explain:explain",
    "all": "pipeline.commands.all:run_all_stages",
    "export-model": "pipeline.commands.export_model:export_model",
    "score": "pipeline.commands.score:score",
    "evaluate": "pipeline.commands.evaluate:evaluate",
    "status": "pipeline.commands.status:status",
}
DISTRIBUTED = ("train", "predict")  # verbs that run in several processes under torchrun


def execute(verb: str, options: Config) -> None:
    """Carry out a verb; under torchrun, rank 0 does and the other ranks work for it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _execute(verb, options)
        return
    if verb not in DISTRIBUTED:
        raise InputError(f"torchrun is for {' and '.join(DISTRIBUTED)}; run `{verb}` without it")
    from pipeline.training.cnn_jobs import worker_loop
    from stage1_cnn.distributed import broadcast, process_group

    with process_group() as process:
        if process.rank:
            assert isinstance(options, RunOptions)
            root = options.run
            worker_loop(lambda: Run(root, log=lambda line: None, bar=no_bar))
        else:
            _execute(verb, options)
            broadcast(None)


def _execute(verb: str, options: Config) -> None:
    if verb in COMMANDS:
        module, function = COMMANDS[verb].split(":")
        getattr(importlib.import_module(module), function)(options)
    else:
        assert isinstance(options, RunOptions)
        with opened_for_stage(options, verb) as run:
            run_stage(run, verb)
