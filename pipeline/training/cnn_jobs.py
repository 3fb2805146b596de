"""The jobs of stage one: train a CNN without one fold, predict slices with it.

A job runs in one process or, under torchrun, in all of them together. Rank 0 runs the stage and
dispatches each job (`dispatch`). The other ranks run the jobs that they receive until rank 0 sends
None (`worker_loop`). Every rank reads the same run folder: several machines need a disk that they
share.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from ct.run_dir import fold_title
from ct.seeds import derive_seed
from ct.storage.atomic_write import discard, replacing
from ct.storage.digests import text_digest
from ct.storage.file_formats import write_json
from pipeline.freshness import file_digest
from pipeline.progress import Bar
from pipeline.run_context import Run
from pipeline.training.checkpoint_file import environment_changes, read_checkpoint, write_checkpoint
from pipeline.training.prediction_parts import PredictionParts
from pipeline.training.soft_labels import training_slices
from pipeline.training.stage_one_inputs import PredictedSlices, StageOneInputs
from pipeline.training.tensorboard import open_scalars
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import environment, pick_device
from stage1_cnn.distributed import barrier, broadcast, this_process
from stage1_cnn.gpu_memory import free_memory
from stage1_cnn.inference import predict
from stage1_cnn.model import load_model
from stage1_cnn.state_tensors import TrainingState
from stage1_cnn.train_loop import Hooks, NotANumber, TrainedCnn, train_cnn

PART_SLICES = 4096  # slices of one part of a prediction, which memory holds at once


def train_fold(inputs: StageOneInputs, name: str, k: int, digest: str) -> list[str]:
    """Train one CNN on all folds but `k`, or on ALL_DATA; continue its checkpoint.

    A checkpoint of another `digest` is not continued.

    digest: of everything that the training depends on. Writes weights.safetensors and curve.json.
    Returns the reasons why a second training may end with other bits. Raises NotANumber where the
    loss is NaN or infinite.
    """
    run, config, path = inputs.run, inputs.config(name), inputs.checkpoint(name, k)
    now = environment(config)
    checkpoint, before, reasons = read_checkpoint(path, digest, config, run.log)
    done, epoch = 0, 1  # steps before this call, epoch in which they end
    if checkpoint:
        done, epoch = checkpoint.state["done"], checkpoint.state["epoch"]
    if done and epoch <= config.epochs:
        run.log(f"  {name} {fold_title(k)}: continues in epoch {epoch}, after {done} steps")
        if changed := environment_changes(before, now):
            run.log(
                f"  {name} {fold_title(k)}: {'; '.join(changed)}: "
                "a second training may give other bits"
            )
            reasons = [*reasons, *changed]

    def save(current: TrainingState) -> None:
        write_checkpoint(path, current, digest, now, reasons)

    trained = _train(inputs, config, k, checkpoint, save)
    if this_process().rank == 0:
        _write_trained(inputs, name, k, trained)
    barrier()
    return [*_reasons_not_repeatable(config, trained.micro_batch), *reasons]


def _train(
    inputs: StageOneInputs,
    config: CnnConfig,
    k: int,
    checkpoint: TrainingState | None,
    save: Callable[[TrainingState], None],
) -> TrainedCnn:
    """Train with a progress bar and, where the recipe asks for it, TensorBoard's scalars.

    Writes not_a_number.json where the loss is NaN or infinite.
    """
    run, name, folder = inputs.run, config.name, inputs.run.dir.fold(config.name, k)
    done = 0  # steps, of so many processes as there are now
    if checkpoint:
        done = checkpoint.state["done"] * checkpoint.state["processes"] // this_process().world_size
    with ExitStack() as stack:
        bar = stack.enter_context(run.bar(None, f"{name} {fold_title(k)}", "step"))
        scalars = stack.enter_context(
            open_scalars(run.recipe.stage1.tensorboard, folder / "tensorboard", done)
        )
        bar.n = bar.initial = done

        def progress(epoch: int, step: int, steps: int, loss: float) -> None:
            show_step(bar, config, epoch, step, steps, loss)
            scalars.step((epoch - 1) * steps + step, loss)

        hooks = Hooks(progress, scalars.epoch, save, run.log)
        slices, split = training_slices(inputs, config, k)
        try:
            return train_cnn(
                slices,
                split,
                inputs.cache.read,
                config,
                derive_seed(run.recipe.seed, name, k),
                hooks,
                checkpoint,
            )
        except NotANumber as error:
            path = folder / "not_a_number.json"
            write_json(path, error.batch)
            all_slices = f"; {path} names them all" if error.batch["slice_ids"] else ""
            raise NotANumber(f"{error}{all_slices}", error.batch) from None


def show_step(bar: Bar, config: CnnConfig, epoch: int, step: int, steps: int, loss: float) -> None:
    """Advance the bar of a training to a step of `steps` in each epoch; both count from 1."""
    bar.total = steps * config.epochs
    bar.set_postfix(epoch=epoch, loss=f"{loss:.4f}", refresh=False)
    bar.reach((epoch - 1) * steps + step)


def _write_trained(inputs: StageOneInputs, name: str, k: int, trained: TrainedCnn) -> None:
    """Write weights.safetensors and curve.json."""
    folder = inputs.run.dir.fold(name, k)
    discard(folder / "not_a_number.json")
    with replacing(folder / "weights.safetensors") as path:
        save_file(trained.state(), path)
    curve = []
    for entry in trained.curve:  # without the seconds: the same training gives the same file
        curve.append({key: value for key, value in entry.items() if key != "seconds"})
    write_json(folder / "curve.json", curve)


def _reasons_not_repeatable(config: CnnConfig, micro_batch: int) -> list[str]:
    """Return the reasons why a second training may end with other bits."""
    reasons = {
        "torch.compile": config.compile,
        "deterministic: false on CUDA": pick_device().type == "cuda" and not config.deterministic,
        f"batch cut to {micro_batch} for memory": micro_batch < config.batch,
    }
    return [reason for reason, holds in reasons.items() if holds]


def predict_fold(
    inputs: StageOneInputs, name: str, k: int, which: PredictedSlices, digest: str
) -> None:
    """Predict the "held_out" or "test" slices with the CNN of fold `k`, part by part.

    digest: of everything that the predictions depend on but the weights. Parts that an interrupted
    call left are kept, unless another device or precision computed them: the receipt names one.
    Writes <which>.parquet and <which>_embeddings.npy.
    """
    run, config, folder = inputs.run, inputs.config(name), inputs.run.dir.fold(name, k)
    weights, title = folder / "weights.safetensors", which.replace("_", " ")
    rows, process = inputs.rows(which, k), this_process()
    computed_with = environment(config) | {"processes": 0}  # of a part it is one, always
    of_device = text_digest(f"{digest} {sorted(computed_with.items())}")
    of_weights = file_digest(weights)[:12]
    older, own = (f"{which}-{each[:12]}-{of_weights}.part" for each in (digest, of_device))
    # the parts of an older version, which does not know their device, are kept, too
    in_parts = broadcast(older if (folder / older).is_dir() else own)
    parts = PredictionParts(
        folder / in_parts,
        inputs.slices.index,
        [rows[start : start + PART_SLICES] for start in range(0, max(1, len(rows)), PART_SLICES)],
        "logits" if config.outputs == "logits" else None,
    )
    if process.rank == 0:
        damaged = _discard_unusable(parts, folder.glob(f"{which}-*.part"))
        if damaged:
            run.log(
                f"  {name} {fold_title(k)}: {damaged} parts of {title} are damaged and are "
                "predicted anew"
            )
    barrier()
    model, table_rows = load_model(config, load_file(weights)), inputs.neighbours(config.neighbours)
    with run.bar(len(rows), f"{name} {fold_title(k)} {title}", "slice") as bar:
        for number in range(process.rank, len(parts.pieces), process.world_size):
            piece: NDArray[np.int64] = parts.pieces[number]
            if parts.exists(number):
                bar.initial += len(piece)
                bar.n += len(piece)
                continue
            readable, read_hu = inputs.readable[piece], inputs.cache.read
            parts.write(
                number, *predict(model, table_rows[piece], readable, read_hu, config, bar.update)
            )
    barrier()
    if process.rank == 0:
        parts.join(folder / which)
        discard(parts.folder)


def _discard_unusable(parts: PredictionParts, folders: Iterable[Path]) -> int:
    """Make the folder of the parts, remove damaged parts and other folders; count the damaged.

    folders: those with parts of this prediction, also by other weights or of other inputs
    """
    for folder in folders:
        if folder != parts.folder:
            discard(folder)
    parts.folder.mkdir(exist_ok=True)
    return len(parts.discard_damaged())


JOBS: dict[str, Callable[..., Any]] = {"train": train_fold, "predict": predict_fold}


def dispatch(inputs: StageOneInputs, job: str, *arguments: Any) -> Any:
    """Run a job of JOBS in all ranks. Returns the result of this rank."""
    broadcast((job, inputs.run.recipe, arguments))
    return _run_job(inputs, job, arguments)


def _run_job(inputs: StageOneInputs, job: str, arguments: Iterable[Any]) -> Any:
    """Run a job of JOBS; afterwards other processes can use the GPU's memory.

    The stages that follow may keep this process for hours.
    """
    result = JOBS[job](inputs, *arguments)
    free_memory(pick_device())
    return result


def worker_loop(open_run: Callable[[], Run]) -> None:
    """Run the jobs that rank 0 dispatches, until it sends None.

    open_run: returns the run; called at the first job, when rank 0 has opened it
    """
    inputs = None
    while message := broadcast(None):
        job, recipe, arguments = message
        inputs = inputs or StageOneInputs(open_run())
        inputs.run.recipe = recipe  # of rank 0: the file may have been changed since
        _run_job(inputs, job, arguments)
