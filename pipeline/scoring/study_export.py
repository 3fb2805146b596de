"""The answers of `score` for other systems: one JSON of all studies, and structured reports."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydicom import Dataset

from ct.dicom.dataset_parser import quiet_pydicom
from ct.dicom.enhanced_ct import open_slice_header
from ct.errors import InputError, number_of
from ct.labels import LABELS
from ct.sources.file_reader import read_each
from ct.sources.frames import Frame
from ct.sources.source import Source, SourceFile
from ct.storage.file_formats import write_json
from pipeline.scoring.structured_report import (
    StudyProbabilities,
    SuspiciousSlice,
    structured_report,
    why_no_report,
)

FORMAT = "ich-stack studies 1"
SUSPICIOUS_SLICES = 3  # of each label; the study's probability is that of three slices, too
NIFTI = "NIfTI has no DICOM study"
REPORTS = "dicom-sr"  # folder of the structured reports, which only its owner may read


def write_studies_json(
    path: Path, studies: pd.DataFrame, slices: pd.DataFrame, remarks: pd.DataFrame
) -> None:
    """Write the studies, their slices and remarks as one JSON; docs/own-studies.md describes it.

    studies, remarks: as returned by study_table and remark_table; slices: as returned by
    slice_table

    A probability is null where a study is refused.
    """
    of_study = dict(iter(slices.groupby("study_id", sort=False)))
    remarks_of = dict(iter(remarks.groupby("study_id", sort=False)))
    entries = []
    for study, row in studies.iterrows():
        rows = of_study.get(study, slices.iloc[:0])
        entries.append(
            {
                "study_id": study,
                "status": row["status"],
                "probabilities": _probabilities(row),
                "remarks": [
                    {
                        "series_id": remark["series_id"] or None,
                        "refuses": bool(remark["refuses"]),
                        "what": remark["what"],
                        "means": remark["means"],
                    }
                    for remark in remarks_of.get(study, remarks.iloc[:0]).to_dict("records")
                ],
                "slices": [
                    {
                        "slice_id": slice_id,
                        "series_id": slice_row["series_id"],
                        "probabilities": _probabilities(slice_row),
                    }
                    for slice_id, slice_row in rows.iterrows()
                ],
            }
        )
    write_json(path, {"format": FORMAT, "labels": list(LABELS), "studies": entries})


def write_structured_reports(
    folder: Path,
    source: Source,
    tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.Series],
    model: str,
    log: Callable[[str], None],
) -> None:
    """Write a structured report of each scored study to the new folder `folder`.

    tables: (studies, slices, paths, slab_of), as returned by study_table and slice_table, `path` in
    `source` and `dicom` of each slice, as returned by read_acquisition, and slab_of of NewStudies;
    model: its name

    A study that cannot be referenced has none, and the log gives the reason. Raises InputError
    where a study's header is not readable any more, MachineFault.
    """
    studies, slices, acquisition, slab_of = tables
    folder.mkdir(mode=0o700)
    written = 0
    ascii_name = model.encode("ascii", "replace").decode()
    for study, rows in slices.groupby("study_id", sort=False):
        with quiet_pydicom():
            files = acquisition.loc[rows.index]
            headers = _headers(source, files["path"]) if files["dicom"].all() else []
            reason = why_no_report([header for header, _ in headers]) if headers else NIFTI
            if reason:
                log(f"  {study}: no structured report: {reason}")
                continue
            places = _shown_places(rows.index, slab_of)
            probabilities = _study_probabilities(studies.loc[study], rows, headers, places)
            report = structured_report([header for header, _ in headers], probabilities, ascii_name)
            _save_private(report, folder / f"{study}.dcm")
        written += 1
    if not written:
        log(f"  0 structured reports in {REPORTS}/, for these reasons")
        return
    log(
        f"  {number_of(written, 'structured report')} in {REPORTS}/, with names and identifiers of "
        "patients, so that an archive can file them; keep the folder where the originals are kept"
    )


def _headers(source: Source, paths: pd.Series) -> list[tuple[Dataset, int | None]]:
    """Return (header, number of the frame or None) of a study's slices, in order.

    paths: of the slices, by slice_id
    """
    headers = []
    read = read_each(_header, source.select(paths.tolist()))
    for slice_id, (header, reason, _) in zip(paths.index, read, strict=True):
        if header is None:
            raise InputError(
                f"--dicom-sr: {slice_id} does not read any more: {reason}; score again"
            )
        headers.append(header)
    return headers


def _header(file: SourceFile) -> tuple[Dataset, int | None]:
    return open_slice_header(file), file.number if isinstance(file, Frame) else None


def _shown_places(slice_ids: pd.Index, slab_of: pd.Series) -> NDArray[np.intp]:
    """Return the places of the slices of a study that can be the most suspicious.

    Those of a slab are all as suspicious: its middle slice stands for them.
    """
    slabs = slab_of.reindex(slice_ids)
    return np.flatnonzero(slabs.isna() | (slabs == slice_ids))


def _study_probabilities(
    study: pd.Series,
    rows: pd.DataFrame,
    headers: list[tuple[Dataset, int | None]],
    places: NDArray[np.intp],
) -> StudyProbabilities:
    """Return one study's probabilities, and the most suspicious of the slices at `places`."""
    suspicious = {}
    for label in LABELS:
        values = rows[label].to_numpy(np.float64)
        order = places[np.argsort(-values[places], kind="stable")][:SUSPICIOUS_SLICES]
        suspicious[label] = [
            SuspiciousSlice(header=headers[i][0], frame=headers[i][1], probability=float(values[i]))
            for i in order
        ]
    return StudyProbabilities({label: float(study[label]) for label in LABELS}, suspicious)


def _save_private(report: Dataset, path: Path) -> None:
    """Write a data set to a new file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        report.save_as(file, enforce_file_format=True)


def _probabilities(row: pd.Series) -> dict[str, Any]:
    return {label: float(row[label]) for label in LABELS}
