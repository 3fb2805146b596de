"""Digests of a run's inputs that no stage makes: source, sample, key, weights, folds, imports.

An input that was moved away after it was read counts as unchanged.
"""

from collections.abc import Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ct.errors import InputError
from ct.kaggle_layout import find_csv, find_folders, require_csv
from ct.privacy.escaped_names import escaped_name
from ct.storage.receipt_reader import read_receipt
from pipeline.freshness import file_digest, tree_digest
from pipeline.older_versions import WEIGHTS, under_current_names
from pipeline.registry import CHECKSUM_FILES, COUNT_FILES, PROBES, Stage
from pipeline.run_context import Run

Digests = dict[str, str]  # {name of an input: digest}


def source_digests(run: Run) -> Digests:
    """Digest the source, once per Run."""
    if run.source_digests is None:
        receipt = run.dir.receipt("ingest")
        if receipt.exists() and not Path(run.recipe.data.slices or run.recipe.data.source).exists():
            known = _known_inputs(run, "ingest")
            run.source_digests = {name: digest for name, digest in known.items() if name != "key"}
        else:
            run.source_digests = _digest_source(run)
    return run.source_digests


def _known_inputs(run: Run, stage: str) -> Digests:
    """Return what the receipt of a stage read; {} where there is no whole receipt."""
    receipt = read_receipt(run.dir.receipt(stage))
    return receipt["read"] if receipt else {}


def _digest_source(run: Run) -> Digests:
    data = run.recipe.data
    if data.slices:
        return {"slice list": file_digest(require_csv(Path(data.slices), "slices"))}
    if data.format != "kaggle":
        return _digest_own_studies(run)
    if Path(data.source).is_file():
        digests = {"zip archive": _zip_digest(Path(data.source))}
        if data.labels:
            find_labels: Callable[[], object] = partial(require_csv, data.labels, "labels")
            digests |= _csv_digest(run, "label csv", "ingest", find_labels)
        return digests
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


def _digest_own_studies(run: Run) -> Digests:
    """Digest the studies of the user's own, and their label table."""
    data = run.recipe.data
    find_labels = partial(require_csv, data.labels or "", "labels")
    digests = _csv_digest(run, "label csv", "ingest", find_labels)
    if Path(data.source).is_file():
        return digests | {"zip archive": _zip_digest(Path(data.source))}
    from ct.sources.own_files import find_own_studies

    found = find_own_studies(data.source, data.labels or "")
    return digests | {"study files": tree_digest(Path(data.source), found.names())}


def _csv_digest(run: Run, name: str, stage: str, find: Callable[[], object]) -> Digests:
    """Return {name: digest} of the csv that `find()` returns; or that of the stage's receipt."""
    try:
        path = find()
    except InputError:
        known = _known_inputs(run, stage)
        if name not in known:
            raise
        return {name: known[name]}
    assert isinstance(path, Path)  # a member of a zip archive is digested with the archive
    return {name: file_digest(path)}


def sample_digest(run: Run) -> Digests:
    """Digest the sample submission; a slice list need not have one."""
    data = run.recipe.data
    if data.format != "kaggle" or (data.slices and not data.sample):
        return {}
    source = Path(data.source)
    if source.is_file() and not data.sample:
        return {"sample csv": _zip_digest(source)}
    if data.sample or source.exists():
        return _csv_digest(run, "sample csv", "submit", run.find_sample)
    known = _known_inputs(run, "submit")
    return {name: digest for name, digest in known.items() if name == "sample csv"}


def key_digest(run: Run) -> Digests:
    """Digest the key of the pseudonyms; {} where it is gone."""
    return {"key": file_digest(run.dir.key)} if run.dir.key.is_file() else {}


def weight_digests(run: Run) -> Digests:
    """Digest the local weights that CNNs start from, each under its CNN's name."""
    digests: Digests = {}
    for config in run.recipe.stage1.trained():
        if config.weights_file is None:
            continue
        path, name = Path(config.weights_file), WEIGHTS + config.name
        if path.is_file():
            digests[name] = file_digest(path)
        elif digest := _known_weights(run, config.name).get(name):
            digests[name] = digest
    return digests


def _known_weights(run: Run, model: str) -> Digests:
    """Return the digests of the first receipt of `train` that names the weights of a CNN."""
    folds = [run.dir.fold(model, k) / "train.json" for k in range(run.recipe.folds.k)]
    for path in (run.dir.receipt("train"), *folds):
        if receipt := read_receipt(path):
            read = under_current_names(receipt["read"], receipt["recipe"])
            if WEIGHTS + model in read:
                return read
    return {}


def fold_digests(run: Run) -> Digests:
    """Digest the folds of a slice list or of an imported model."""
    return _file_digests(run, [run.dir.listed_folds, run.dir.imported_folds])


def import_digests(run: Run) -> Digests:
    """Digest the tables of imported models."""
    folders = [run.dir.imported(name) for name in run.recipe.stage1.imports]
    return _file_digests(run, [path for folder in folders for path in sorted(folder.glob("*"))])


def map_digests(run: Run) -> Digests:
    """Digest the Grad-CAM maps."""
    return _file_digests(run, sorted(run.dir.stage1.glob("*/explain/*")))


def _file_digests(run: Run, paths: Iterable[Path]) -> Digests:
    root = run.dir.root
    return {str(path.relative_to(root)): file_digest(path) for path in paths if path.is_file()}


def _zip_digest(path: Path) -> str:
    """Digest a zip archive's size and time: reading its directory of a million names is slow."""
    return tree_digest(path.parent, [escaped_name(path.name)])


DIGESTS: dict[str, Callable[[Run], Digests]] = {  # key of registry.USER_INPUTS -> its digests
    "source": source_digests,
    "sample": sample_digest,
    "key": key_digest,
    "weights": weight_digests,
    "predefined folds": fold_digests,
    "imports": import_digests,
    "explanations": map_digests,
}


def input_digests(run: Run, stage: Stage) -> Digests:
    """Return {name: digest} of everything that a stage reads, as it is now."""
    digests: Digests = {}
    for name in stage.reads:
        if name in DIGESTS:
            digests |= DIGESTS[name](run)
        elif receipt := read_receipt(run.dir.receipt(name)):
            digests |= _made_digests(receipt, _ignored_files(stage))
    return digests


def _ignored_files(stage: Stage) -> tuple[str, ...]:
    """Return the files of other stages that a stage's result does not depend on."""
    if stage.name in ("submit", "report"):
        return CHECKSUM_FILES
    return COUNT_FILES + CHECKSUM_FILES


def _made_digests(receipt: dict[str, Any], ignored: Collection[str]) -> dict[str, str]:
    """Return {path: digest} of the files that a receipt names, but for the ignored ones."""
    made = receipt["made"]
    return {
        path: stamp["digest"]
        for path, stamp in made.items()
        if path not in ignored and not path.startswith(PROBES)
    }
