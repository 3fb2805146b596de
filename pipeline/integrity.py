"""Find silent damage: compare the content of a run's files with their receipts.

A stage or verb verifies what it is about to read (`check_content`); `status --verify` verifies
every file (`damaged_files`). A damaged file is marked in its receipt, so that its stage makes it
again.
"""

from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path

from ct.errors import InputError
from ct.run_dir import RunDir
from ct.storage.file_formats import write_json
from ct.storage.receipt_reader import read_receipt
from ct.storage.sealed_files import SEAL, is_whole
from pipeline.freshness import Stamp, why_changed

JOB_RECEIPTS = (
    "stage1/*/*/train.json",
    "stage1/*/*/predict.json",
    "stage2/probes/*.receipt.json",
    "stage2/tune/*.receipt.json",
    "stage2/fits/*.receipt.json",
)
REPORTS = ("report", "report --study")
# with this file, each slice of the pixel cache is verified whenever it is decoded
CHECKSUMS = "pixels/checksums.parquet"
SHARDS = "pixels/shard-*"
# files that take seconds to read -> the verbs that read them; other verbs skip them
LARGE = {
    SHARDS: ("train", "predict", "explain", "search", *REPORTS),
    "stage1/*/weights.safetensors": ("predict", "explain", "score", "export-model"),
    "stage1/*embeddings.npy": ("features",),
    "stage2/features/t*.npy": ("tune", "stack"),
    "stage2/probes/*": (),
}
# files that no stage makes, each with a seal -> (the verbs that read them, the remedy)
SEALED = {
    "imports/folds.parquet": (
        ("folds",),
        "remove it and import the model again: `import-predictions`",
    ),
    "imports/*/*.parquet": (
        ("features", "submit --stage=one", *REPORTS),
        "import it again: `import-predictions`",
    ),
    "stage1/*/explain/*": (REPORTS, "run `explain`, which makes it again"),
}
# verb -> stages whose small files it reads too, although it does not depend on them
ALSO_READ = dict.fromkeys(REPORTS, ("features",))


def check_content(run: RunDir, verb: str, stages: Sequence[str]) -> None:
    """Verify the content of every file of `stages` that `verb` is about to read.

    Raises InputError that names the first damaged file. The pixel cache is verified slice by slice
    while it is decoded; one without checksums is read here, if the verb reads pixels.
    """
    for stage in (*stages, *ALSO_READ.get(verb, ())):
        receipt = read_receipt(run.receipt(stage)) or {"made": {}}
        made = {name: stamp for name, stamp in receipt["made"].items() if _is_read(verb, name)}
        shards = {name: stamp for name, stamp in made.items() if fnmatch(name, SHARDS)}
        others = {name: stamp for name, stamp in made.items() if name not in shards}
        _refuse_damaged(run, verb, stage, others)
        if CHECKSUMS not in receipt["made"]:
            _refuse_damaged(run, verb, stage, shards)
    for pattern, (verbs, remedy) in SEALED.items():
        if verb in verbs:
            _refuse_damaged_seals(run, verb, pattern, remedy)


def _is_read(verb: str, name: str) -> bool:
    """Return whether a verb that reads the files of a stage reads this one."""
    return all(verb in verbs for pattern, verbs in LARGE.items() if fnmatch(name, pattern))


def _refuse_damaged(run: RunDir, verb: str, stage: str, made: dict[str, Stamp]) -> None:
    for name, stamp in made.items():
        if why := why_changed(run.root / name, name, stamp, verify=True):
            mark_damaged(run.receipt(stage), [name])
            raise InputError(
                f"{verb} reads what {stage} makes, and {why}; put that file back from a copy of "
                f"the run, or run `{stage}` or `all`, which makes it again"
            )


def _refuse_damaged_seals(run: RunDir, verb: str, pattern: str, remedy: str) -> None:
    for path in sorted(run.root.glob(pattern)):
        if path.suffix != SEAL and not is_whole(path):
            name = path.relative_to(run.root)
            raise InputError(f"{verb} reads {name}, which is damaged; {remedy}")


def damaged_files(
    run: RunDir, progress: Callable[[str], object] | None = None, marks: bool = True
) -> list[tuple[str, str]]:
    """Read every file of a run; return [(how it differs, its stage)] of those that changed.

    progress(name) is called before a file is read. marks: whether to mark damaged files in their
    receipts. Damaged receipts are listed, too, and damaged files of unfinished work, with stage "".
    """
    damaged: list[tuple[str, str]] = []
    verified: set[str] = set()
    for path in receipt_paths(run):
        receipt = read_receipt(path)
        if receipt is None:
            damaged.append((f"{path.relative_to(run.root)} is damaged", path.name.split(".")[0]))
            continue
        changes = []
        for name, stamp in receipt["made"].items():
            if progress and name not in verified:
                progress(name)
            if why := why_changed(run.root / name, name, stamp, verify=True):
                changes.append((name, why))
        if marks:
            mark_damaged(path, [name for name, _ in changes])
        stage = receipt.get("stage", "")
        damaged += [(why, stage) for name, why in changes if name not in verified]
        verified |= receipt["made"].keys()
    for path in _unfinished_files(run):
        if not _is_undamaged(path):
            damaged.append((f"{path.relative_to(run.root)} is damaged", ""))
    return damaged


def _unfinished_files(run: RunDir) -> list[Path]:
    """Return the files of unfinished work with a digest: those with a seal, and checkpoints."""
    sealed = [path.with_name(path.name.removesuffix(SEAL)) for path in run.root.rglob(f"*{SEAL}")]
    return sorted([*sealed, *run.root.glob("stage1/*/*/checkpoint.safetensors")])


def _is_undamaged(path: Path) -> bool:
    """Return whether a file of unfinished work has the content that was written."""
    if path.name == "checkpoint.safetensors":
        from pipeline.training import checkpoint_file  # imports torch

        return checkpoint_file.is_whole(path)
    if path.suffix == ".journal":
        from pipeline.optuna_studies import trial_journal  # imports optuna

        return trial_journal.is_whole(path)
    return is_whole(path)


def receipt_paths(run: RunDir) -> list[Path]:
    """Return the paths of all receipts of a run: those of stages, then those of jobs."""
    patterns = ("receipts/*.json", *JOB_RECEIPTS)
    return [path for pattern in patterns for path in sorted(run.root.glob(pattern))]


def mark_damaged(path: Path, names: Collection[str]) -> None:
    """Remove the times of files from a receipt: their content alone decides if they are fresh."""
    receipt = read_receipt(path) if names else None
    if receipt is None:
        return
    for name in names:
        receipt["made"][name]["mtime_ns"] = None
    write_json(path, receipt)
