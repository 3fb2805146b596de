"""A competition laid out as Kaggle's: its parts, in a folder or in a zip archive.

Error lines name `data` as the user typed it and files by their names in the competition. Other
folders and files below `data` may be named after people, and are not printed.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ct.errors import InputError
from ct.sources.folder import Folder
from ct.sources.zip_archive import ZipArchive, ZipMember, open_zip

STAGES = ("stage_2", "stage_1")  # of the competition; the second supersedes the first
ARCHIVE = "rsna-intracranial-hemorrhage-detection.zip"  # Kaggle's


@dataclass(frozen=True)
class Competition:
    """Where the parts of a competition lie. In a zip the paths go on inside it."""

    source: Folder | ZipArchive  # of the folder that holds the two parts
    root: Path  # that folder
    train_dir: Path
    test_dir: Path
    labels_csv: Path | ZipMember
    sample_csv: Path | ZipMember


@contextmanager
def hidden_folders(data: Path | str) -> Iterator[None]:
    """Take the folders between `data` and the competition's own parts out of the InputErrors that
    the block raises.
    """
    between = re.compile(
        rf"{re.escape(str(data))}/.*?/(?=stage_[12]_(?:train|test|sample_submission)\b)"
    )
    try:
        yield
    except InputError as error:
        line = between.sub(lambda _: f"{data}/", str(error)) if str(data) else str(error)
        if line == str(error):
            raise
        raise type(error)(line) from None


def find_competition(data, labels=None, sample=None):
    """Find the parts of a competition laid out as Kaggle's, in `data` or below it while one folder
    alone leads there.

    data: folder or zip archive; labels, sample: csv files that lie elsewhere, or None

    Returns a Competition. Raises InputError, one line, for whatever is missing.
    """
    source, stage = find_folders(data)
    return Competition(
        source=source,
        root=source.root,
        train_dir=source.root / f"{stage}_train",
        test_dir=source.root / f"{stage}_test",
        labels_csv=find_csv(data, source, f"{stage}_train.csv", labels, "labels"),
        sample_csv=find_csv(data, source, f"{stage}_sample_submission.csv", sample, "sample"),
    )


def find_folders(data: Path | str) -> tuple[Folder | ZipArchive, str]:
    """Return (source of the folder that holds the two parts, the stage's name) at or below `data`.
    Raises InputError.
    """
    source, stage = _descend(Path(data))
    folders, belongs = source.folders(), "the DICOM files of that part belong there"
    for folder in (f"{stage}_train", f"{stage}_test"):
        if folder not in folders:
            raise InputError(f"--data={data} has no folder {folder}; {belongs}")
        if not source.has_files(folder):
            raise InputError(f"the folder {folder} of --data={data} holds no files; {belongs}")
    return source, stage


def find_csv(
    data: Path | str,
    source: Folder | ZipArchive,
    name: str,
    elsewhere: Path | str | None,
    flag: str,
) -> Path | ZipMember:
    """Return the csv file `elsewhere`, or the one called `name` of a source, packed or not. Raises
    InputError.
    """
    if elsewhere:
        return find_elsewhere(elsewhere, flag)
    # as Kaggle hands out single files
    as_named = (source.file(name + packing) for packing in ("", ".zip", ".gz"))
    if (path := next((file for file in as_named if file is not None), None)) is None:
        raise InputError(
            f"--data={data}: {name} does not exist or is no file; put it beside the folders or name it with --{flag}"
        )
    return path


def find_elsewhere(path, flag):
    """Return the Path of a csv file that a flag named. Raises InputError where it is no file."""
    if not Path(path).is_file():
        raise InputError(
            f"{path} does not exist or is no file; put it there or name it with --{flag}"
        )
    return Path(path)


def _descend(data):
    """Return the source at or below `data` that holds a stage's train folder, and the stage's
    name.
    """
    if not data.exists():
        raise InputError(
            f"{data} does not exist; --data names the folder or zip that holds {STAGES[0]}_train"
        )
    source = whole = Folder(data) if data.is_dir() else open_zip(data)
    while True:
        if stage := _stage(source):
            return source, stage
        inner = source.folders()
        good = [folder for folder in inner if _stage(source.subfolder(folder))]
        if len(good) > 1 or (not good and len(inner) != 1):
            break
        source = source.subfolder((good or inner)[0])
    if len(good) > 1:
        raise InputError(
            f"--data={data} holds several competitions, {len(good)} folders with one; name one of them with --data"
        )
    if not (any(data.iterdir()) if data.is_dir() else whole.names):
        raise InputError(f"{data} is empty; it should hold {STAGES[0]}_train")
    if data.is_dir() and any(data.name.startswith(stage) for stage in STAGES):
        raise InputError(
            f"{data} holds no {STAGES[0]}_train; name the folder around it, {data.parent}"
        )
    raise InputError(f"--data={data} holds no folder {STAGES[0]}_train; {_remedy(data)}")


def _remedy(data):
    """Return what to do about a folder or zip that holds no competition. Of zips in it, only
    Kaggle's own name is printed.
    """
    names = {path.name for path in data.glob("*.zip")} if data.is_dir() else set()
    if not names:
        return "--data names the folder or zip that holds it"
    return (
        f"the zip needs no unpacking: --data={data / (ARCHIVE if ARCHIVE in names else 'NAME.zip')}"
    )


def _stage(source):
    folders = set(source.folders())
    return next((stage for stage in STAGES if f"{stage}_train" in folders), None)
