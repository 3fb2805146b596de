"""What `evaluate` measures of a table of predictions: join its labels by id."""

import numpy as np
import pandas as pd
from scipy.special import expit

from ct.errors import InputError
from ct.evaluation.label_figures import Evaluated
from ct.labels import LABELS
from ct.tables.labelled_table import LabelledTable
from pipeline.evaluation.label_matching import complete_rows, patient_numbers, study_truth
from pipeline.evaluation.scored_data import EvaluatedData
from stage2_stack.study_level import top_logits

COLUMNS = list(LABELS)
CLIP = 1e-5  # of the probabilities, before the logits of whole studies
KINDS = {True: "slices", False: "studies"}


def evaluate_predictions(
    predictions: LabelledTable, labels: LabelledTable, where: str
) -> EvaluatedData:
    """Join labels to predictions of the same kind, slices or studies.

    Slices of a table with a column of studies are measured per study, too: by the mean of a study's
    three largest logits, which is not calibrated. Raises InputError where they share no id, or
    where one is per slice and the other per study.
    """
    if predictions.per_slice != labels.per_slice:
        raise InputError(
            f"{where} has {KINDS[predictions.per_slice]}, --labels has {KINDS[labels.per_slice]}; "
            "both should be of the same kind"
        )
    truth = complete_rows(labels.values)
    ids = predictions.values.index.intersection(truth.index, sort=False)
    if ids.empty:
        raise InputError(f"{where} and --labels share no id; name slices or studies alike in both")
    groups = predictions.groups.reindex(ids).combine_first(labels.groups.reindex(ids))
    notes = ["Whether these predictions are of patients that the model was trained on is unknown."]
    study, patient = (groups.get(name) for name in ("study", "patient"))
    if patient is None:
        patient = pd.Series(ids, ids) if study is None else study
        each = "slice" if study is None and labels.per_slice else "study"
        notes.append(
            f"The tables have no column patient_id: each {each} counts as a patient, "
            "so the intervals are too narrow where a patient has several."
        )
    truth, probs = truth.loc[ids], predictions.values.loc[ids]
    counts = {
        "incomplete_labels": len(labels.values) - len(complete_rows(labels.values)),
        "labels_without_predictions": len(complete_rows(labels.values)) - len(ids),
        "predictions_without_labels": len(predictions.values) - len(ids),
    }
    levels = {KINDS[labels.per_slice]: _evaluated(truth, probs, patient)}
    if labels.per_slice and study is not None:
        levels["studies"] = _of_studies(truth, predictions, study, patient)
        notes.append("Of a study: the mean of its three largest logits, which is not calibrated.")
    return EvaluatedData(levels, pd.DataFrame(), pd.DataFrame(), counts, notes)


def _of_studies(
    truth: pd.DataFrame, predictions: LabelledTable, study: pd.Series, patient: pd.Series
) -> Evaluated:
    """Return the whole studies of slices."""
    of_study = study_truth(truth, predictions.groups.get("study", study))
    top = top_logits(study.to_numpy(object), predictions.values.loc[truth.index].to_numpy(), CLIP)
    first = patient.groupby(study).first()
    probs = pd.DataFrame(expit(top), index=top.index, columns=COLUMNS)
    return _evaluated(of_study, probs.loc[of_study.index], first.reindex(of_study.index))


def _evaluated(truth: pd.DataFrame, probs: pd.DataFrame, patient: pd.Series) -> Evaluated:
    no_groups = pd.DataFrame(index=truth.index)
    numbers: np.ndarray = patient_numbers(patient)
    return Evaluated(truth[COLUMNS], probs[COLUMNS], numbers, no_groups)
