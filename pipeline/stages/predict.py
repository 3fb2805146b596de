"""The stage `predict`: run the CNNs of each fold on the test slices."""

from pipeline.freshness import inputs_digest
from pipeline.receipt import Receipt
from pipeline.run_context import Run
from pipeline.stages.train import environments_of_jobs
from pipeline.training.cnn_jobs import dispatch
from pipeline.training.stage_one_inputs import StageOneInputs
from stage1_cnn.device import environment


def predict(run: Run, receipt: Receipt) -> None:
    """Predict the test slices with every fold's CNN, in a table and an array of embeddings each."""
    inputs = StageOneInputs(run)
    run.dir.stage_one_submission.unlink(missing_ok=True)  # it was made from other predictions
    for config in run.recipe.stage1.models:
        for k in range(run.recipe.folds.k):
            folder = run.dir.fold(config.name, k)
            part = {"model": config.model_dump(mode="json"), "fold": k}
            read = {}
            for name, digest in receipt.values["read"].items():
                if _is_read(name, config.name, k):
                    read[name] = digest
            why, job = run.job(folder / "predict.json", "predict", part, read)
            job.made = [folder / "test.parquet", folder / "test_embeddings.npy"]
            if why:
                with job:
                    job.values |= environment(config)
                    digest = inputs_digest(part, read)
                    dispatch(inputs, "predict", config.name, k, "test", digest)
            receipt.made += job.made
    receipt.values |= environments_of_jobs(run, "predict.json")
    count = len(inputs.rows("test", 0))
    run.log(
        f"  {count} test slices, {len(run.recipe.stage1.models)} CNNs x {run.recipe.folds.k} folds"
    )


def _is_read(path: str, model: str, k: int) -> bool:
    """Return whether one fold's prediction reads the file `path`.

    It reads its weights, the slice table and the pixels.
    """
    if path.startswith("stage1/"):
        return path == f"stage1/{model}/fold{k}/weights.safetensors"
    return True
