"""Find the parts of a competition in Kaggle's layout, in a folder or in a zip archive.

Error lines print `data` as the user typed it, and the competition's own file names. Other folders
and files below `data` may be named after people and are not printed.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ct.errors import InputError
from ct.sources.folder import Folder
from ct.sources.zip_archive import ZipArchive, ZipMember, open_zip

STAGES = ("stage_2", "stage_1")  # of the competition; the second replaced the first
ARCHIVE = "rsna-intracranial-hemorrhage-detection.zip"  # the name of Kaggle's zip


@dataclass(frozen=True)
class Competition:
    """The paths of a competition's parts. In a zip, paths continue inside the archive."""

    source: Folder | ZipArchive  # the folder that holds the train and the test folder
    root: Path  # the path of that folder
    train_dir: Path
    test_dir: Path
    labels_csv: Path | ZipMember
    sample_csv: Path | ZipMember

    def files(self) -> dict[str, list[str]]:
        """Return {split: names of its files in the source, sorted}. Raises MachineFault."""
        folders = {"train": self.train_dir, "test": self.test_dir}
        return {split: self.source.files(folder.name) for split, folder in folders.items()}


class NoCompetition(InputError):
    """The data are not in Kaggle's layout, or have no test set."""


@contextmanager
def hidden_folders(data: Path | str) -> Iterator[None]:
    """Remove the folders between `data` and the competition's parts from InputErrors of the block.

    Their names may be people's names.
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


def find_competition(
    data: Path | str, labels: Path | str | None = None, sample: Path | str | None = None
) -> Competition:
    """Find the parts of a competition in `data`, or below it where only one folder leads to them.

    data: folder or zip archive; labels, sample: csv files that lie elsewhere, or None

    Raises InputError for whatever is missing.
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
    """Return the source that holds the train and test folder at or below `data`, and the stage.

    The stage is one of STAGES. Raises InputError where a folder is missing or empty.
    """
    source, stage = _descend(Path(data))
    folders, remedy = source.folders(), "the DICOM files of that part belong there"
    for folder in (f"{stage}_train", f"{stage}_test"):
        if folder not in folders:
            raise NoCompetition(f"--data={data} has no folder {folder}; {remedy}")
        if not source.has_files(folder):
            raise InputError(f"the folder {folder} of --data={data} holds no files; {remedy}")
    return source, stage


def find_csv(
    data: Path | str,
    source: Folder | ZipArchive,
    name: str,
    elsewhere: Path | str | None,
    flag: str,
) -> Path | ZipMember:
    """Return the csv file `elsewhere`, or else the file `name` of a source, compressed or not.

    flag: the flag that names `elsewhere`. Raises InputError where there is no such file.
    """
    if elsewhere:
        return require_csv(elsewhere, flag)
    # Kaggle serves single files as .zip
    candidates = (source.file(name + suffix) for suffix in ("", ".zip", ".gz"))
    path = next((file for file in candidates if file is not None), None)
    if path is None:
        raise InputError(
            f"--data={data}: {name} does not exist or is no file; "
            f"put it beside the folders or name it with --{flag}"
        )
    return path


def require_csv(path: Path | str, flag: str) -> Path:
    """Return the Path of a csv file that a flag names. Raises InputError where it is no file."""
    if not Path(path).is_file():
        raise InputError(
            f"{path} does not exist or is no file; put it there or name it with --{flag}"
        )
    return Path(path)


def _descend(data: Path) -> tuple[Folder | ZipArchive, str]:
    """Return the source at or below `data` that holds a stage's train folder, and the stage."""
    if not data.exists():
        raise InputError(
            f"{data} does not exist; --data names the folder or zip that holds {STAGES[0]}_train"
        )
    whole = Folder(data) if data.is_dir() else open_zip(data)
    source: Folder | ZipArchive = whole
    while True:
        if stage := _stage(source):
            return source, stage
        inner = source.folders()
        fitting = [folder for folder in inner if _stage(source.subfolder(folder))]
        if len(fitting) > 1 or (not fitting and len(inner) != 1):
            break
        source = source.subfolder((fitting or inner)[0])
    if len(fitting) > 1:
        raise InputError(
            f"--data={data} holds several competitions, in {len(fitting)} folders; "
            "name one of them with --data"
        )
    if not (any(data.iterdir()) if isinstance(whole, Folder) else whole.names):
        raise InputError(
            f"{data} is empty (hidden files are not read); it should hold {STAGES[0]}_train"
        )
    if data.is_dir() and any(data.name.startswith(stage) for stage in STAGES):
        raise NoCompetition(
            f"{data} holds no {STAGES[0]}_train; name the folder around it, {data.parent}"
        )
    raise NoCompetition(f"--data={data} holds no folder {STAGES[0]}_train; {_remedy(data)}")


def _remedy(data: Path) -> str:
    """Return what to do about a folder or zip without a competition.

    Where the folder holds zips, Kaggle's name is printed, any other is NAME.zip.
    """
    names = {path.name for path in data.glob("*.zip")} if data.is_dir() else set()
    if not names:
        return "--data names the folder or zip that holds it"
    name = ARCHIVE if ARCHIVE in names else "NAME.zip"
    return f"the zip needs no unpacking: --data={data / name}"


def _stage(source: Folder | ZipArchive) -> str | None:
    """Return the stage whose train folder a source holds, or None."""
    folders = set(source.folders())
    return next((stage for stage in STAGES if f"{stage}_train" in folders), None)
