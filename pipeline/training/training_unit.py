"""The units of the stage `train`: train a CNN without one fold; predict soft labels for another."""

import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ct.errors import number_of
from ct.run_dir import ALL_DATA, HELD_OUT_TABLE, TEST_TABLE, RunDir, fold_folder, fold_title
from ct.storage.atomic_write import discard
from ct.storage.file_formats import read_json
from pipeline.freshness import file_digest, inputs_digest
from pipeline.older_versions import WEIGHTS, reads_of_cnn, under_older_names
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.training.checkpoint_file import checkpoint_digest
from pipeline.training.cnn_jobs import dispatch
from pipeline.training.fold_unit import FoldUnit
from pipeline.training.prediction_unit import PredictFold
from pipeline.training.soft_labels import pseudo_rows
from pipeline.training.stage_one_inputs import StageOneInputs
from pipeline.units.unit import Log, MakeBar, Unit
from stage1_cnn.config import CnnConfig
from stage1_cnn.device import environment, pick_device
from stage1_cnn.model import check_trainable

# what a unit leaves in the folder of its fold
TRAINED = ("weights.safetensors", "curve.json")
MADE = (*TRAINED, HELD_OUT_TABLE, "held_out_embeddings.npy")


@dataclass(frozen=True)
class TrainFold(FoldUnit):
    """Train one CNN on all folds but one, and predict the held-out fold with it.

    Writes weights, learning curve, predictions and embeddings. A CNN of ALL_DATA holds no slices
    out: it leaves weights and curve. read: digests of what the stage reads; sources: fits whose
    predictions of the test slices, by their CNNs of the same fold, are its soft labels
    """

    stage = "train"

    sources: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the names of the predictions that are its soft labels."""
        return tuple(f"predict/{name}/{fold_folder(self.fold)}" for name in self.sources)

    def why_not_done(self, verify: bool = False) -> str:
        """Return why the CNN must be trained, or ""."""
        for name in self.sources:
            if PredictSoftLabels(self.root, name, self.fold, self.read).why_not_done():
                return f"predictions of {name} are to be made first"
        return super().why_not_done(verify)

    def run(self, log: Log, bar: MakeBar) -> None:
        """Train, or continue a training, and predict the held-out slices."""
        run, name, k = Run(self.root, log, bar), self.model, self.fold
        _check_trainable_on_gpu(run)
        inputs, part, read = StageOneInputs(run), self.part(run), self.own_inputs()
        for config in run.recipe.stage1.models:
            if config.pseudo_from:  # before the CNNs that it names are trained for hours
                pseudo_rows(inputs, config)
        receipt = Receipt(run.dir.root, self.receipt(run), "train", part, read)
        receipt.made = [run.dir.fold(name, k) / file for file in made_of(k)]
        with receipt:
            if k != ALL_DATA:
                discard(run.dir.gradcam_folder(name))  # its maps are of other weights
            digest = self.training_digest(inputs, part)
            receipt.values |= environment(inputs.config(name))
            if reasons := dispatch(inputs, "train", name, k, digest):
                receipt.values["not_repeatable"] = reasons
            if k != ALL_DATA:
                dispatch(inputs, "predict", name, k, "held_out", digest)
        inputs.discard_checkpoint(name, k)  # a training that was killed before goes on from it

    def summary(self) -> str:
        """Return the losses of the last epoch and the time."""
        folder = Run(self.root).dir.fold(self.model, self.fold)
        last = read_json(folder / "curve.json")[-1]
        loss = "of no slices" if self.fold == ALL_DATA else "no labels"
        if last["held_out_loss"] is not None:
            loss = f"{last['held_out_loss']:.4f}"
        seconds = read_json(folder / "train.json")["seconds"]
        return (
            f"{self.model} {fold_title(self.fold)}: {number_of(last['epoch'], 'epoch')}, "
            f"train loss {last['train_loss']:.4f}, held-out weighted log loss {loss}, "
            f"{seconds:.0f} s"
        )

    def part(self, run: Run) -> dict[str, Any]:
        """Return the CNN, the seed and the fold."""
        config = run.recipe.stage1.model(self.model)
        return {
            "model": config.model_dump(mode="json"),
            "seed": run.recipe.seed,
            "fold": self.fold,
        }

    def own_inputs(self) -> dict[str, str]:
        """Return the digests of what this unit reads: no weights of other CNNs."""
        run, read = RunDir(self.root), reads_of_cnn(self.read, self.model)
        return read | _digests(
            run, [run.fold(name, self.fold) / TEST_TABLE for name in self.sources]
        )

    def training_digest(self, inputs: StageOneInputs, part: dict[str, Any]) -> str:
        """Return the digest of everything that the training depends on.

        Where the checkpoint has the digest that an older version computed, return that. part: the
        unit's part of the recipe
        """
        models = inputs.run.recipe_part(("stage1.models",))["stage1.models"]
        older = inputs_digest(part, under_older_names(self.read, models))
        if checkpoint_digest(inputs.checkpoint(self.model, self.fold)) == older:
            return older
        return inputs_digest(part, self.own_inputs())


@dataclass(frozen=True)
class PredictSoftLabels(PredictFold):
    """Predict the test slices while other CNNs are still to be trained, on these predictions.

    The unit of the stage `predict` is the same one, and is then done. read: as in TrainFold
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the name of the training."""
        return (self._training(Run(self.root)).name,)

    def why_not_done(self, verify: bool = False) -> str:
        """Return why the test slices must be predicted, or ""."""
        if self._training(Run(self.root)).why_not_done():
            return f"{self.model} is to be trained first"
        return super().why_not_done(verify)

    def own_inputs(self) -> dict[str, str]:
        """Return the digests of the weights, the slice table and the pixels."""
        run = RunDir(self.root)
        read = {
            name: digest
            for name, digest in self.read.items()
            if name != run.folds.name and not name.startswith(WEIGHTS)
        }
        return read | _digests(run, [run.fold(self.model, self.fold) / TRAINED[0]])

    def _training(self, run: Run) -> TrainFold:
        return _train_fold(run, self.model, self.fold, self.read)


@dataclass(frozen=True)
class TrainDistilled(TrainFold):
    """Train the distilled CNN on the slices of all folds.

    Its targets are made of the held-out predictions of all folds.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the names of the trainings of all folds."""
        return tuple(unit.name for unit in self._trainings(Run(self.root)))

    def why_not_done(self, verify: bool = False) -> str:
        """Return why the CNN must be trained, or ""."""
        for unit in self._trainings(Run(self.root)):
            if unit.why_not_done():
                return f"{unit.name} is to be done first"
        return super().why_not_done(verify)

    def own_inputs(self) -> dict[str, str]:
        """Return the digests of what this unit reads."""
        run = RunDir(self.root)
        trainings = self._trainings(Run(self.root))
        paths = [run.fold(unit.model, unit.fold) / HELD_OUT_TABLE for unit in trainings]
        return super().own_inputs() | _digests(run, paths)

    def _trainings(self, run: Run) -> list[TrainFold]:
        return [
            _train_fold(run, config.name, k, self.read)
            for config in run.recipe.stage1.fits()
            for k in range(run.recipe.folds.k)
        ]


def training_units(run: Run, read: dict[str, str]) -> list[Unit]:
    """Return a TrainFold for each CNN, seed and fold, and the predictions that others train on.

    The distilled CNN is the last one.

    read: digests of what the stage reads
    """
    stage1, units = run.recipe.stage1, list[Unit]()
    fits = [config.name for config in stage1.fits()]
    sources = {source for name in fits for source in _sources(run, name)}
    for name in fits:
        units += [_train_fold(run, name, k, read) for k in run.recipe.trained_folds()]
        if name in sources:
            root = str(run.dir.root)
            units += [PredictSoftLabels(root, name, k, read) for k in run.recipe.trained_folds()]
    if stage1.distilled:
        units.append(TrainDistilled(str(run.dir.root), stage1.distilled.name, ALL_DATA, read))
    return units


def _train_fold(run: Run, name: str, k: int, read: dict[str, str]) -> TrainFold:
    return TrainFold(str(run.dir.root), name, k, read, _sources(run, name))


def _sources(run: Run, name: str) -> tuple[str, ...]:
    """Return the fits whose predictions are soft labels of the fit `name`."""
    return tuple(itertools.chain(*run.recipe.stage1.soft_label_fits(name).values()))


def _digests(run: RunDir, paths: Iterable[Path]) -> dict[str, str]:
    """Return {path relative to the run: digest} of those files that are there."""
    return {
        path.relative_to(run.root).as_posix(): file_digest(path) for path in paths if path.is_file()
    }


def made_of(k: int) -> tuple[str, ...]:
    """Return the names of the files of a unit of fold k."""
    return TRAINED if k == ALL_DATA else MADE


def _check_trainable_on_gpu(run: Run) -> None:
    """Try a training step of every CNN on the GPU before the first one trains for hours.

    `new` checks them, too, but may have run on a machine without a GPU. Raises InputError where a
    backbone cannot be trained here.
    """
    if pick_device().type == "cuda":
        for config in run.recipe.stage1.trained():
            _check_trainable_once(config, run.recipe.pixels.size)


@functools.cache
def _check_trainable_once(config: CnnConfig, size: int) -> None:
    check_trainable(config, size)
