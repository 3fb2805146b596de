"""The stages `train` and `predict`: one job a CNN and fold; a job that is done is not done again."""

import pandas as pd
from safetensors.torch import load_file, save

from ct.labels import LABELS
from ct.metrics import weighted_log_loss
from ct.pixels import PixelCache
from ct.rundir import read_json, read_table, replacing, write_array, write_json, write_table
from ct.seeds import derive_seed
from stage1_cnn.model import load_model
from stage1_cnn.predict import predict as predict_slices
from stage1_cnn.train import train_fold


def train(run, receipt):
    """Train every CNN on every fold but one; keep weights, learning curve, and what it thinks of the fold it never saw."""
    slices = read_table(run.dir.slices)
    fold = read_table(run.dir.folds)["fold"].reindex(slices.index).to_numpy()
    cache = _open_cache(run, slices)
    for config in run.recipe.stage1.models:
        for k in range(run.recipe.folds.k):
            folder = run.dir.fold(config.name, k)
            part = {"model": config.model_dump(mode="json"), "seed": run.recipe.seed, "fold": k}
            why, job = run.job(folder / "train.json", "train", part, receipt.values["read"])
            names = ("weights.safetensors", "held_out.parquet", "held_out_embeddings.npy", "curve.json")
            job.made = [folder / name for name in names]
            if why:
                with job:
                    _train_one(run, config, k, slices, fold, cache)
            run.say(f"  {config.name} fold {k}: {_last_line(folder)}{'' if why else ', kept'}")
            receipt.made += job.made
        write_table(run.dir.oof(config.name), _out_of_fold(run, config.name, slices))
        receipt.made.append(run.dir.oof(config.name))


def predict(run, receipt):
    """Show the test slices to every fold's CNN; each one's opinion is kept apart."""
    slices = read_table(run.dir.slices)
    cache, rows = _open_cache(run, slices), (slices["split"] == "test").to_numpy().nonzero()[0]
    run.dir.submission_one.unlink(missing_ok=True)  # it was made from other opinions
    for config in run.recipe.stage1.models:
        for k in range(run.recipe.folds.k):
            folder = run.dir.fold(config.name, k)
            part = {"model": config.model_dump(mode="json"), "fold": k}
            read = {name: digest for name, digest in receipt.values["read"].items() if _concerns(name, config.name, k)}
            why, job = run.job(folder / "predict.json", "predict", part, read)
            job.made = [folder / "test.parquet", folder / "test_embeddings.npy"]
            if why:
                with job:
                    _predict_one(run, config, k, slices, rows, cache)
            receipt.made += job.made
    run.say(f"  {len(rows)} test slices, {len(run.recipe.stage1.models)} CNNs x {run.recipe.folds.k} folds")


def _open_cache(run, slices):
    """Open the pixel cache, whose rows must be those of the slice table."""
    cache = PixelCache(run.dir.pixels)
    if list(cache.slice_ids) != list(slices.index):
        raise ValueError("the pixel cache holds other slices than the slice table")
    return cache


def _train_one(run, config, k, slices, fold, cache):
    folder = run.dir.fold(config.name, k)
    with run.bar(None, f"{config.name} fold {k}", "step") as bar:

        def progress(epoch, step, steps, loss):
            bar.total = steps * config.epochs
            bar.set_postfix(epoch=epoch, loss=f"{loss:.4f}", refresh=False)
            bar.update()

        result = train_fold(slices, fold, k, cache.read, config, derive_seed(run.recipe.seed, config.name, k), progress)
    with replacing(folder / "weights.safetensors") as path:
        path.write_bytes(save(result.state))
    write_table(folder / "held_out.parquet", pd.DataFrame(result.probs, index=slices.index[result.rows], columns=list(LABELS)))
    write_array(folder / "held_out_embeddings.npy", result.embeddings)
    write_json(
        folder / "curve.json", [{name: value for name, value in line.items() if name != "seconds"} for line in result.curve]
    )


def _predict_one(run, config, k, slices, rows, cache):
    folder = run.dir.fold(config.name, k)
    model = load_model(config, load_file(folder / "weights.safetensors"))
    with run.bar(len(rows), f"{config.name} fold {k}", "slice") as bar:

        def progress(step, steps):
            bar.reach(min(step * config.batch, len(rows)))

        probs, embeddings = predict_slices(model, slices, rows, cache.read, config, progress)
    write_table(folder / "test.parquet", pd.DataFrame(probs, index=slices.index[rows], columns=list(LABELS)))
    write_array(folder / "test_embeddings.npy", embeddings)


def _last_line(folder):
    last = read_json(folder / "curve.json")[-1]
    seen = "no labels" if last["held_out_loss"] is None else f"{last['held_out_loss']:.4f}"
    seconds = read_json(folder / "train.json")["seconds"]
    return f"{last['epoch']} epochs, train loss {last['train_loss']:.4f}, held-out weighted log loss {seen}, {seconds:.0f} s"


def _out_of_fold(run, name, slices):
    """Return the held-out probabilities of all folds, joined by slice id: NaN where no CNN could read the slice."""
    parts = [read_table(run.dir.fold(name, k) / "held_out.parquet") for k in range(run.recipe.folds.k)]
    table = pd.concat(parts).reindex(slices.index[slices["split"] == "train"])
    readable = slices.loc[table.index, "readable"]
    if table.loc[readable].isna().any(axis=None):
        raise ValueError(f"{name}: out-of-fold probabilities are incomplete")
    known = slices.loc[table.index, list(LABELS)].notna().all(axis=1) & readable
    loss = weighted_log_loss(slices.loc[table.index[known], list(LABELS)].to_numpy(), table[known].to_numpy())
    run.say(f"  {name}: out-of-fold weighted log loss {loss:.4f} before calibration")
    return table


def _concerns(path, model, k):
    """Whether one fold's prediction depends on the file `path`: its weights, the slice table and the pixels."""
    if path.startswith("stage1/"):
        return path == f"stage1/{model}/fold{k}/weights.safetensors"
    return True
