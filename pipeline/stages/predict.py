"""The stage `predict`: run the CNNs of each fold on the test slices, a unit for each."""

from ct.errors import number_of
from ct.storage.file_formats import read_table
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.stages.train import environments_of_units
from pipeline.training.prediction_unit import PREDICTED, PredictFold
from pipeline.units.unit import Unit


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
            receipt.made += [run.dir.fold(config.name, k) / name for name in PREDICTED]
    receipt.values |= environments_of_units(run, "predict.json")
    count = int((read_table(run.dir.slices)["split"] == "test").sum())
    cnns = number_of(len(run.recipe.stage1.fits()), "CNN")
    run.log(f"  {number_of(count, 'test slice')}, {cnns} x {run.recipe.folds.k} folds")


def _is_read(path: str, model: str, k: int) -> bool:
    """Return whether one fold's prediction reads the file `path`.

    It reads its weights, the slice table and the pixels.
    """
    if path.startswith("stage1/"):
        return path == f"stage1/{model}/fold{k}/weights.safetensors"
    return True
