"""Digests of what a run reads that no stage made: source, sample, key, local weights, folds,
imports, Grad-CAM maps.

Each function takes a pipeline.run_context.Run and returns {name: digest}. What was moved away after it
was read counts as unchanged.
"""

from functools import partial
from pathlib import Path

from ct.errors import InputError
from ct.privacy.escaped_names import escaped_name
from ct.storage.receipts import read_receipt
from pipeline.freshness import file_digest, tree_digest
from pipeline.older_versions import WEIGHTS, reads_as_now


def source_digests(run):
    """Digest the source, once per process."""
    if run.source_digests is None:
        receipt = run.dir.receipt("ingest")
        if receipt.exists() and not Path(run.recipe.data.slices or run.recipe.data.source).exists():
            # {}: the receipt is damaged, and ingest counts as not made
            read = (read_receipt(receipt) or {"read": {}})["read"]
            run.source_digests = {name: digest for name, digest in read.items() if name != "key"}
        else:
            run.source_digests = _digest_source(run)
    return run.source_digests


def _digest_source(run):
    from ct.kaggle_layout import find_csv, find_elsewhere, find_folders

    data = run.recipe.data
    if data.slices:
        return {"slice list": file_digest(find_elsewhere(Path(data.slices), "slices"))}
    if Path(data.source).is_file():
        labels = (
            _csv_digest(run, "label csv", "ingest", lambda: find_elsewhere(data.labels, "labels"))
            if data.labels
            else {}
        )
        return {"zip archive": _zip_digest(Path(data.source)), **labels}
    from ct.sources.folder import list_files

    source, stage = find_folders(data.source)
    train, test = source.root / f"{stage}_train", source.root / f"{stage}_test"
    find_labels = partial(
        find_csv, data.source, source, f"{stage}_train.csv", data.labels, "labels"
    )
    return {
        "train files": tree_digest(train, list_files(train)),
        "test files": tree_digest(test, list_files(test)),
        **_csv_digest(run, "label csv", "ingest", find_labels),
    }


def _csv_digest(run, name, stage, find):
    """Return {name: digest} of the csv file that `find()` returns; of one that is gone, what the
    receipt of `stage` knows.
    """
    try:
        return {name: file_digest(find())}
    except InputError:
        known = (read_receipt(run.dir.receipt(stage)) or {"read": {}})["read"]
        if name not in known:
            raise
        return {name: known[name]}


def sample_digest(run):
    """Digest the sample submission. A slice list need not have one."""
    data = run.recipe.data
    if data.slices and not data.sample:
        return {}
    source = Path(data.source)
    if source.is_file() and not data.sample:
        return {"sample csv": _zip_digest(source)}
    if data.sample or source.exists():
        return _csv_digest(run, "sample csv", "submit", run.find_sample)
    known = read_receipt(run.dir.receipt("submit"))
    return (
        {name: digest for name, digest in known["read"].items() if name == "sample csv"}
        if known
        else {}
    )


def key_digest(run):
    """Digest the key of the pseudonyms; {} where it is gone."""
    return {"key": file_digest(run.dir.key)} if run.dir.key.is_file() else {}


def weight_digests(run):
    """Digest the local weights that CNNs begin with, each under its CNN's name: two files may be
    called alike.
    """
    digests = {}
    for config in run.recipe.stage1.models:
        if isinstance(config.pretrained, str):
            path, name = Path(config.pretrained), WEIGHTS + config.name
            digest = (
                file_digest(path) if path.is_file() else _known_weights(run, config.name).get(name)
            )
            digests |= {name: digest} if digest else {}
    return digests


def _known_weights(run, model):
    """Return {name: digest} of the weights that a CNN began with, as the receipts of `train` have
    it.
    """
    folds = [run.dir.fold(model, k) / "train.json" for k in range(run.recipe.folds.k)]
    receipts = [
        known for path in (run.dir.receipt("train"), *folds) if (known := read_receipt(path))
    ]
    reads = [reads_as_now(known["read"], known["recipe"]) for known in receipts]
    return next((read for read in reads if WEIGHTS + model in read), {})


def fold_digests(run):
    """Digest folds that were given with a slice list, or came with an imported model."""
    return _file_digests(run, [run.dir.listed_folds, run.dir.imported_folds])


def import_digests(run):
    """Digest the tables of imported models."""
    folders = [run.dir.imported(name) for name in run.recipe.stage1.imports]
    return _file_digests(run, [path for folder in folders for path in sorted(folder.glob("*"))])


def map_digests(run):
    """Digest the Grad-CAM maps."""
    return _file_digests(run, sorted(run.dir.stage1.glob("*/explain/*")))


def _file_digests(run, paths):
    return {
        str(path.relative_to(run.dir.root)): file_digest(path) for path in paths if path.is_file()
    }


def _zip_digest(path):
    """Digest a zip's size and time alone: to read its directory of a million names takes
    seconds.
    """
    return tree_digest(path.parent, [escaped_name(path.name)])


DIGESTS = {  # what a stage reads, as pipeline.registry.Stage names it -> how it is digested
    "source": source_digests,
    "sample": sample_digest,
    "key": key_digest,
    "weights": weight_digests,
    "given folds": fold_digests,
    "imports": import_digests,
    "explanations": map_digests,
}
