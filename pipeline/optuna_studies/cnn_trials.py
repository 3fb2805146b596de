"""The trials of a search: one CNN trained again and again on the same slices, with settings that
optuna draws.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from ct.errors import InputError, MachineFault
from ct.labels import LABELS
from ct.seeds import derive_seed
from ct.storage.file_formats import write_table
from ct.storage.sealed_files import seal
from stage1_cnn.config import CnnConfig
from stage1_cnn.dataset import neighbour_rows
from stage1_cnn.inference import predict
from stage1_cnn.search_space import Range, changes, rounded, with_values, yaml_lines
from stage1_cnn.train_loop import Hooks, train_cnn

STARTUP = 5  # trials before the sampler and the pruner have seen enough to have an opinion
GRACE = 0.25  # of the epochs, in which no trial is pruned: a high learning rate begins badly


@dataclass(frozen=True)
class SearchContext:
    """What all trials of a search share."""

    slices: pd.DataFrame  # slice table, of all folds
    split: tuple  # row numbers (training, held out), both outside the fold
    read_hu: callable  # as of train_cnn
    config: CnnConfig  # the recipe's own
    space: dict  # field -> Range or tuple of choices
    seed: int  # of every training, all alike; with a trial's number, of the sampler
    folder: Path  # of the opinions on the held-out slices
    log: callable
    bar: callable


def run_trials(study, bench, trials, deadline=math.inf):
    """Bring an optuna study to `trials` finished trials, continuing where an earlier call stopped.

    Trial 0 is the recipe as it is. Finished are those that ended, were pruned, or died for their
    settings; one that a killed process left running is failed and its number run again. deadline:
    of time.monotonic(), after which none is begun
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    study.pruner = _pruner(bench)
    for number in range(len(finished(study)), trials):
        if number and time.monotonic() > deadline:
            bench.log(f"  the time is up after {number} trials; the same command continues")
            return
        if number:
            _run_trial(study, bench, number)
        else:
            _run_recipe(study, bench)
        bench.log(f"  {_line(finished(study), number)}")


def finished(study):
    """Return the finished trials of a study; a trial's number is its place in this list."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def best_of(trials):
    """Return the number of the first trial with the lowest loss."""
    complete = [number for number, trial in enumerate(trials) if trial.state == TrialState.COMPLETE]
    return min(complete, key=lambda number: trials[number].value)


def kept(bench, number):
    """Return the path of a trial's probabilities of the held-out slices, which are kept where it
    was the best so far.
    """
    return bench.folder / f"trial{number}.parquet"


def _pruner(bench):
    """Return what ends a trial that is worse than the median of those before was in the same
    epoch.
    """
    # the same epoch of a shorter training is further down the learning rate
    if "epochs" in bench.space:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=STARTUP, n_warmup_steps=int(GRACE * bench.config.epochs) + 1
    )


def _run_recipe(study, bench):
    """Run trial 0. Where the recipe's own values lie outside the space, the sampler does not see
    them.
    """
    own = bench.config.model_dump(mode="json")
    inside = {field: where for field, where in bench.space.items() if own[field] in where}
    loss, epochs = _train(bench, bench.config, 0, keep=lambda loss: True)
    study.add_trial(
        create_trial(
            params={field: _encoded(where, own[field]) for field, where in inside.items()},
            distributions={field: _distribution(where) for field, where in inside.items()},
            value=loss,
            intermediate_values=epochs,
            user_attrs={"values": {}},
        )
    )


def _run_trial(study, bench, number):
    """Ask for a trial, run it, and tell what came of it."""
    before = finished(study)
    study.sampler = optuna.samplers.TPESampler(
        seed=derive_seed(bench.seed, "trial", number), n_startup_trials=STARTUP
    )
    trial = study.ask({field: _distribution(where) for field, where in bench.space.items()})
    values = changes(
        bench.config,
        {field: _decoded(bench.space[field], value) for field, value in trial.params.items()},
    )
    trial.set_user_attr("values", values)
    for earlier, same in enumerate(before):
        if same.user_attrs["values"] == values:  # the same training again would be the same
            _repeat(study, trial, same, earlier)
            return

    def epoch(line):
        trial.report(line["held_out_loss"], line["epoch"])
        if line["epoch"] < config.epochs and trial.should_prune():
            raise optuna.TrialPruned(f"pruned in epoch {line['epoch']}")

    config, best = with_values(bench.config, values), before[best_of(before)].value
    try:
        loss, _ = _train(bench, config, number, lambda loss: loss < best, epoch)
    except optuna.TrialPruned as pruned:
        trial.set_user_attr("why", str(pruned))
        study.tell(trial, state=TrialState.PRUNED)
    except MachineFault:  # the disk is gone, or the pixels are damaged: the settings are innocent, and it is run again
        raise
    except (InputError, MemoryError, torch.OutOfMemoryError) as error:
        trial.set_user_attr(
            "why", f"failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        )
        # not failed: it is not run again, and the sampler shuns it
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, loss)


def _repeat(study, trial, same, number):
    """Tell of a trial what came of trial `number` with the same values."""
    for epoch, loss in same.intermediate_values.items():
        trial.report(loss, epoch)
    if same.state == TrialState.COMPLETE:
        trial.set_user_attr("why", f"as trial {number}, {same.value:.4f}")
        study.tell(trial, same.value)
    else:
        trial.set_user_attr("why", same.user_attrs["why"])
        study.tell(trial, state=TrialState.PRUNED)


def _train(bench, config, number, keep, epoch=None):
    """Train on the inner split. Returns the held-out weighted log loss of the last epoch, and
    {epoch: loss} of all.

    keep(loss) -> whether its opinions on the held-out slices are kept, for `verdict`
    """
    with bench.bar(None, f"{config.name} trial {number}", "step") as bar:

        def progress(epoch, step, steps, loss):
            bar.total = steps * config.epochs
            bar.set_postfix(epoch=epoch, loss=f"{loss:.4f}", refresh=False)
            bar.update()

        trained = train_cnn(
            bench.slices,
            bench.split,
            bench.read_hu,
            config,
            bench.seed,
            Hooks(progress, epoch, log=bench.log),
        )
    losses = {line["epoch"]: line["held_out_loss"] for line in trained.curve}
    loss, held = losses[config.epochs], bench.split[1]
    if keep(loss):
        rows = neighbour_rows(bench.slices, config.neighbours)[held]
        probs, _ = predict(trained.model, rows, np.ones(len(held), bool), bench.read_hu, config)
        write_table(
            kept(bench, number),
            pd.DataFrame(probs, index=bench.slices.index[held], columns=list(LABELS)),
        )
        seal(kept(bench, number))
    return loss, losses


def _line(trials, number):
    """Return what there is to say of a trial that has just ended."""
    if number == 0:
        return f"trial 0, the recipe as it is: {trials[0].value:.4f}"
    trial, best = trials[number], best_of(trials[: number + 1])
    what = trial.user_attrs.get("why") or f"{trial.value:.4f}"
    values = ", ".join(yaml_lines(trial.user_attrs["values"])) or "the recipe's own values"
    return f"trial {number}: {what}; {values}; best so far {trials[best].value:.4f}, trial {best}"


def _distribution(where):
    if not isinstance(where, Range):
        # optuna's storage knows no lists
        return CategoricalDistribution([json.dumps(choice) for choice in where])
    kind = IntDistribution if isinstance(where.low, int) else FloatDistribution
    return kind(where.low, where.high, log=where.log)


def _encoded(where, value):
    return value if isinstance(where, Range) else json.dumps(value)


def _decoded(where, param):
    return rounded(where, param) if isinstance(where, Range) else json.loads(param)
