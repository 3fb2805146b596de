"""The stage `predict`: run the CNNs of each fold on the test slices."""

from pipeline.freshness import inputs_digest
from pipeline.stages.train import environments_of_units
from pipeline.training.cnn_jobs import StageOneInputs, dispatch
from stage1_cnn.device import environment


def predict(run, receipt):
    """Show the test slices to every fold's CNN; each one's opinion is kept apart."""
    inputs = StageOneInputs(run)
    run.dir.stage_one_submission.unlink(missing_ok=True)  # it was made from other opinions
    for config in run.recipe.stage1.models:
        for k in range(run.recipe.folds.k):
            folder = run.dir.fold(config.name, k)
            part = {"model": config.model_dump(mode="json"), "fold": k}
            read = {
                name: digest
                for name, digest in receipt.values["read"].items()
                if _concerns(name, config.name, k)
            }
            why, job = run.job(folder / "predict.json", "predict", part, read)
            job.made = [folder / "test.parquet", folder / "test_embeddings.npy"]
            if why:
                with job:
                    job.values |= environment(config)
                    dispatch(inputs, "predict", config.name, k, "test", inputs_digest(part, read))
            receipt.made += job.made
    receipt.values |= environments_of_units(run, "predict.json")
    rows = len(inputs.rows("test", 0))
    run.log(
        f"  {rows} test slices, {len(run.recipe.stage1.models)} CNNs x {run.recipe.folds.k} folds"
    )


def _concerns(path, model, k):
    """Whether one fold's prediction depends on the file `path`: its weights, the slice table and
    the pixels.
    """
    if path.startswith("stage1/"):
        return path == f"stage1/{model}/fold{k}/weights.safetensors"
    return True
