"""The verb `demo`: synth, new and all in one."""

from pathlib import Path

from ct.errors import InputError
from ct.run_dir import RunDir
from ct.storage.file_formats import read_json
from pipeline.checked_options import DemoOptions, NewOptions, SynthOptions
from pipeline.commands.all import run_all_stages
from pipeline.commands.new import new
from pipeline.commands.synth import synth


def demo(options: DemoOptions) -> None:
    """Make example data, a run on them, and run every stage; what is there already is kept."""
    from ct.synthetic.example_competition import SYNTH_FILE

    data = f"{options.run}-data"
    typed = options.model_dump(include={"studies", "seed"}, exclude_none=True)
    if not Path(data).exists():
        synth(SynthOptions(out=data, **typed))
    parameters = read_json(Path(data) / SYNTH_FILE)
    for name, value in typed.items():
        if parameters[name] != value:
            raise InputError(
                f"{data} was made with --{name}={parameters[name]}; leave --{name} out, or give "
                "another --run=DIR"
            )
    if not RunDir(options.run).recipe.exists():
        new(NewOptions(run=options.run, recipe="demo", data=data, seed=parameters["seed"]))
    run_all_stages(options)
