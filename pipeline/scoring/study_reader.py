"""Read new studies for `score`: any DICOM files, in no particular folder layout."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.checks.domain_shift import Finding, header_findings, pixel_findings
from ct.checks.shared_uids import separate_patients
from ct.dicom.acquisition import read_acquisition
from ct.dicom.header_table import read_headers
from ct.errors import InputError
from ct.patient_folds import fold_groups
from ct.pixel_cache.reader import PixelCache
from ct.pixel_cache.writer import write_cache
from ct.privacy.pseudonyms import competition_id_pattern
from ct.slices import PIXEL_COLUMNS, order_slices
from ct.sources.folder import Folder
from ct.sources.zip_archive import ZipArchive, open_zip
from pipeline.checked_options import ScoreOptions
from pipeline.progress import Bar
from pipeline.scoring.scoring_model import ScoringModel
from pipeline.scoring.study_findings import shared_uid_findings, study_findings, without_refused

KINDS = {"patient_id": "patient", "study_id": "study", "series_id": "series", "slice_id": "slice"}
NO_PART = 127  # no probe was fitted without this part: features.linear_probe returns NaN for it


@dataclass(frozen=True)
class NewStudies:
    """Studies that a model is applied to.

    headers:     slice table of all files that are slices, without the pixel columns
    acquisition: acquisition facts of the same rows, with the `path`
    quarantine:  files that do not read: path, kind, reason
    findings:    differences between the studies and the training data
    slices:      slice table with the pixel columns of the slices that are scored, with `fold` (the
                 patient's fold in the training data, -1 where the patient is new) and `part`
    read_hu:     HU of rows of `slices`, as PixelCache.read
    """

    headers: pd.DataFrame
    acquisition: pd.DataFrame
    quarantine: pd.DataFrame
    findings: list[Finding]
    slices: pd.DataFrame
    read_hu: Callable[..., NDArray[np.int16]]


def open_source(data: str) -> tuple[Folder | ZipArchive, list[str]]:
    """Return the source of a folder or zip archive, and the names of all files in it.

    Raises InputError where there is no such folder or archive, or where it holds no files.
    """
    path = Path(data)
    if not path.exists():
        raise InputError(
            f"--data={data} does not exist; name a folder or zip archive that holds DICOM files"
        )
    source = Folder(path) if path.is_dir() else open_zip(path)
    files = source.all_files()
    if not files:
        raise InputError(
            f"--data={data} holds no files; name a folder or zip archive that holds DICOM files"
        )
    return source, files


def read_new_studies(
    opened: tuple[Folder | ZipArchive, list[str]],
    model: ScoringModel,
    key: bytes,
    work: Path,
    options: ScoreOptions,
    bar: Callable[..., Bar],
) -> NewStudies:
    """Read the headers of all files, then the pixels of the series that are not refused.

    opened: as returned by `open_source`; key: of the pseudonyms under which `model` stores its
    patients; work: new folder for the pixel cache; bar: as pipeline.progress.progress_bar

    With options.anyway no series is refused.
    """
    (source, files), training = opened, model.stage2["training"]
    with bar(len(files), "headers", "file") as shown:
        headers, acquisition, quarantine = read_study_headers(
            source, files, key, model.patients, options.workers, shown.reach
        )
    findings = [
        *shared_uid_findings(headers),
        *study_findings(headers, training),
        *header_findings(headers, acquisition, training),
    ]
    slices = headers if options.anyway else without_refused(headers, findings)
    size = model.recipe.pixels.size
    with bar(len(slices), "pixels", "slice") as shown:
        facts = write_cache(work, source, slices, size, options.workers, shown.reach)
    cache, slices = PixelCache(work), slices.join(facts[list(PIXEL_COLUMNS)])
    faults = pd.DataFrame({"path": slices["path"], "kind": "pixels", "reason": facts["reason"]})
    faults = faults[faults["reason"] != ""]
    findings += pixel_findings(slices, training)
    if options.anyway:
        findings = [finding._replace(refuses=False) for finding in findings]
    slices = without_refused(slices, findings)
    rows = pd.Index(cache.slice_ids).get_indexer(slices.index)
    return NewStudies(
        headers=headers,
        acquisition=acquisition,
        quarantine=pd.concat([quarantine, faults]).sort_values("path"),
        findings=findings,
        slices=slices,
        read_hu=lambda numbers, out=None: cache.read(rows[numbers], out),
    )


def read_study_headers(
    source: Folder | ZipArchive,
    files: list[str],
    key: bytes,
    patients: pd.DataFrame | None = None,
    workers: int | None = None,
    progress: Callable[..., None] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Read the headers of all files. Returns (headers, acquisition, quarantine) of NewStudies.

    patients: `fold` and `part` of each training patient, indexed by pseudonym, or None where they
    are unknown; progress: as in read_headers

    headers has the further columns `people` (the verdict of
    ct.checks.shared_uids.separate_patients) and those of `training_folds`.
    """
    table, quarantine = read_headers(
        source, files, key, workers, progress, patient_id_optional=True
    )
    table, people = separate_patients(table, key)
    table = table.assign(split="test", people=people, **training_folds(table, patients))
    headers = order_slices(public_names(table, key))
    acquisition = read_acquisition(source, headers["path"].tolist())
    acquisition = acquisition.reset_index().set_index(headers.index)
    return headers, acquisition, quarantine[["path", "kind", "reason"]]


def training_folds(table: pd.DataFrame, patients: pd.DataFrame | None) -> dict[str, pd.Series]:
    """Return the columns `fold`, `part`, `two_folds` and `training_patient` of a header table.

    `fold` and `part` are those of the training patient, the same for all of a group
    (ct.patient_folds.fold_groups), and -1 where no patient of the group is in the training data.
    `two_folds` is True where a group's patients are in several folds. `training_patient` is the
    pseudonym of one of the group's training patients, "" where there is none. Where they are in
    several parts, `part` is NO_PART, because the probe without one part was fitted on the others.

    patients: as in `read_study_headers`
    """
    known = pd.DataFrame(columns=["fold", "part"]) if patients is None else patients
    groups = pd.Series(fold_groups(table), index=table.index)
    largest, several = {}, {}
    for name in ("fold", "part"):
        column = table["patient_id"].map(known[name]).fillna(-1).astype(np.int8)
        largest[name] = column.groupby(groups).transform("max")
        several[name] = column.where(column >= 0).groupby(groups).transform("nunique") > 1
    part = largest["part"].mask(several["part"], NO_PART).astype(np.int8)
    patient = table["patient_id"].where(table["patient_id"].isin(known.index), "")
    return {
        "fold": largest["fold"],
        "part": part,
        "two_folds": several["fold"],
        "training_patient": patient.groupby(groups).transform("max"),
    }


def public_names(table: pd.DataFrame, key: bytes) -> pd.DataFrame:
    """Return a header table with identifiers that identify nobody.

    The competition's own (competition_id_pattern under `key`) stay; others are numbered in the
    order of the rows. A second call, which has another key, therefore returns the same names in the
    same order.
    """
    table = table.reset_index()
    for column, kind in KINDS.items():
        names = table[column]
        public = names.str.fullmatch(competition_id_pattern(kind, key)).to_numpy(bool)
        number, distinct = pd.factorize(names.where(~public))
        width = len(str(len(distinct)))
        numbered = [f"{kind}-{place + 1:0{width}}" for place in range(len(distinct))]
        numbered_names = np.array([*numbered, ""], object)[number]
        table[column] = np.where(public, names.to_numpy(object), numbered_names)
    return table.set_index("slice_id")
