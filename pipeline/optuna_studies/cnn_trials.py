"""The trials of `search`: one CNN trained on the same slices with settings that optuna draws."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from ct.averaging import StageOne
from ct.errors import InputError, MachineFault, number_of
from ct.labels import LABELS
from ct.storage.file_formats import write_table
from ct.storage.sealed_files import seal
from pipeline.progress import Bar
from pipeline.training.cnn_jobs import show_step
from stage1_cnn.batches.batch_reader import ReadHu
from stage1_cnn.batches.dataset import neighbour_rows
from stage1_cnn.config import CnnConfig
from stage1_cnn.inference import predict
from stage1_cnn.search_space import Choices, Range, changes, rounded, with_values, yaml_lines
from stage1_cnn.train_loop import Hooks, train_cnn
from stage2_stack.tuning.resumable_trials import (
    STARTUP,
    fail_interrupted_trials,
    finished_trials,
    unfinished_numbers,
)

# share of the epochs in which no trial is pruned: a high learning rate has high losses at first
UNPRUNED = 0.25

EpochHook = Callable[[dict[str, Any]], None]  # is called with an entry of the learning curve


@dataclass(frozen=True)
class SearchContext:
    """What all trials of a search share."""

    slices: pd.DataFrame  # slice table, of all folds
    split: tuple[NDArray[np.int64], NDArray[np.int64]]  # rows (training, held out) outside the fold
    read_hu: ReadHu
    config: CnnConfig  # of the recipe
    space: Mapping[str, Range | Choices]  # domain of each searched field
    seed: int  # of every training; with a trial's number, of the sampler
    folder: Path  # for the probabilities of the held-out slices
    log: Callable[[str], None]
    bar: Callable[[int | None, str, str], Bar]

    def predictions(self, number: int) -> Path:
        """Return the path of a trial's probabilities of the held-out slices.

        It exists for trial 0 and for each trial that was the best so far.
        """
        return self.folder / f"trial{number}.parquet"


def run_trials(
    study: optuna.Study, context: SearchContext, trials: int, deadline: float = math.inf
) -> None:
    """Bring an optuna study to `trials` finished trials, continuing an earlier call.

    Trial 0 has the recipe's own values. A trial is finished once it is complete, pruned, or failed
    because of its settings; a trial that a killed process left is run again. deadline: of
    time.time(), after which no trial begins but the first
    """
    fail_interrupted_trials(study)
    study.pruner = _pruner(context)
    for number in unfinished_numbers(study, trials, context.seed, deadline):
        if number:
            _run_trial(study, context, number)
        else:
            _run_recipe(study, context)
        context.log(f"  {_summary(finished_trials(study), number)}")
    if (done := len(finished_trials(study))) < trials:
        context.log(
            f"  the time is up after {number_of(done, 'trial')}; the same command continues"
        )


def best_of(trials: Sequence[FrozenTrial]) -> int:
    """Return the number of the first trial with the lowest loss."""
    complete = [number for number, trial in enumerate(trials) if trial.state == TrialState.COMPLETE]
    return min(complete, key=lambda number: loss_of(trials[number]))


def loss_of(trial: FrozenTrial) -> float:
    """Return the loss of a complete trial. Raises ValueError for another one."""
    if trial.value is None:
        raise ValueError(f"trial {trial.number} has no loss")
    return trial.value


def _pruner(context: SearchContext) -> optuna.pruners.BasePruner:
    """Return the pruner: it ends a trial worse than the median of earlier ones in that epoch."""
    # the same epoch of a shorter training has a lower learning rate: losses are not comparable
    if "epochs" in context.space:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=STARTUP, n_warmup_steps=int(UNPRUNED * context.config.epochs) + 1
    )


def _run_recipe(study: optuna.Study, context: SearchContext) -> None:
    """Run trial 0, with the recipe's own values.

    The sampler does not get those that lie outside the space.
    """
    own = context.config.model_dump(mode="json")
    inside = {field: domain for field, domain in context.space.items() if own[field] in domain}
    loss, losses = _train(context, context.config, 0, keep=lambda loss: True)
    study.add_trial(
        create_trial(
            params={field: _encoded(domain, own[field]) for field, domain in inside.items()},
            distributions={field: _distribution(domain) for field, domain in inside.items()},
            value=loss,
            intermediate_values=losses,
            user_attrs={"values": {}},
        )
    )


def _run_trial(study: optuna.Study, context: SearchContext, number: int) -> None:
    """Draw the settings of a trial, train with them, and store the result in the study."""
    before = finished_trials(study)
    trial = study.ask({field: _distribution(where) for field, where in context.space.items()})
    drawn = {field: _decoded(context.space[field], param) for field, param in trial.params.items()}
    values = changes(context.config, drawn)
    trial.set_user_attr("values", values)
    for earlier_number, earlier in enumerate(before):
        if earlier.user_attrs["values"] == values:  # the same training has the same result
            _repeat(study, trial, earlier, earlier_number)
            return

    def report(entry: dict[str, Any]) -> None:
        trial.report(entry["held_out_loss"], entry["epoch"])
        if entry["epoch"] < config.epochs and trial.should_prune():
            raise optuna.TrialPruned(f"pruned in epoch {entry['epoch']}")

    config, best = with_values(context.config, values), loss_of(before[best_of(before)])
    try:
        loss, _ = _train(context, config, number, lambda loss: loss < best, report)
    except optuna.TrialPruned as pruned:
        trial.set_user_attr("why", str(pruned))
        study.tell(trial, state=TrialState.PRUNED)
    except MachineFault:  # not because of the settings: the trial is run again
        raise
    except (InputError, MemoryError, torch.OutOfMemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        trial.set_user_attr("why", f"failed: {reason}")
        # not FAIL: so it is not run again, and the sampler avoids its settings
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, loss)


def _repeat(study: optuna.Study, trial: Trial, earlier: FrozenTrial, number: int) -> None:
    """Give a trial the result of the earlier trial `number`, which has the same values."""
    for epoch, loss in earlier.intermediate_values.items():
        trial.report(loss, epoch)
    if earlier.state == TrialState.COMPLETE:
        trial.set_user_attr("why", f"as trial {number}, {earlier.value:.4f}")
        study.tell(trial, earlier.value)
    else:
        trial.set_user_attr("why", earlier.user_attrs["why"])
        study.tell(trial, state=TrialState.PRUNED)


def _train(
    context: SearchContext,
    config: CnnConfig,
    number: int,
    keep: Callable[[float], bool],
    epoch_hook: EpochHook | None = None,
) -> tuple[float, dict[int, float]]:
    """Train on the inner split.

    keep: called with the loss; returns whether the probabilities are written, for the verdict.
    Returns the held-out weighted log loss of the last epoch, and {epoch: loss} of all epochs.
    """
    with context.bar(None, f"{config.name} trial {number}", "step") as bar:

        def progress(epoch: int, step: int, steps: int, loss: float) -> None:
            show_step(bar, config, epoch, step, steps, loss)

        hooks = Hooks(progress, epoch_hook, log=context.log)
        trained = train_cnn(
            context.slices, context.split, context.read_hu, config, context.seed, hooks
        )
    losses = {entry["epoch"]: entry["held_out_loss"] for entry in trained.curve}
    loss, held_out = losses[config.epochs], context.split[1]
    if keep(loss):
        rows = neighbour_rows(context.slices, config.neighbours)[held_out]
        readable = np.ones(len(held_out), bool)
        outputs, _ = predict(trained.model, rows, readable, context.read_hu, config)
        index, path = context.slices.index[held_out], context.predictions(number)
        probs = StageOne(outputs, config.outputs).probabilities().astype(np.float32)
        write_table(path, pd.DataFrame(probs, index=index, columns=list(LABELS)))
        seal(path)
    return loss, losses


def _summary(trials: Sequence[FrozenTrial], number: int) -> str:
    """Return the line of the log for the trial that has just ended."""
    if number == 0:
        return f"trial 0, the recipe as it is: {trials[0].value:.4f}"
    trial, best = trials[number], best_of(trials[: number + 1])
    result = trial.user_attrs.get("why") or f"{trial.value:.4f}"
    values = ", ".join(yaml_lines(trial.user_attrs["values"])) or "the recipe's own values"
    return f"trial {number}: {result}; {values}; best so far {trials[best].value:.4f}, trial {best}"


def _distribution(domain: Range | Choices) -> BaseDistribution:
    """Return optuna's distribution of a domain."""
    if not isinstance(domain, Range):
        # optuna's storage takes no lists
        return CategoricalDistribution([json.dumps(choice) for choice in domain])
    if isinstance(domain.low, int):
        return IntDistribution(domain.low, int(domain.high), log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _encoded(domain: Range | Choices, value: Any) -> Any:
    """Return a value of a field as optuna's parameter."""
    return value if isinstance(domain, Range) else json.dumps(value)


def _decoded(domain: Range | Choices, param: Any) -> Any:
    """Return a parameter of optuna as the value of a field."""
    return rounded(domain, param) if isinstance(domain, Range) else json.loads(param)
