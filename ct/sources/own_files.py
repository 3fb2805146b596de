"""The files of studies in any layout, to train on: a folder or a zip, all files of which count."""

from dataclasses import dataclass
from pathlib import Path

from ct.errors import InputError
from ct.sources.folder import Folder
from ct.sources.zip_archive import ZipArchive, open_zip


@dataclass(frozen=True)
class OwnStudies:
    """A source of studies without a test set, and its label table."""

    source: Folder | ZipArchive
    labels_csv: Path

    def names(self) -> list[str]:
        """Return the names of all files but the label table, sorted. Raises MachineFault."""
        root = Path(self.source.root)
        return [name for name in self.source.all_files() if root / name != self.labels_csv]


def find_own_studies(data: Path | str, labels: Path | str) -> OwnStudies:
    """Return the studies in a folder or zip. Raises InputError where a part is missing."""
    data, labels = Path(data), Path(labels)
    if not data.exists():
        raise InputError(f"{data} does not exist; --data names the folder or zip of the studies")
    if not labels.is_file():
        raise InputError(
            f"{labels} does not exist or is no file; --labels names the table of labels"
        )
    return OwnStudies(Folder(data) if data.is_dir() else open_zip(data), labels)
