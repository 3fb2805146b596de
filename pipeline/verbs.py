"""What each verb does with its checked options."""

import os
import secrets
import time
from pathlib import Path

from ct.errors import InputError
from ct.rundir import RunDir, read_json
from pipeline import stage_processes
from pipeline.answers import explain, export_model, report, score, submit
from pipeline.bars import no_bar, progress_bar
from pipeline.opening import check_fresh, opened
from pipeline.plan import DemoOptions, NewOptions, RunOptions, SynthOptions, TuneOptions
from pipeline.recipe import find_recipe, load_recipe, save_recipe, with_changes
from pipeline.shell import run_command
from pipeline.stages import KEY_BYTES, Run, run_all, run_stage, state
from pipeline.status import status
from stage2_stack.config import check_installed

TOGETHER = ("train", "predict")  # the verbs that several processes can do


def execute(verb, options):
    """Do what the verb says, under torchrun in all its processes together."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _execute(verb, options)
        return
    if verb not in TOGETHER:
        raise InputError(f"torchrun is for {' and '.join(TOGETHER)}; run `{verb}` without it")
    from pipeline.jobs import follow
    from stage1_cnn.ranks import joined, tell

    with joined() as here:
        if here.rank:
            follow(lambda: Run(options.run, say=lambda line: None, bar=no_bar))
        else:
            _execute(verb, options)
            tell(None)


def _execute(verb, options):
    special = (demo, synth, new, status, features, submit, search, report, explain, score)
    renamed = {"all": everything, "import-predictions": import_table, "export-model": export_model}
    if own := {**renamed, **{f.__name__: f for f in special}}.get(verb):
        own(options)
        return
    with opened(options) as run:
        run_stage(run, verb)


def synth(options):
    """Write an example competition."""
    from ct.synthetic import write_competition

    start = time.perf_counter()
    with progress_bar(options.studies, "studies", "study") as bar:
        made = write_competition(options.out, options.studies, options.seed, progress=bar.reach)
    positives = ", ".join(f"{label} {count}" for label, count in made["positive_slices"].items())
    print(f"synth: {made['train_slices']} train and {made['test_slices']} test slices in {options.out}")
    print(f"  positive train slices: {positives}")
    print(f"  made in {time.perf_counter() - start:.1f} s")


def new(options):
    """Make a run folder from a recipe and a data source."""
    run = RunDir(options.run)
    unfinished = {run.key.name, run.recipe.name + ".part"}  # what a killed `new` may leave; nothing depends on it yet
    if run.root.exists() and (not run.root.is_dir() or any(path.name not in unfinished for path in run.root.iterdir())):
        raise InputError(f"--run={options.run} is there already; continue it with `all`, or name a new folder")
    recipe = load_recipe(find_recipe(options.recipe))
    given = {
        "data.source": _absolute(options.data),
        "data.labels": _absolute(options.labels),
        "data.sample": _absolute(options.sample),
        "data.slices": _absolute(options.slices),
        "data.train_slices": options.train_slices,
        "data.allow_unlabelled": options.allow_unlabelled,
        "data.missing": options.missing,
        "seed": options.seed,
    }
    recipe = with_changes(recipe, {name: value for name, value in given.items() if value is not None})
    check_installed(recipe.stage2.components)
    _check_store(recipe)
    recipe = _check_models(_check_source(recipe))
    run.root.mkdir(parents=True, exist_ok=True)
    run.key.touch(mode=0o600)  # before there is anything in it to read
    run.key.write_bytes(secrets.token_bytes(KEY_BYTES))
    save_recipe(run.recipe, recipe)
    print(f"new: {options.run} with the recipe {recipe.name}, data in {options.data or options.slices}")
    if recipe.stage1.models:
        print(f"  next: {run_command('all', run=options.run)}")
    else:
        print(f"  next: {run_command('import-predictions', run=options.run, name='NAME', oof='FILE')}")


def demo(options: DemoOptions):
    """Bring synth, new and all into one run; continues where it is."""
    from ct.synthetic import MADE_WITH

    data = f"{options.run}-data"
    given = options.model_dump(include={"studies", "seed"}, exclude_none=True)
    if not Path(data).exists():
        synth(SynthOptions(out=data, **given))
    made = read_json(Path(data) / MADE_WITH)
    for name, value in given.items():
        if made[name] != value:
            raise InputError(f"{data} was made with --{name}={made[name]}; leave --{name} out, or give another --run=DIR")
    if not RunDir(options.run).recipe.exists():
        new(NewOptions(run=options.run, recipe="demo", data=data, seed=made["seed"]))
    everything(options)


def everything(options):
    """Bring every stage up to date."""
    start = time.perf_counter()
    with opened(options) as run:
        if run.recipe.stage2.storage and state(run)["tune"][0] != "fresh":
            _check_store(run.recipe)  # better before the CNNs are trained than after
        made = [] if stage_processes.APART else run_all(run)
    if stage_processes.APART:
        made = stage_processes.run_all_apart(options)
    took = f"in {time.perf_counter() - start:.0f} s"
    print(f"all: {', '.join(made)} made {took}" if made else f"all: everything is fresh, looked through {took}")
    for path in (run.dir.submission, run.dir.report):
        if path.exists():
            print(f"  {path}")


def features(options):
    """Build the features, and list them."""
    with opened(options) as run:
        run_stage(run, "features")
        for name, about in read_json(run.dir.stage2 / "features" / "names.json").items():
            print(f"  {name:32} {about}")


def import_table(options):
    """Take a model's predictions into the run, or put them out of it."""
    from pipeline.imports import import_predictions, remove_import

    with opened(RunOptions(run=options.run)) as run:
        if options.remove:
            remove_import(run, options.name)
            return
        if not run.recipe.stage1.models:
            run_stage(run, "ingest")
        check_fresh(run, "import-predictions", ("ingest",))
        print(f"import-predictions: {options.name}")
        import_predictions(run, options.name, options.oof, options.test, options.trust_oof)
        if not run.recipe.stage1.models:
            for name in ("folds", "train", "predict"):
                run_stage(run, name)


def search(options):
    """Look for better settings of one CNN; for stage two that is `tune`."""
    if options.stage == "two":
        with opened(TuneOptions(run=options.run, trials=options.trials)) as run:
            run_stage(run, "tune")
        return
    with opened(RunOptions(run=options.run)) as run:  # its trials are not the recipe's, which are of stage two
        if not run.recipe.stage1.models:
            raise InputError("search: the recipe has no CNNs; --stage=two searches the settings of stage two")
        check_fresh(run, "search", ("ingest", "folds"))
        from pipeline.search import search_cnn

        search_cnn(run, options.model, options.fold or 0, options.trials or 20, options.timeout)


def _check_source(recipe):
    """Check the data that a recipe names. Returns it, with the number of folds that a slice list gives."""
    from ct.competition import find_competition, find_elsewhere, hidden_folders
    from ct.given import read_slice_list
    from ct.submission import read_sample

    data = recipe.data
    if not data.slices:
        with hidden_folders(data.source):
            read_sample(find_competition(data.source, data.labels, data.sample).sample_csv)
        return recipe
    if data.sample:
        read_sample(find_elsewhere(data.sample, "sample"))
    slices = read_slice_list(data.slices, b"")  # the names are forgotten again
    if "fold" not in slices:
        return recipe
    return with_changes(recipe, {"folds.k": int(slices["fold"].max()) + 1})


def _check_store(recipe):
    """Open the database for trials that a recipe names, where it does."""
    if recipe.stage2.storage:
        from pipeline.trial_store import check_store

        check_store(recipe.stage2.storage)


def _check_models(recipe):
    """Check the backbones and local weights of a recipe, whose paths become absolute."""
    if not recipe.stage1.models:
        return recipe
    from pipeline.scalars import check_scalars
    from stage1_cnn.model import check_backbone, try_model

    check_scalars(recipe.stage1.tensorboard)
    models = []
    for config in recipe.stage1.models:
        check_backbone(config.backbone)
        values = config.model_dump(mode="json")
        if isinstance(config.pretrained, str):
            values["pretrained"] = _absolute(config.pretrained)
            if not Path(values["pretrained"]).is_file():
                raise InputError(f"stage1 model {config.name}: pretrained = {config.pretrained!r} is not a file")
        try_model(config, recipe.pixels.size)
        models.append(values)
    return with_changes(recipe, {"stage1.models": models})


def _absolute(path):
    return None if path is None else os.path.abspath(os.path.expanduser(path))
