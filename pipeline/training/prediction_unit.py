"""A unit of the stage `predict`: run one CNN of one fold on the test slices."""

from dataclasses import dataclass
from typing import Any

from ct.run_dir import TEST_TABLE
from pipeline.freshness import inputs_digest
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.training.cnn_jobs import dispatch
from pipeline.training.fold_unit import FoldUnit
from pipeline.training.stage_one_inputs import StageOneInputs
from pipeline.units.unit import Log, MakeBar
from stage1_cnn.device import environment

PREDICTED = (TEST_TABLE, "test_embeddings.npy")  # in the folder of the fold


@dataclass(frozen=True)
class PredictFold(FoldUnit):
    """Predict the test slices with one CNN of one fold: a table and an array of embeddings.

    read: digests of the fold's weights, the slice table and the pixels
    """

    stage = "predict"

    def run(self, log: Log, bar: MakeBar) -> None:
        """Predict the test slices."""
        run = Run(self.root, log, bar)
        part, read = self.part(run), self.own_inputs()
        run.dir.stage_one_submission.unlink(missing_ok=True)  # it was made from other predictions
        receipt = Receipt(run.dir.root, self.receipt(run), "predict", part, read)
        receipt.made = [run.dir.fold(self.model, self.fold) / name for name in PREDICTED]
        with receipt:
            receipt.values |= environment(run.recipe.stage1.model(self.model))
            digest = inputs_digest(part, read)
            dispatch(StageOneInputs(run), "predict", self.model, self.fold, "test", digest)

    def part(self, run: Run) -> dict[str, Any]:
        """Return the CNN and the fold."""
        config = run.recipe.stage1.model(self.model)
        return {"model": config.model_dump(mode="json"), "fold": self.fold}

    def own_inputs(self) -> dict[str, str]:
        """Return the digests of what this unit reads."""
        return self.read
