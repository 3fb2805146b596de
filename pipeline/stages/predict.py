"""The stage `predict`: run the CNNs of each fold on the test slices, a unit for each."""

from dataclasses import dataclass
from typing import Any

from ct.storage.file_formats import read_table
from pipeline.freshness import inputs_digest
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.stages.train import environments_of_units
from pipeline.training.cnn_jobs import dispatch
from pipeline.training.fold_unit import FoldUnit
from pipeline.training.stage_one_inputs import StageOneInputs
from pipeline.units.unit import Log, MakeBar, Unit
from stage1_cnn.device import environment

MADE = ("test.parquet", "test_embeddings.npy")  # in the folder of the fold


@dataclass(frozen=True)
class PredictFold(FoldUnit):
    """Predict the test slices with one CNN of one fold: a table and an array of embeddings.

    read: digests of the fold's weights, the slice table and the pixels
    """

    stage = "predict"

    def run(self, log: Log, bar: MakeBar) -> None:
        """Predict the test slices."""
        run = Run(self.root, log, bar)
        part = self.part(run)
        run.dir.stage_one_submission.unlink(missing_ok=True)  # it was made from other predictions
        receipt = Receipt(run.dir.root, self.receipt(run), "predict", part, self.read)
        receipt.made = [run.dir.fold(self.model, self.fold) / name for name in MADE]
        with receipt:
            receipt.values |= environment(run.recipe.stage1.model(self.model))
            digest = inputs_digest(part, self.read)
            dispatch(StageOneInputs(run), "predict", self.model, self.fold, "test", digest)

    def part(self, run: Run) -> dict[str, Any]:
        """Return the CNN and the fold."""
        config = run.recipe.stage1.model(self.model)
        return {"model": config.model_dump(mode="json"), "fold": self.fold}

    def own_inputs(self) -> dict[str, str]:
        """Return the digests of what this unit reads."""
        return self.read


def prediction_units(run: Run, read: dict[str, str]) -> list[Unit]:
    """Return a PredictFold for each CNN, seed and fold."""
    units: list[Unit] = []
    for config in run.recipe.stage1.fits():
        for k in range(run.recipe.folds.k):
            own = {name: digest for name, digest in read.items() if _is_read(name, config.name, k)}
            units.append(PredictFold(str(run.dir.root), config.name, k, own))
    return units


def predict(run: Run, receipt: Receipt) -> None:
    """List the tables and embeddings of all units."""
    for config in run.recipe.stage1.fits():
        for k in range(run.recipe.folds.k):
            receipt.made += [run.dir.fold(config.name, k) / name for name in MADE]
    receipt.values |= environments_of_units(run, "predict.json")
    count = int((read_table(run.dir.slices)["split"] == "test").sum())
    run.log(
        f"  {count} test slices, {len(run.recipe.stage1.fits())} CNNs x {run.recipe.folds.k} folds"
    )


def _is_read(path: str, model: str, k: int) -> bool:
    """Return whether one fold's prediction reads the file `path`.

    It reads its weights, the slice table and the pixels.
    """
    if path.startswith("stage1/"):
        return path == f"stage1/{model}/fold{k}/weights.safetensors"
    return True
