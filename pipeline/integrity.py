"""Silent damage: whether what lies in a run folder still holds what its receipts say, by content
and not by size and time.

A stage or verb verifies what it is about to read (`check_content`); `status --verify` reads
everything (`damaged_files`). What is found damaged is marked in the receipt, so that the stage that
made it makes it again.
"""

from fnmatch import fnmatch
from pathlib import Path

from ct.errors import InputError
from ct.run_dir import RunDir
from ct.storage.file_formats import write_json
from ct.storage.receipts import read_receipt
from ct.storage.sealed_files import SEAL, is_whole
from pipeline.freshness import changed

# receipts of units of work
JOBS = ("stage1/*/*/train.json", "stage1/*/*/predict.json", "stage2/tune/*.receipt.json")
REPORTS = ("report", "report --study")
# where it is there, each slice is verified whenever it is decoded
CHECKSUMS = "pixels/checksums.parquet"
SHARDS = "pixels/shard-*"
# files that take seconds to read, of which a stage's other readers need nothing -> the verbs that
# read them
LARGE = {
    SHARDS: ("train", "predict", "explain", "search", *REPORTS),
    "stage1/*/weights.safetensors": ("predict", "explain", "score", "export-model"),
    "stage1/*embeddings.npy": ("features",),
    "stage2/features/t*.npy": ("tune", "stack"),
}
# files of no stage, each with a seal beside it -> (the verbs that read them, what makes them again)
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
# verb -> stages of whose work it reads a small file
SMALL_TOO = dict.fromkeys(REPORTS, ("features",))


def check_content(run: RunDir, verb: str, stages: list[str]) -> None:
    """Verify by content every file that the receipts of `stages` name, before `verb` reads it.

    Raises InputError that names the first damaged file. Shards of the pixel cache are verified
    slice by slice while they are decoded; those of a cache without checksums are read whole here,
    if the verb reads pixels at all.
    """
    for stage in (*stages, *SMALL_TOO.get(verb, ())):
        made = (read_receipt(run.receipt(stage)) or {"made": {}})["made"]
        names = [
            name
            for name in made
            if all(verb in verbs for large, verbs in LARGE.items() if fnmatch(name, large))
        ]
        shards = [name for name in names if fnmatch(name, SHARDS)]
        _refuse_damaged(
            run, verb, stage, {name: made[name] for name in names if name not in shards}
        )
        if shards and CHECKSUMS not in made:
            _refuse_damaged(run, verb, stage, {name: made[name] for name in shards})
    for pattern, (verbs, remedy) in SEALED.items():
        for path in sorted(run.root.glob(pattern)) if verb in verbs else ():
            if path.suffix != SEAL and not is_whole(path):
                raise InputError(
                    f"{verb} reads {path.relative_to(run.root)}, which is damaged; {remedy}"
                )


def _refuse_damaged(run, verb, stage, made):
    for name, stamp in made.items():
        if why := changed(run.root / name, name, stamp, verify=True):
            mark(run.receipt(stage), [name])
            raise InputError(
                f"{verb} reads what {stage} makes, and {why}; put that file back from a copy of the run, or run "
                f"`{stage}` or `all`, which makes it again"
            )


def damaged_files(run: RunDir, progress=None, marks: bool = True) -> list[tuple[str, str]]:
    """Read every file that a receipt names and return [(why, stage)] of those that are damaged,
    gone or changed.

    progress(name): called before a file is read; marks: whether they are marked in the receipt.
    Receipts and pieces of unfinished work that do not hold are among them.
    """
    damaged, seen = [], set()
    for path in receipts(run):
        known = read_receipt(path)
        if known is None:
            damaged.append((f"{path.relative_to(run.root)} is damaged", path.name.split(".")[0]))
            continue
        lines = []
        for name, stamp in known["made"].items():
            if progress and name not in seen:
                progress(name)
            if why := changed(run.root / name, name, stamp, verify=True):
                lines.append((name, why))
        if marks:
            mark(path, [name for name, _ in lines])
        damaged += [(why, known.get("stage", "")) for name, why in lines if name not in seen]
        seen |= known["made"].keys()
    return damaged + [
        (f"{path.relative_to(run.root)} is damaged", "")
        for path in _unfinished(run)
        if not _holds(path)
    ]


def _unfinished(run):
    """Return the paths of pieces of unfinished work that have a digest: with a seal beside them,
    and checkpoints.
    """
    sealed = [path.with_name(path.name.removesuffix(SEAL)) for path in run.root.rglob(f"*{SEAL}")]
    return sorted([*sealed, *run.root.glob("stage1/*/*/checkpoint.safetensors")])


def _holds(path):
    """Return whether a piece of unfinished work holds the bytes that it was left with."""
    if path.name == "checkpoint.safetensors":
        from pipeline.training import checkpoint_file as checkpoints  # with torch

        return checkpoints.is_whole(path)
    if path.suffix == ".journal":
        from pipeline.optuna_studies import trial_journal as journal  # with optuna

        return journal.is_whole(path)
    return is_whole(path)


def receipts(run: RunDir) -> list[Path]:
    """Return the paths of all receipts of a run: of its stages, then of units of work."""
    return [
        path for pattern in ("receipts/*.json", *JOBS) for path in sorted(run.root.glob(pattern))
    ]


def mark(path: Path, names: list[str]) -> None:
    """Take the times of files out of a receipt: from now on their content decides whether the
    receipt holds.
    """
    if not names:
        return
    known = read_receipt(path)
    for name in names:
        known["made"][name]["mtime_ns"] = None
    write_json(path, known)
