"""Read new studies for `score`: any DICOM files, in no particular folder layout."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ct.checks.domain_shift import Finding, header_findings, pixel_findings
from ct.checks.series_choice import PASSED_OVER
from ct.checks.series_table import KEYS, training_spacing
from ct.checks.shared_uids import separate_patients
from ct.checks.stray_slices import stray_reasons
from ct.dicom.acquisition import read_acquisition
from ct.dicom.header_table import read_headers
from ct.dicom.hounsfield import read_hu
from ct.errors import InputError
from ct.patient_folds import fold_groups
from ct.pixel_cache.reader import PixelCache
from ct.pixel_cache.slab_plan import in_plane_positions
from ct.pixel_cache.writer import write_cache
from ct.privacy.pseudonyms import competition_id_pattern, of_competition, pseudonym
from ct.slices import PIXEL_COLUMNS, order_slices
from ct.sources.file_reader import read_each
from ct.sources.folder import Folder
from ct.sources.zip_archive import ZipArchive, open_zip
from pipeline.checked_options import ScoreOptions
from pipeline.progress import Bar
from pipeline.scoring.scoring_model import ScoringModel
from pipeline.scoring.series_reading import (
    EACH,
    as_own_studies,
    choose_of_studies,
    slab_findings,
    with_slabs,
)
from pipeline.scoring.study_findings import shared_uid_findings, study_findings, without_refused

ID_KINDS = {
    "patient_id": "patient",
    "study_id": "study",
    "series_id": "series",
    "slice_id": "slice",
}
NO_PART = 127  # no probe was fitted without this part: features.linear_probe returns NaN for it


@dataclass(frozen=True)
class NewStudies:
    """Studies that a model is applied to.

    headers:     slice table of all files that are slices, without the pixel columns
    acquisition: acquisition facts of the same rows, with the `path`, and the pseudonyms of slice,
                 series, study and patient (`slice_key` and so on)
    quarantine:  files that do not read or do not belong to their series: path, kind, reason
    series:      a row a series, whether it is read, and why (series_reading.choose_of_studies)
    findings:    differences between the studies that are read and the training data
    slices:      slice table with the pixel columns of the slices that are scored, with `fold` (the
                 patient's fold in the training data, -1 where the patient is new) and `part`; the
                 slabs of a thin series stand for its slices
    slab_of:     of each slice of a thin series the index of its slab in `slices`
    read_hu:     HU of rows of `slices`, as PixelCache.read
    """

    headers: pd.DataFrame
    acquisition: pd.DataFrame
    quarantine: pd.DataFrame
    series: pd.DataFrame
    findings: list[Finding]
    slices: pd.DataFrame
    slab_of: pd.Series
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
            f"--data={data} holds no files (hidden ones are not read); "
            "name a folder or zip archive that holds DICOM files"
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
    """Read the headers of all files, choose a series of each study, and read its pixels.

    opened: as returned by `open_source`; key: of the pseudonyms under which `model` stores its
    patients; work: new folder for the pixel cache; bar: as pipeline.progress.progress_bar

    With options.anyway no series is refused.
    """
    (source, files), training = opened, model.stage2["training"]
    with bar(len(files), "headers", "file") as shown:
        headers, acquisition, quarantine = read_study_headers(
            source, files, key, model.patients, options.workers, shown.reach, options.series
        )
    series = choose_of_studies(
        headers, acquisition, source, training, options.series, options.anyway
    )
    chosen = pd.MultiIndex.from_frame(headers[KEYS]).isin(
        series.index[series["status"] != PASSED_OVER]
    )
    spacing, read = training_spacing(training), headers[chosen]
    table, table_acquisition, slab_of = with_slabs(read, acquisition[chosen], series, spacing)
    findings = [
        *shared_uid_findings(read),
        *study_findings(read, training),
        *slab_findings(read, table, slab_of, spacing),
        *header_findings(table, table_acquisition, training),
    ]
    slices = table if options.anyway else without_refused(table, findings)
    size = model.recipe.pixels.size
    with bar(len(slices), "pixels", "slice") as shown:
        facts = write_cache(work, source, slices, size, options.workers, shown.reach)
    cache, slices = PixelCache(work), slices.join(facts[list(PIXEL_COLUMNS)])
    faults = _undecoded(source, slices, facts["reason"])
    members = read.loc[slab_of.index[slab_of.isin(slices.index)], KEYS]
    broken = acquisition.loc[members.index, "path"].isin(faults["path"])
    findings += pixel_findings(slices, training, members.assign(readable=~broken))
    if options.anyway:
        findings = [finding._replace(refuses=False) for finding in findings]
    slices = without_refused(slices, findings)
    rows = pd.Index(cache.slice_ids).get_indexer(slices.index)
    return NewStudies(
        headers=headers,
        acquisition=acquisition,
        quarantine=pd.concat([quarantine, faults]).sort_values("path"),
        series=series,
        findings=findings,
        slices=slices,
        slab_of=slab_of[slab_of.isin(slices.index)],
        read_hu=lambda numbers, out=None: cache.read(rows[numbers], out),
    )


def _undecoded(
    source: Folder | ZipArchive, slices: pd.DataFrame, reasons: pd.Series
) -> pd.DataFrame:
    """Return the quarantine of the files that do not decode: path, kind, reason.

    reasons: of each row of `slices`, "" where all of it decodes. The members of a slab are decoded
    once more, to see which of them do not.
    """
    faulty = slices[reasons != ""]
    if "members" not in slices:
        return pd.DataFrame(
            {"path": faulty["path"], "kind": "pixels", "reason": reasons[faulty.index]}
        )
    paths = list(dict.fromkeys(member.path for members in faulty["members"] for member in members))
    decoded = zip(paths, read_each(read_hu, source.select(paths)), strict=True)
    rows = [(path, "pixels", reason) for path, (_, reason, _) in decoded if reason]
    return pd.DataFrame(rows, columns=["path", "kind", "reason"])


def read_study_headers(
    source: Folder | ZipArchive,
    files: list[str],
    key: bytes,
    patients: pd.DataFrame | None = None,
    workers: int | None = None,
    progress: Callable[..., None] | None = None,
    series: str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Read the headers of all files. Returns (headers, acquisition, quarantine) of NewStudies.

    patients: `fold` and `part` of each training patient, indexed by pseudonym, or None where they
    are unknown; progress: as in read_headers; series: the SeriesInstanceUID or the name of a
    series, EACH to make each a study of its own, or None

    headers has the further columns `people` (the verdict of
    ct.checks.shared_uids.separate_patients), those of `training_folds` and of
    ct.pixel_cache.slab_plan.in_plane_positions, and `asked` and `competition` (series_reading.py).
    """
    table, quarantine = read_headers(
        source, files, key, workers, progress, patient_id_optional=True
    )
    acquisition = read_acquisition(source, table["path"].tolist()).reset_index()
    acquisition = acquisition.set_index(table.index)
    for kind in ID_KINDS.values():  # before studies are renamed, to join labels
        acquisition[f"{kind}_key"] = table.index if kind == "slice" else table[f"{kind}_id"]
    stray = stray_reasons(table.assign(split="test"), acquisition)
    stray = stray.where(~of_competition(table, key), "")
    strays = pd.DataFrame({"path": table["path"], "kind": "series", "reason": stray})
    table = table[stray == ""]
    wanted = table["series_id"] == pseudonym(series or "", key, "series")
    table, people = separate_patients(table, key)
    table = table.assign(split="test", people=people, **training_folds(table, patients))
    table = table.assign(**in_plane_positions(table), asked=wanted)
    named = public_names(table, key).assign(old=table.index.to_numpy())
    named["asked"] |= named["series_id"] == series
    named["competition"] = of_competition(named, key)
    headers = order_slices(as_own_studies(named) if series == EACH else named)
    acquisition = acquisition.loc[headers.pop("old")].set_index(headers.index)
    quarantine = pd.concat([quarantine[["path", "kind", "reason"]], strays[stray != ""]])
    return headers, acquisition, quarantine.reset_index(drop=True)


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
    for column, kind in ID_KINDS.items():
        names = table[column]
        public = names.str.fullmatch(competition_id_pattern(kind, key)).to_numpy(bool)
        number, distinct = pd.factorize(names.where(~public))
        width = len(str(len(distinct)))
        numbered = [f"{kind}-{place + 1:0{width}}" for place in range(len(distinct))]
        numbered_names = np.array([*numbered, ""], object)[number]
        table[column] = np.where(public, names.to_numpy(object), numbered_names)
    return table.set_index("slice_id")
