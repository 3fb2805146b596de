"""The verb `score`: probabilities of studies that are not part of a run."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ct.checks.series_choice import PASSED_OVER, READ
from ct.errors import InputError, number_of
from ct.sources.folder import Folder
from ct.sources.zip_archive import ZipArchive
from ct.storage.atomic_write import discard, replacing
from ct.storage.file_formats import write_json
from pipeline.checked_options import ScoreOptions
from pipeline.progress import Bar, log, progress_bar
from pipeline.receipt import versions
from pipeline.run_lock import check_fresh, opened
from pipeline.scoring.packed_model import model_of_folder
from pipeline.scoring.reached_points import (
    points_in_words,
    reached_of_studies,
    write_reached_tables,
)
from pipeline.scoring.score_tables import (
    remark_table,
    series_sheet,
    slice_table,
    study_table,
    write_score_tables,
)
from pipeline.scoring.scoring_model import (
    STAGES,
    ScoringModel,
    model_of_run,
    other_versions,
    with_distilled,
)
from pipeline.scoring.slice_scores import score_slices
from pipeline.scoring.structured_report import require_highdicom
from pipeline.scoring.study_export import (
    REPORTS,
    write_structured_reports,
    write_studies_json,
)
from pipeline.scoring.study_reader import NewStudies, open_source, read_new_studies
from report.scored_studies_page import ScoredStudies, write_scored_page
from stage1_cnn.device import pick_device

SHOWN_REMARKS = 20  # remarks on the command line; the rest are in remarks.csv


def score(options: ScoreOptions) -> None:
    """Score the studies of a folder or zip with the models of a run, or of a packed folder."""
    if options.model:
        print(f"score: with the model {options.model}")
        model = with_distilled(model_of_folder(options.model), options.fast)
        score_studies(model, options, log, progress_bar)
        return
    with opened(options) as run:
        check_fresh(run, "score", STAGES)
        print(f"score: with the models of {options.run}")
        model = with_distilled(model_of_run(run), options.fast)
        score_studies(model, options, run.log, run.bar)


def score_studies(
    model: ScoringModel,
    options: ScoreOptions,
    log: Callable[[str], None],
    bar: Callable[..., Bar],
) -> None:
    """Score all studies in a folder or zip archive and write the new folder `options.to`.

    log, bar: as in pipeline.progress

    Raises InputError where that folder exists, where there are no files, or where no study can be
    scored; the tables then give the reasons.
    """
    start, to, device = time.perf_counter(), Path(options.to), pick_device(options.device)
    source, files = _checked_source(options)
    if note := other_versions(model):
        log(f"  {note}")
    with replacing(to, among_users=True) as part:
        part.mkdir()
        key, pixels = model.key or secrets.token_bytes(32), part / "pixels"
        new = read_new_studies((source, files), model, key, pixels, options, bar)
        final, stage_one = score_slices(model, new.slices, new.read_hu, device, bar)
        studies, remarks = study_table(new, final, model), remark_table(new.findings)
        slices, series = slice_table(new, final), series_sheet(new)
        write_score_tables(part, new, final, studies, remarks)
        write_reached_tables(part, model, slices, studies)
        write_studies_json(part / "studies.json", studies, slices, remarks)
        if options.dicom_sr:
            tables = (studies, slices, new.acquisition, new.slab_of)
            write_structured_reports(part / REPORTS, source, tables, model.recipe.name, log)
        write_json(part / "score.json", _provenance(model, device, studies, new))
        reached = reached_of_studies(model, studies), points_in_words(model)
        left_out = int((new.quarantine["kind"] != "pixels").sum())
        page = ScoredStudies(
            studies, final, stage_one, remarks, new.read_hu, *reached, series, left_out
        )
        write_scored_page(part / "page.html", model.recipe.name, page)
        discard(pixels)
    _log_summary(log, studies, remarks, len(new.quarantine))
    _log_choice(log, series)
    log(
        f"  wrote {to} in {time.perf_counter() - start:.1f} s; "
        "its names.csv links studies to your files: keep it private"
    )
    if final.empty:
        why = f"{to / 'quarantine.csv'} says"
        if not studies.empty:
            why = f"{to / 'studies.csv'} and {to / 'quarantine.csv'} say"
        raise InputError(f"no study could be scored; {why} why")


def _provenance(
    model: ScoringModel, device: torch.device, studies: pd.DataFrame, new: NewStudies
) -> dict[str, Any]:
    """Return score.json: which model, device and package versions made the counted scores."""
    return {
        "recipe": model.recipe.name,
        "device": device.type,
        "studies": studies["status"].value_counts().to_dict(),
        "slices": int(studies["scored_slices"].sum()),
        "quarantined": len(new.quarantine),
        "made_with": model.versions,
        "scored_with": versions(),
        **({"fast": True} if model.fast else {}),
    }


def _checked_source(options: ScoreOptions) -> tuple[Folder | ZipArchive, list[str]]:
    """Return the source of the studies and the names of its files.

    Raises InputError where the target folder exists and is not empty, or lies in the data, and
    where highdicom or the data are missing.
    """
    to, data = Path(options.to), options.data
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"--to={to} is there already; name a new folder")
    if Path(data).resolve() in to.resolve().parents:
        raise InputError(
            f"--to={to} lies in --data={data}, among the files to be scored; "
            "name a folder elsewhere"
        )
    if options.dicom_sr:
        require_highdicom()
    source, files = open_source(data)
    source.quarantine_unreadable = options.quarantine_unreadable
    return source, files


def _log_summary(
    log: Callable[[str], None],
    studies: pd.DataFrame,
    remarks: pd.DataFrame,
    quarantined: int,
) -> None:
    """Log the number of scored and refused studies, and the first remarks, one a line."""
    status = studies["status"].value_counts()
    log(
        f"  {number_of(status.get('scored', 0), 'study')} scored, "
        f"{number_of(studies['scored_slices'].sum(), 'slice')}; "
        f"{number_of(status.get('refused', 0), 'study')} refused"
    )
    if quarantined:
        log(f"  {number_of(quarantined, 'file')} in quarantine.csv, each with its reason")
    for remark in remarks.to_dict("records")[:SHOWN_REMARKS]:
        where = f"{remark['study_id']} {remark['series_id']}".strip()
        refused = "refused, " if remark["refuses"] else ""
        log(f"  {where}: {refused}{remark['what']}: {remark['means']}")
    if len(remarks) > SHOWN_REMARKS:
        log(f"  and {number_of(len(remarks) - SHOWN_REMARKS, 'more remark')} in remarks.csv")


def _log_choice(log: Callable[[str], None], series: pd.DataFrame) -> None:
    """Log how many series were passed over, and of the first studies which one is read, and why."""
    passed_over = series[series["status"] == PASSED_OVER]
    if passed_over.empty:
        return
    log(f"  {len(passed_over)} series passed over; series.csv has the reasons")
    chosen = series[(series["status"] == READ) & series["study_id"].isin(passed_over["study_id"])]
    for row in chosen.to_dict("records")[:SHOWN_REMARKS]:
        log(f"  {row['study_id']}: read {row['series_id']}: {row['reason']}")
