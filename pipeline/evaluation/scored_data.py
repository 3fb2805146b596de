"""What `evaluate` measures of DICOM studies: score them, and join their labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ct.errors import InputError, number_of
from ct.evaluation.label_figures import Evaluated
from ct.evaluation.series_groups import range_table, series_groups
from ct.label_tables.public_data import is_image_of
from ct.labels import LABELS
from pipeline.checked_options import EvaluateOptions, ScoreOptions
from pipeline.evaluation.label_matching import (
    Truth,
    complete_rows,
    contradiction_notes,
    labelled_studies,
    scored_truth,
    study_truth,
)
from pipeline.progress import Bar
from pipeline.scoring.score_tables import remark_table, slice_table, study_table
from pipeline.scoring.scoring_model import ScoringModel
from pipeline.scoring.slice_scores import score_slices
from pipeline.scoring.study_reader import NewStudies, open_source, read_new_studies

COLUMNS = list(LABELS)
MOST_NAMED = 3  # training patients in the message


@dataclass(frozen=True)
class EvaluatedData:
    """What is measured.

    levels:   {"slices" or "studies": Evaluated}; labels of studies give no slices
    ranges:   the data beside the training ranges, empty for a table of predictions
    remarks:  as in score's remarks.csv
    counts:   what was left out, {what: number}
    notes:    sentences for the page and the command line
    """

    levels: dict[str, Evaluated]
    ranges: pd.DataFrame
    remarks: pd.DataFrame
    counts: dict[str, int]
    notes: list[str]


def evaluate_studies(
    model: ScoringModel,
    labels: pd.DataFrame,
    key: bytes,
    work: Path,
    options: EvaluateOptions,
    device: torch.device,
    bar: Callable[..., Bar],
) -> EvaluatedData:
    """Score the labelled studies of a folder or zip, and join their labels.

    labels: a label table (ct/label_tables/own_labels.py); key, work, bar: as in read_new_studies

    Raises InputError for studies of training patients without options.known_patients, and where no
    labelled study is left.
    """
    new = _read(model, key, work, options, bar)
    names = new.headers[["study_id", "patient_id", "training_patient"]].join(
        new.acquisition[["path", "slice_key", "series_key", "study_key", "patient_key"]]
    )
    read = names.index.isin(new.slices.index) | names.index.isin(new.slab_of.index)
    truth = scored_truth(labels, names.assign(read=read), key, f"--labels={options.labels}")
    labelled = labelled_studies(truth.values, truth.per_slice, names["study_id"])
    _check_patients(names[names["study_id"].isin(labelled)], options)
    new = _only(new, labelled)
    if new.slices.empty:
        raise InputError(
            f"--data={options.data}: none of the {len(labelled)} labelled studies can be scored; "
            "`score` lists the reasons, --anyway scores them all the same"
        )
    final, _ = score_slices(model, new.slices, new.read_hu, device, bar)
    levels, counts = _levels(new, final, truth, names["study_id"], model)
    return EvaluatedData(
        levels,
        range_table(new.slices, _read_thickness(new), model.stage2["training"]),
        remark_table([f for f in new.findings if f.study_id in labelled]),
        {"unlabelled_studies": names["study_id"].nunique() - len(labelled)} | counts,
        _notes(model, names[names["study_id"].isin(labelled)])
        + contradiction_notes(truth.values, truth.per_slice),
    )


def _read(
    model: ScoringModel,
    key: bytes,
    work: Path,
    options: EvaluateOptions,
    bar: Callable[..., Bar],
) -> NewStudies:
    """Read the studies; of a public data set the images alone."""
    assert options.data is not None
    fields = {n: v for n, v in options.model_dump().items() if n in ScoreOptions.model_fields}
    source, files = open_source(options.data)
    files = [name for name in files if is_image_of(options.format or "own", name)]
    return read_new_studies((source, files), model, key, work, ScoreOptions(**fields), bar)


def _read_thickness(new: NewStudies) -> pd.Series:
    """Return the thickness, mm, of what the models read; NaN for a slab, whose step is known."""
    thickness = new.acquisition["thickness_mm"]
    return thickness.mask(thickness.index.isin(set(new.slab_of)))


def _check_patients(names: pd.DataFrame, options: EvaluateOptions) -> None:
    """Raise InputError where studies are of patients of the training data, by their pseudonyms."""
    known = names.loc[names["training_patient"] != "", ["study_id", "training_patient"]]
    if known.empty or options.known_patients:
        return
    patients = list(dict.fromkeys(known["training_patient"]))
    shown = ", ".join(patients[:MOST_NAMED]) + (", ..." if len(patients) > MOST_NAMED else "")
    raise InputError(
        f"--data={options.data}: labelled studies are of patients of the run's training data: "
        f"{number_of(known['study_id'].nunique(), 'study')} of "
        f"{number_of(len(patients), 'patient')} ({shown}); leave them out of "
        "--labels, or add --known-patients: the fold that never saw a patient then predicts them"
    )


def _notes(model: ScoringModel, names: pd.DataFrame) -> list[str]:
    """Return what the figures do not show of the patients and the CNNs. names: of their slices"""
    notes, known = [_patients_note(model, names)], names["training_patient"] != ""
    if model.fast:
        studies = names.loc[~known, "study_id"].nunique()
        notes.append(
            f"By the distilled CNN alone (--fast): {number_of(studies, 'study')}; studies of "
            "training patients by the CNNs of their fold."
        )
    if any(cnn.pseudo_from for cnn in model.recipe.stage1.models):
        notes.append(
            "CNNs with pseudo_from were trained on the run's test slices, too, without their "
            "labels: figures of these slices may be too good."
        )
    return notes


def _patients_note(model: ScoringModel, names: pd.DataFrame) -> str:
    """Return what is known of training patients among the evaluated ones."""
    if model.patients is None:
        return (
            "A packed model lists no patients: whether these studies are of patients of its "
            "training data cannot be checked. For such studies the figures are too good."
        )
    known = names.loc[names["training_patient"] != "", "study_id"].nunique()
    if not known:
        return "No evaluated study is of a patient of the run's training data."
    return (
        f"Of patients of the run's training data: {number_of(known, 'evaluated study')}. The "
        "models of the fold that never saw them predict them (--known-patients)."
    )


def _only(new: NewStudies, studies: set[str]) -> NewStudies:
    """Return the scored slices of some studies alone."""
    chosen = new.slices["study_id"].isin(studies).to_numpy()
    rows, read = chosen.nonzero()[0], new.read_hu
    return replace(
        new,
        headers=new.headers[new.headers["study_id"].isin(studies)],
        slices=new.slices[chosen],
        slab_of=new.slab_of[new.slab_of.isin(new.slices.index[chosen])],
        read_hu=lambda numbers, out=None: read(rows[numbers], out),
    )


def _levels(
    new: NewStudies, final: pd.DataFrame, labels: Truth, study_of: pd.Series, model: ScoringModel
) -> tuple[dict[str, Evaluated], dict[str, int]]:
    """Return the evaluated slices and studies, and counts of what was left out.

    study_of: the study of every slice of the data, scored or not
    """
    of_slice = slice_table(new, final)  # the slices of a slab have its probabilities
    groups = series_groups(new.headers.loc[of_slice.index], new.acquisition)
    truth, levels = complete_rows(labels.values), {}
    patients = new.headers["patient_id"]
    of_study = study_table(new, final, model)
    of_study = of_study[of_study["status"] == "scored"]
    counts = {
        "incomplete_labels": len(labels.values) - len(truth),
        "unmatched_labels": labels.unused,
        "unclear_studies": labels.unclear,
    }
    if labels.per_slice:
        rows = truth.index.intersection(of_slice.index, sort=False)
        levels["slices"] = _evaluated(
            truth.loc[rows], of_slice, patients.reindex(rows), groups.reindex(rows)
        )
        counts["labels_without_a_scored_slice"] = len(truth) - len(rows)
        truth = study_truth(truth, study_of.reindex(truth.index), of_slice["study_id"])
        counts["partly_labelled_studies"] = len(of_study) - len(truth)
    studies = truth.index.intersection(of_study.index, sort=False)
    by_study = of_slice["study_id"]
    levels["studies"] = _evaluated(
        truth.loc[studies],
        of_study,
        of_study["patient_id"].reindex(studies),
        groups.groupby(by_study.to_numpy()).first().reindex(studies),
    )
    return {name: level for name, level in levels.items() if len(level.truth)}, counts


def _evaluated(
    truth: pd.DataFrame, probs: pd.DataFrame, patients: pd.Series, groups: pd.DataFrame
) -> Evaluated:
    return Evaluated(
        truth[COLUMNS], probs.loc[truth.index, COLUMNS], patients.to_numpy(object), groups
    )


def table_values(data: EvaluatedData) -> dict[str, Any]:
    """Return the plain values of the ranges, the notes and the counts, for evaluation.json."""
    ranges: list[Any] = data.ranges.to_dict("records")
    return {"left_out": data.counts, "training_ranges": ranges, "notes": data.notes}
