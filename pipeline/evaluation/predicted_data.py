"""What `evaluate` measures of a table of predictions: join its labels by their keys."""

import secrets

import numpy as np
import pandas as pd
from scipy.special import expit

from ct.errors import InputError, number_of
from ct.evaluation.label_figures import Evaluated
from ct.label_tables.label_columns import key_kinds
from ct.label_tables.label_match import match_labels
from ct.label_tables.own_labels import names_slices
from ct.labels import LABELS
from ct.privacy.pseudonyms import pseudonym
from pipeline.evaluation.label_matching import (
    complete_rows,
    contradiction_notes,
    patient_numbers,
    study_truth,
)
from pipeline.evaluation.scored_data import EvaluatedData
from stage2_stack.study_level import top_logits

COLUMNS = list(LABELS)
CLIP = 1e-5  # of the probabilities, before the logits of whole studies


def evaluate_predictions(
    predictions: pd.DataFrame, labels: pd.DataFrame, where: str
) -> EvaluatedData:
    """Join labels to predictions of the same kind, slices or studies.

    predictions, labels: label tables (ct/label_tables/own_labels.py), with probabilities and labels

    Slices of a table with a column of studies are measured per study, too: by the mean of a study's
    three largest logits, which is not calibrated. Raises InputError where no row of the one names
    a row of the other, or where one is per slice and the other per study.
    """
    if names_slices(labels) and not names_slices(predictions):
        raise InputError(f"{where} has studies, --labels has slices; both should be alike")
    key = secrets.token_bytes(32)
    rows = _as_slices(predictions, key, where)
    match = match_labels(labels, rows, key, "--labels")
    per_slice, known = match.level == "slice", match.row >= 0
    if not per_slice and len(np.unique(match.row[known])) < known.sum():
        raise InputError(f"{where} has slices, --labels has studies; both should be alike")
    matched = labels.iloc[match.row[known]].set_axis(predictions.index[known])
    truth = complete_rows(matched[COLUMNS])
    counts = {
        "incomplete_labels": len(matched) - len(truth),
        "labels_without_predictions": match.unused,
        "predictions_without_labels": len(predictions) - len(matched),
    }
    study = _groups("study", predictions, matched)
    patient, notes = _patients(study, _groups("patient", predictions, matched), per_slice, truth)
    levels = {
        "slices" if per_slice else "studies": _evaluated(
            truth, predictions.loc[truth.index], patient[truth.index]
        )
    }
    if per_slice and study is not None and study.notna().any():
        others = labels.drop(labels.index[match.row[known]])
        more, unknown = _more_labels(others, matched, study)
        levels["studies"] = _of_studies(truth, more, predictions, study, patient)
        notes.append("Of a study: the mean of its three largest logits, which is not calibrated.")
        if unknown:
            notes.append(
                f"The study of {number_of(unknown, 'label')} without a prediction is unknown: a "
                "study counts as negative where such a slice alone is positive."
            )
    notes += contradiction_notes(matched, per_slice)
    levels = {name: level for name, level in levels.items() if len(level.truth)}
    return EvaluatedData(levels, pd.DataFrame(), pd.DataFrame(), counts, notes)


def _of_kind(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Return {kind: its first column of keys}, finest first; see ct.label_tables.label_columns."""
    kinds = key_kinds([name for name in table.columns if name not in LABELS])
    first = {kind: name for name, kind in reversed(kinds.items())}
    return {kind: table[first[kind]] for kind in dict.fromkeys(kinds.values())}


def _as_slices(table: pd.DataFrame, key: bytes, where: str) -> pd.DataFrame:
    """Return the keys of a table as those of a header table, to match labels with them.

    A column that may name anything stands for each kind that has no column. Raises InputError where
    two rows have one name.
    """
    columns = _of_kind(table)
    anything = columns.get("id", columns.get("index"))
    names = {
        kind: columns.get(kind, anything if anything is not None else pd.Series("", table.index))
        for kind in ("slice", "series", "study", "patient", "folder", "file")
    }
    folders = (names["folder"], names["study"], names["patient"])
    folder = next((column for column in folders if (column != "").any()), names["folder"])
    path = folder + "/" + names["file"]
    finest = next(iter(columns))
    twice = (path if finest == "file" else columns[finest]).duplicated()
    if twice.any():
        raise InputError(f"{where}: row {int(np.argmax(twice)) + 1} repeats a name; keep one row")
    ids = {
        f"{kind}_id": names[kind].map(lambda name, kind=kind: pseudonym(name, key, kind))
        for kind in ("series", "study", "patient")
    }
    index = names["slice"].map(lambda name: pseudonym(name, key, "slice"))
    return pd.DataFrame(ids | {"path": path}).set_axis(pd.Index(index, name="slice_id"))


def _groups(kind: str, predictions: pd.DataFrame, matched: pd.DataFrame) -> pd.Series | None:
    """Return the study or patient of the predictions, of their labels where only these have it.

    It is NaN where the cell is empty, and None where neither table has the column.
    """
    column = _of_kind(predictions).get(kind)
    if column is None and (of_labels := _of_kind(matched).get(kind)) is not None:
        column = of_labels.reindex(predictions.index)
    return None if column is None else column.mask(column == "")


def _patients(
    study: pd.Series | None, patient: pd.Series | None, per_slice: bool, truth: pd.DataFrame
) -> tuple[pd.Series, list[str]]:
    """Return the patient of each row, and notes on what is not known of them."""
    notes = ["Whether these predictions are of patients that the model was trained on is unknown."]
    if patient is None:
        patient = pd.Series(truth.index, truth.index) if study is None else study
        each = "slice" if study is None and per_slice else "study"
        notes.append(
            f"The tables have no column patient_id: each {each} counts as a patient, "
            "so the intervals are too narrow where a patient has several."
        )
    rows = pd.Series(patient.index, patient.index).astype(object)
    known = patient if study is None else patient.where(patient.notna(), study)
    return known.where(known.notna(), rows), notes


def _more_labels(
    others: pd.DataFrame, matched: pd.DataFrame, study: pd.Series
) -> tuple[pd.DataFrame, int]:
    """Return the complete labels of slices without predictions, with their column "study".

    others, matched: rows of the label table, the latter under the index of the predictions; study:
    of the predictions. The study of a label is that of the predictions whose labels name the same
    study. Returns (labels, number of those whose study is unknown).
    """
    more, named = complete_rows(others[COLUMNS]), _of_kind(others).get("study")
    if named is None:
        return more.assign(study=None).iloc[:0], len(more)
    same = study.reindex(matched.index).groupby(_of_kind(matched)["study"].to_numpy(object)).first()
    more = more.assign(study=named.reindex(more.index).map(same))
    unknown = (named.reindex(more.index) == "").sum()
    return more.dropna(subset="study"), int(unknown)


def _of_studies(
    truth: pd.DataFrame,
    more: pd.DataFrame,
    predictions: pd.DataFrame,
    study: pd.Series,
    patient: pd.Series,
) -> Evaluated:
    """Return the whole studies of slices.

    more: as returned by _more_labels; study: of the predictions, NaN where it is unknown
    """
    study = study.dropna()
    truth = truth.loc[truth.index.intersection(study.index, sort=False)]
    every = pd.concat([truth, more[COLUMNS].set_axis([("", n) for n in range(len(more))])])
    of_labels = pd.concat([study[truth.index], more["study"]])
    of_study = study_truth(every, of_labels, study)
    names = study[truth.index].to_numpy(object)
    top = top_logits(names, predictions.loc[truth.index, COLUMNS].to_numpy(), CLIP)
    first = patient.groupby(study).first()
    probs = pd.DataFrame(expit(top), index=top.index, columns=COLUMNS)
    return _evaluated(of_study, probs.loc[of_study.index], first.reindex(of_study.index))


def _evaluated(truth: pd.DataFrame, probs: pd.DataFrame, patient: pd.Series) -> Evaluated:
    no_groups = pd.DataFrame(index=truth.index)
    numbers: np.ndarray = patient_numbers(patient)
    return Evaluated(truth[COLUMNS], probs[COLUMNS], numbers, no_groups)
