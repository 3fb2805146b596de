"""Operating points of a run: thresholds chosen on its out-of-fold probabilities."""

from typing import Any

import numpy as np
import pandas as pd

from ct.evaluation.operating_points import points_of_labels
from ct.labels import LABELS
from ct.storage.file_formats import read_table
from pipeline.run_context import Run
from pipeline.stage_data.run_tables import patients_of_folds


def points_of_run(run: Run, train: pd.DataFrame, studies: pd.DataFrame) -> dict[str, Any]:
    """Return {"slices" or "studies": {label: {name: operating point}}}.

    train: slice table; studies: as returned by stage2_stack.study_level.fit_studies, whose
    probabilities are calibrated without the study's fold
    """
    slices = read_table(run.dir.slices)
    patients = pd.Series(patients_of_folds(run.dir, slices), index=slices.index)[train.index]
    labelled = train[list(LABELS)].notna().all(axis=1).to_numpy()
    oof = read_table(run.dir.stage2 / "oof.parquet").reindex(train.index)
    of_study = patients.groupby(train["study_id"]).first().reindex(studies.index)
    tables = {
        "slices": (train[labelled], oof[labelled], list(LABELS), patients[labelled]),
        "studies": (studies, studies, [f"p_{label}" for label in LABELS], of_study),
    }
    points = {}
    for level, (labels, probabilities, columns, patient) in tables.items():
        points[level] = points_of_labels(
            labels[list(LABELS)].to_numpy(np.float64),
            probabilities[columns].to_numpy(np.float64),
            patient.to_numpy(object),
            run.recipe.folds.k,
            run.recipe.seed,
        )
    return points
